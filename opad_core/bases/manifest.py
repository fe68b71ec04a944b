"""What a base says of itself: `manifest.json` in its folder."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opad_core.errors import OpadError

FORMAT = 2
"""2 renamed fields of the presets and `licences`."""


@dataclass(frozen=True)
class Manifest:
    name: str
    resolution: int
    """Side of a picture in pixels."""
    nouns: list[str] | None
    """Class nouns the base knows; None when it reads any."""
    words: list[str] | None
    templates: list[str]
    """Training prompts with one `{}` and no scene."""
    scene_prompts: list[str]
    """Prompts that name a scene, each with one `{}`; the evaluation asks for those that no training asks for."""
    presets: dict[str, dict[str, Any]]
    identity_tokens: int
    backbones: dict[str, dict[str, Any]]
    licenses: dict[str, str]
    files: dict[str, str]
    """SHA-256 of every file of the base, by its path in the folder."""
    sources: dict[str, str | None] = field(default_factory=dict)
    """Of a fetched base, the commit of each repository it was assembled from; None where a mirror did not note it."""
    caption_scenes: list[str] = field(default_factory=list)
    """What a photo's caption may say of its scene, each with one `{}`; empty: photos have no scene in their prompts."""
    training_scenes: list[str] = field(default_factory=list)
    """What `scene_share` asks the student for, each with one `{}`."""

    @property
    def sha256(self) -> str:
        """Names the base in bundles; changes with any weight."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()


def hash_of(file: Path) -> str:
    """SHA-256, read piece by piece: a network may be larger than what memory is left beside the others."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise OpadError(f"no base at {folder}: it has no manifest.json") from None
    except ValueError as error:
        raise OpadError(f"{path} is not JSON: {error}") from error
    if (found := content.pop("format", None)) != FORMAT:
        raise OpadError(f"{path} has format {found}, and this version reads format {FORMAT}; fetch the base again")
    return Manifest(**content)
