"""The methods by name, and the settings with which each learns on a base."""

from collections.abc import Mapping
from typing import Any

from opad_core.bases.manifest import Manifest
from opad_core.errors import OpadError
from opad_core.methods.cones2 import Cones2Config
from opad_core.methods.custom_diffusion import CustomDiffusionConfig
from opad_core.methods.disenbooth import DisenBoothConfig
from opad_core.methods.dreambooth import DreamBoothConfig
from opad_core.methods.lora import LoraConfig
from opad_core.methods.opad import config as opad
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.textboost import TextBoostConfig
from opad_core.methods.textual_inversion import TextualInversionConfig
from opad_core.training.config import TrainingConfig, override

METHODS: Mapping[str, type[TrainingConfig]] = {
    "opad": OpadConfig,
    "custom_diffusion": CustomDiffusionConfig,
    "textual_inversion": TextualInversionConfig,
    "dreambooth": DreamBoothConfig,
    "lora": LoraConfig,
    "textboost": TextBoostConfig,
    "disenbooth": DisenBoothConfig,
    "cones2": Cones2Config,
}


def method_config(method: str, manifest: Manifest, *, preset: str = "default") -> TrainingConfig:
    """Return the settings of a method on a base: its published values, and the base's own values on top of them.

    Raises OpadError for an unknown method, and for another preset than "default" of a method that is not OPAD.
    """
    if method not in METHODS:
        raise OpadError(f"unknown method {method!r}; known methods are {', '.join(METHODS)}")
    if method == "opad":
        return opad.preset(preset, manifest.presets)
    if preset != "default":
        raise OpadError(f"the preset {preset!r} belongs to the method opad; {method} has only the preset default")
    values = _values_on_nano(opad.preset("default", manifest.presets)) if manifest.name == "nano" else {}
    return override(METHODS[method](), values.get("all methods", {}) | values.get(method, {}))


def _values_on_nano(default: OpadConfig) -> dict[str, dict[str, Any]]:
    """Return the values of each method on the base nano, whose images are small. `default` is its preset of OPAD.

    Learning rates are the best of `bench.learning_rates`. For Textual Inversion that is the published one. Custom
    Diffusion has a tenth of its best, with which it keeps the scene of the prompt (docs/tables).
    """
    return {
        "all methods": {
            "batch_size": 4,
            "templates": default.templates,
            "keep_aspect": True,
            "flip_probability": 0.0,
            "canvas_probability": 0.0,
            "crop_scale": (1.0, 1.0),
            "size_words": False,
            "scene_captions": True,
            "augmentation_cache": 100,
            "token_weight_decay": 0.0,
            "initializer_lookup": "word",
            "iterations": round(1.72 * default.total_iterations),  # 430: the learning rates are the best for that many
            "lr_decay": default.lr_decay,
            "class_images": 64,
        },
        "custom_diffusion": {
            "lr": 8e-3,
            "lr_token": 1.5e-2,
            "lambda_kv_preservation": 1.0,
        },
        "textual_inversion": {"class_images": 0},
        "dreambooth": {"lr": 2.5e-3},
        "lora": {"lr": 1.6e-2, "lr_token": 1.5e-2},
        "textboost": {
            "class_images": 0,
            "augmentation_cache": 0,  # it augments by itself
            "lr": 2.5e-4,
            "lr_token": 1.5e-3,
        },
        "disenbooth": {"class_images": 0, "lr": 1.6e-2},
        "cones2": {"class_images": 0, "lr": 5e-5},
    }
