"""Fetch the networks of the published metrics, which `evaluation.published` loads: `python -m opad_core fetch metrics`.

OpenAI's two repositories have only pickles, which are converted as the student of decision 35. Their commits are those
that many public projects refer to. They were not fetched while this was written, so a first fetch records the SHA-256
of each pickle and its conversion, and `--like` enforces them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

from opad_core.bases.fetch.assemble import fetch, open_mirror
from opad_core.bases.fetch.convert import Shapes
from opad_core.bases.fetch.description import read_config
from opad_core.bases.fetch.recipes import DINO, DINOV2, Converted, Part, Recipe, Repository
from opad_core.bases.full_size import CLIP, IMAGENET
from opad_core.bases.manifest import FORMAT, read_manifest
from opad_core.bases.metric_networks import CLIP_B32, CLIP_L336, DINO_S16, DINOV2_L14, METRICS
from opad_core.errors import OpadError

_OPENAI = "none in the repository; OpenAI's code for it is MIT, and its model card leaves deployment out of scope"
OPENAI_L336 = Repository("openai/clip-vit-large-patch14-336", "ce19dc912ca5cd21c8a653c79e251e808ccabcd1", _OPENAI)
OPENAI_B32 = Repository("openai/clip-vit-base-patch32", "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", _OPENAI)

_PICKLE, _WEIGHTS = "pytorch_model.bin", "model.safetensors"
_CLIP_FILES = ("config.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
RECIPE = Recipe(
    METRICS,
    parts=(
        Part(CLIP_L336, OPENAI_L336, "", _CLIP_FILES),
        Part(CLIP_B32, OPENAI_B32, "", _CLIP_FILES),
        Part(DINOV2_L14, DINOV2, "", ("config.json", _WEIGHTS)),
        Part(DINO_S16, DINO, "", ("config.json", _WEIGHTS)),
    ),
    picked=(),
    converted=tuple(
        Converted(f"{place}/{_WEIGHTS}", repository, _PICKLE, f"{place}/config.json")
        for place, repository in ((CLIP_L336, OPENAI_L336), (CLIP_B32, OPENAI_B32))
    ),
)
_KINDS = {CLIP_L336: "clip", CLIP_B32: "clip", DINOV2_L14: "dinov2", DINO_S16: "vit"}


def fetch_metrics(address: str | None, folder: Path, *, like: Path | None, say: Callable[[str], None]) -> int:
    """Fetch the networks into `folder` from a mirror, and return the command's status. Raises OpadError as `fetch`."""
    earlier = None if like is None else read_manifest(like)
    fetch(RECIPE, open_mirror(address), folder, like=earlier, say=say, describe=describe_metrics, shapes=clip_shapes)
    say(f"the networks of the published metrics are in {folder}; `python -m opad_core tables` uses them")
    return 0


def clip_shapes(config: dict[str, Any]) -> Shapes:
    """Return the tensors of a CLIP with this configuration. Raises OpadError for a configuration that has none."""
    try:
        with torch.device("meta"):
            network = CLIPModel(CLIPConfig.from_dict(config))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OpadError(f"the configuration of CLIP cannot be read: {error}") from error
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def describe_metrics(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return the manifest without `files` and `sources`. Raises OpadError for a part that is another network."""
    networks = {}
    for name, kind in _KINDS.items():
        config = read_config(folder, f"{name}/config.json")
        if config.get("model_type") != kind:
            raise OpadError(f"the network of {name} is a {config.get('model_type')}, not a {kind}")
        size = config.get("vision_config", config).get("image_size", 224)
        networks[name] = {"input": size, **(CLIP if kind == "clip" else IMAGENET)}
    return {
        "format": FORMAT,
        "name": recipe.name,
        "resolution": 0,  # it generates no images
        "nouns": None,
        "words": None,
        "templates": [],
        "scene_prompts": [],
        "presets": {},
        "identity_tokens": 0,
        "backbones": networks,
        "licenses": {repository.name: repository.license for repository in recipe.repositories},
    }
