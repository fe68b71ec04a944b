"""The fast decoder of a base: an optional small network (TAESD) that decodes the same latents.

    fast_decoder/config.json  fast_decoder/diffusion_pytorch_model.safetensors  fast_decoder/manifest.json

It is no part of the base's identity: the base's manifest does not name these files, and bundles do not refer to them.
So it can be added to a base after concepts were learned on it. Its own manifest has the hashes of its files.
"""

import json
from pathlib import Path
from typing import Any

from opad_core.bases.manifest import Manifest, hash_of
from opad_core.errors import OpadError

FAST_DECODER = "fast_decoder"
"""Its folder in the base's folder."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
FILES = ("config.json", WEIGHTS)


def verified_fast_decoder(base_folder: Path, manifest: Manifest) -> Path:
    """Return the folder of a base's fast decoder.

    Raises OpadError if a file is missing or has not the recorded hash, and for a decoder of other latents or sizes.
    """
    folder = base_folder / FAST_DECODER
    hashes = recorded_hashes(base_folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise OpadError(f"{folder / name} is missing from the fast decoder; install it again")
        if hash_of(folder / name) != hashes.get(name):
            raise OpadError(f"{folder / name} differs from the hash in the fast decoder's manifest; install it again")
    if reason := misfit(json.loads((folder / "config.json").read_text()), base_folder, manifest):
        raise OpadError(f"{folder} does not fit the base {manifest.name!r}: {reason}; install it again")
    return folder


def recorded_hashes(base_folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file from the decoder's manifest; empty if that is missing or damaged."""
    try:
        hashes: dict[str, str] = json.loads((base_folder / FAST_DECODER / "manifest.json").read_text())["files"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return {}
    return hashes


def misfit(decoder: dict[str, Any], base_folder: Path, manifest: Manifest) -> str | None:
    """Return why a decoder with this configuration cannot decode the base's latents; None if it can."""
    student = json.loads((base_folder / "student/unet/config.json").read_text())
    if decoder.get("_class_name") != "AutoencoderTiny":
        return f"it is a {decoder.get('_class_name')}, not an AutoencoderTiny"
    # A configuration may omit what its class has as a default.
    channels = decoder.get("latent_channels", 4)
    if channels != student["in_channels"]:
        return f"it reads {channels} channels, and the student's latents have {student['in_channels']}"
    stages = len(decoder.get("decoder_block_out_channels", (64,) * 4))
    scale = decoder.get("upsampling_scaling_factor", 2) ** (stages - 1)
    if scale * student["sample_size"] != manifest.resolution:
        return f"it enlarges {scale} times, and {student['sample_size']} latents are {manifest.resolution} pixels"
    return None
