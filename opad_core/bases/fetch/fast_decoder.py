"""Fetch the fast decoder of an installed base."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from opad_core.bases.fast_decoder import FAST_DECODER, FILES, misfit, recorded_hashes, verified_fast_decoder
from opad_core.bases.fetch.assemble import check_listed, checked
from opad_core.bases.fetch.description import read_config
from opad_core.bases.fetch.mirrors import Mirror
from opad_core.bases.fetch.recipes import TAESD
from opad_core.bases.manifest import read_manifest
from opad_core.errors import OpadError


def lacks_fast_decoder(base_folder: Path, name: str) -> bool:
    """Return whether the base of this name is installed in the folder, without a usable fast decoder."""
    if not (base_folder / "manifest.json").is_file() or (manifest := read_manifest(base_folder)).name != name:
        return False
    try:
        verified_fast_decoder(base_folder, manifest)
    except OpadError:
        return True
    return False


def fetch_fast_decoder(
    mirror: Mirror, base_folder: Path, *, like: Path | None = None, say: Callable[[str], None]
) -> None:
    """Put TAESD into the folder of an installed base, in place of a damaged one.

    `like` is the folder of a base whose fast decoder, if it has one, must have the same files. Raises OpadError for
    files that are missing, pickled, damaged or of another revision, and for a decoder of other latents.
    """
    available = mirror.files(TAESD)
    for name in FILES:
        check_listed(TAESD, name, available)
    say(f"{TAESD.place}: {TAESD.license}")
    partial = base_folder / f"{FAST_DECODER}.partial"
    partial.mkdir(exist_ok=True)
    hashes = {}
    for name in FILES:
        mirror.download(TAESD, name, partial)
        hashes[name] = checked(TAESD, name, available[name], partial / name)
    if reason := misfit(read_config(partial, "config.json"), base_folder, read_manifest(base_folder)):
        raise OpadError(f"{TAESD.name} does not fit the base in {base_folder}: {reason}")
    expected = {} if like is None else recorded_hashes(like)
    if differing := sorted(name for name in expected if hashes.get(name) != expected[name]):
        raise OpadError(f"files of the fast decoder that differ from the given one: {', '.join(differing)}")
    revisions = {available[name].revision for name in FILES}
    record = {
        "repository": TAESD.name,
        "commit": None if None in revisions else revisions.pop(),
        "license": TAESD.license,
        "files": hashes,
    }
    (partial / "manifest.json").write_text(json.dumps(record, indent=1) + "\n")
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # notes of the hub's client
    if (base_folder / FAST_DECODER).exists():
        shutil.rmtree(base_folder / FAST_DECODER)
    partial.replace(base_folder / FAST_DECODER)
