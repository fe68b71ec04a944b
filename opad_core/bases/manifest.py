"""The manifest of a base: `manifest.json` in its folder."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opad_core.errors import OpadError

FORMAT = 2
"""Format 2 renamed fields of the presets, and `licenses`."""


@dataclass(frozen=True)
class Manifest:
    name: str
    resolution: int
    """Side of an image in pixels."""
    nouns: list[str] | None
    """Class nouns that the base knows; None if it accepts any."""
    words: list[str] | None
    templates: list[str]
    """Training prompts with one `{}` and no scene."""
    scene_prompts: list[str]
    """Prompts that name a scene, each with one `{}`. Evaluation uses those that no training asks for."""
    presets: dict[str, dict[str, Any]]
    identity_tokens: int
    backbones: dict[str, dict[str, Any]]
    licenses: dict[str, str]
    files: dict[str, str]
    """SHA-256 of every file of the base, by its path in the folder."""
    sources: dict[str, str | None] = field(default_factory=dict)
    """The commit of each repository that a fetched base comes from; None if the mirror did not record it."""
    converted: dict[str, dict[str, str]] = field(default_factory=dict)
    """For each file that was converted from a pickle: the pickle's `repository`, `file` and `sha256`."""
    caption_scenes: list[str] = field(default_factory=list)
    """Scenes that the caption of a reference may name, each with one `{}`; empty: captions name no scene."""
    training_scenes: list[str] = field(default_factory=list)
    """Scenes that `scene_share` asks the student for, each with one `{}`."""

    student_text_encoder: dict[str, Any] | None = None
    """How the student's own text encoder, which is not kept, differs from the teacher's: the number of `tensors`, the
    names of `different` ones, and the `largest` difference. None if nobody compared them."""
    no_fast_decoder: str | None = None
    """Why this base has no fast decoder, in a sentence; None if one can be installed."""
    limits: str | None = None
    """What the base cannot learn and what to do about it, in a sentence that is shown before a training."""

    @property
    def sha256(self) -> str:
        """Identifies the base in bundles; changes with any weight."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()


def hash_of(file: Path) -> str:
    """Return a file's SHA-256. It is read in pieces, because a network may be larger than the free memory."""
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
