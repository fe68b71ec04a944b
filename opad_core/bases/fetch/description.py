"""Write the manifest of an assembled base: sizes come from its configuration files, prompts and presets from us."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from opad_core.bases.captions import TEMPLATES
from opad_core.bases.fetch.recipes import Recipe
from opad_core.bases.full_size import CLIP, IMAGENET
from opad_core.bases.manifest import FORMAT
from opad_core.errors import OpadError

MODEL_TYPES = {"dino": "vit", "dinov2": "dinov2", "clip": "clip_vision_model"}
STATISTICS = {"dino": IMAGENET, "dinov2": IMAGENET, "clip": CLIP}
# The scenes of DreamBooth's prompts for objects. Previews and evaluation ask for them, training does not.
SCENE_PROMPTS = tuple(
    f"a {{}} {scene}"
    for scene in (
        "in the jungle", "in the snow", "on the beach", "on a cobblestone street", "on top of pink fabric",
        "on top of a wooden floor", "with a city in the background", "with a mountain in the background",
        "with a blue house in the background", "on top of a purple rug in a forest",
        "with a wheat field in the background", "with a tree and autumn leaves in the background",
        "with the Eiffel Tower in the background", "floating on top of water", "floating in an ocean of milk",
        "on top of green grass with sunflowers around it", "on top of a mirror",
        "on top of the sidewalk in a crowded street", "on top of a dirt road", "on top of a white rug",
    )
)  # fmt: skip


def describe(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return the manifest without `files` and `sources`.

    Raises OpadError for parts that do not fit together, as in a mirror of mixed files.
    """
    unets = {role: read_config(folder, f"{role}/unet/config.json") for role in ("teacher", "student")}
    schedules = {role: read_config(folder, f"{role}/scheduler/scheduler_config.json") for role in unets}
    text, vae = read_config(folder, "text_encoder/config.json"), read_config(folder, "vae/config.json")
    networks = {name: read_config(folder, f"discriminators/{name}/config.json") for name in MODEL_TYPES}
    identity = _shapes(folder / "identity/projection.safetensors")
    projection = _shapes(folder / "text_projection/projection.safetensors")["weight"]
    embedding = networks["clip"].get("projection_dim")
    fits = {
        **{f"the {role} reads text of the encoder's width": unet.get("cross_attention_dim") == text.get("hidden_size")
           for role, unet in unets.items()},
        **{f"the {role} denoises the autoencoder's latents": unet.get("in_channels") == vae.get("latent_channels")
           for role, unet in unets.items()},
        **{f"the {role}'s prediction type is known": s.get("prediction_type") in ("epsilon", "v_prediction")
           for role, s in schedules.items()},
        **{f"the network of {name} is a {kind}": networks[name].get("model_type") == kind
           for name, kind in MODEL_TYPES.items()},
        "the identity projection reads CLIP's embeddings": identity["proj.weight"][1] == embedding,
        "the text projection leads from text to CLIP's embeddings": projection == [embedding, text.get("hidden_size")],
    }  # fmt: skip
    if wrong := [statement for statement, holds in fits.items() if not holds]:
        raise OpadError(f"the parts of {recipe.name!r} are mixed; this should hold and does not: {'; '.join(wrong)}")
    return {
        "format": FORMAT,
        "name": recipe.name,
        "resolution": unets["student"]["sample_size"] << (len(vae["block_out_channels"]) - 1),
        "nouns": None,
        "words": None,
        "templates": list(TEMPLATES),
        "scene_prompts": list(SCENE_PROMPTS),
        "presets": {},  # the method's own numbers are for this size
        "identity_tokens": identity["proj.weight"][0] // identity["norm.weight"][0],
        # A configuration may omit the size; 224 is the default of all three classes.
        "backbones": {
            name: {"input": network.get("image_size", 224), **STATISTICS[name]} for name, network in networks.items()
        },
        "licenses": {repository.name: repository.license for repository in recipe.repositories},
    }


def read_config(folder: Path, path: str) -> dict[str, Any]:
    """Read a JSON object. Raises OpadError if the file holds anything else."""
    try:
        content = json.loads((folder / path).read_text())
    except ValueError as error:
        raise OpadError(f"{folder / path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise OpadError(f"{folder / path} is not a JSON object")
    return content


def _shapes(file: Path) -> dict[str, list[int]]:
    with safe_open(file, "pt") as tensors:
        return {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118  # no mapping
