"""Where the networks of the published metrics are: a folder beside the bases, with a manifest like theirs."""

from pathlib import Path

from opad_core.bases.manifest import Manifest, read_manifest
from opad_core.errors import OpadError

METRICS = "metrics"
"""The folder's name, and what `python -m opad_core fetch` calls it."""
CLIP_L336, CLIP_B32, DINOV2_L14, DINO_S16 = "clip_l336", "clip_b32", "dinov2_l14", "dino_s16"
"""The networks' folders in it."""


def metrics_manifest(bases: Path) -> Manifest:
    """Return the manifest of the folder `metrics` in the folder of fetched bases. Raises OpadError if it is missing."""
    if not (bases / METRICS / "manifest.json").is_file():
        raise OpadError(
            f"the published metrics need networks that are not in {bases / METRICS}; "
            f"`python -m opad_core fetch {METRICS}` downloads them (3.6 GB)"
        )
    return read_manifest(bases / METRICS)
