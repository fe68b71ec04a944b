"""OPAD: adversarial concept distillation for one-step diffusion personalization.

README and the service use only the names in `__all__`. Each is imported on first access, so names that need no torch do
not load it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opad_core.bases.captions import held_out_scenes
    from opad_core.bases.loading import Base, device_named, load_base
    from opad_core.bases.manifest import Manifest
    from opad_core.bases.precision import Precision, precision_for
    from opad_core.errors import (
        DivergedError,
        NotEnoughMemoryError,
        OpadError,
        OtherBaseError,
        OtherTrainingError,
        UnusableDeviceError,
    )
    from opad_core.evaluation.identity import identity_score
    from opad_core.evaluation.report import ReportCard, report_card
    from opad_core.evaluation.sheet import Row, draw_sheet
    from opad_core.generation.bundle import MIXED_ADAPTERS, Bundle, read_bundle, write_bundle
    from opad_core.generation.compiled import (
        COMPILERS,
        capture,
        compiler_for,
        fill_compile_cache,
        has_compiled,
        load_compile_cache,
    )
    from opad_core.generation.export import export_bundle
    from opad_core.generation.generator import MAX_BATCH, MAX_SEED, ImageRequest, OneStepGenerator
    from opad_core.generation.image_warnings import image_warnings
    from opad_core.generation.prompt_warnings import prompt_warnings
    from opad_core.known_answers import Answer, Outcome, check_weights, example_photos
    from opad_core.marked_images import AI_GENERATED, PARTLY_AI_GENERATED, save_marked, xmp_packet
    from opad_core.methods.custom_diffusion import CustomDiffusionConfig
    from opad_core.methods.opad.config import PRESETS, OpadConfig, preset
    from opad_core.methods.registry import METHODS, method_config
    from opad_core.methods.train import train
    from opad_core.networks.text_encoder import PLACEHOLDER, TextEncoder
    from opad_core.output_folder import require_output_folder
    from opad_core.reference_folder import find_references, read_references
    from opad_core.reference_images import reads_heic
    from opad_core.training.config import override
    from opad_core.training.loop import Progress, TrainingStopped
    from opad_core.training.memory import rung_for, save_memory

__all__ = [
    "AI_GENERATED",
    "COMPILERS",
    "MAX_BATCH",
    "MAX_SEED",
    "METHODS",
    "MIXED_ADAPTERS",
    "PARTLY_AI_GENERATED",
    "PLACEHOLDER",
    "PRESETS",
    "Answer",
    "Base",
    "Bundle",
    "CustomDiffusionConfig",
    "DivergedError",
    "ImageRequest",
    "Manifest",
    "NotEnoughMemoryError",
    "OneStepGenerator",
    "OpadConfig",
    "OpadError",
    "OtherBaseError",
    "OtherTrainingError",
    "Outcome",
    "Precision",
    "Progress",
    "ReportCard",
    "Row",
    "TextEncoder",
    "TrainingStopped",
    "UnusableDeviceError",
    "capture",
    "check_weights",
    "compiler_for",
    "device_named",
    "draw_sheet",
    "example_photos",
    "export_bundle",
    "fill_compile_cache",
    "find_references",
    "has_compiled",
    "held_out_scenes",
    "identity_score",
    "image_warnings",
    "load_base",
    "load_compile_cache",
    "method_config",
    "override",
    "precision_for",
    "preset",
    "prompt_warnings",
    "read_bundle",
    "read_references",
    "reads_heic",
    "report_card",
    "require_output_folder",
    "rung_for",
    "save_marked",
    "save_memory",
    "train",
    "write_bundle",
    "xmp_packet",
]

_MODULES = {
    "bases.captions": ("held_out_scenes",),
    "bases.loading": ("Base", "device_named", "load_base"),
    "bases.manifest": ("Manifest",),
    "bases.precision": ("Precision", "precision_for"),
    "errors": (
        "DivergedError",
        "NotEnoughMemoryError",
        "OpadError",
        "OtherBaseError",
        "OtherTrainingError",
        "UnusableDeviceError",
    ),
    "evaluation.identity": ("identity_score",),
    "evaluation.report": ("ReportCard", "report_card"),
    "evaluation.sheet": ("Row", "draw_sheet"),
    "generation.bundle": ("MIXED_ADAPTERS", "Bundle", "read_bundle", "write_bundle"),
    "generation.compiled": (
        "COMPILERS",
        "capture",
        "compiler_for",
        "fill_compile_cache",
        "has_compiled",
        "load_compile_cache",
    ),
    "generation.export": ("export_bundle",),
    "generation.generator": ("MAX_BATCH", "MAX_SEED", "ImageRequest", "OneStepGenerator"),
    "generation.image_warnings": ("image_warnings",),
    "generation.prompt_warnings": ("prompt_warnings",),
    "known_answers": ("Answer", "Outcome", "check_weights", "example_photos"),
    "marked_images": ("PARTLY_AI_GENERATED", "AI_GENERATED", "save_marked", "xmp_packet"),
    "methods.custom_diffusion": ("CustomDiffusionConfig",),
    "methods.opad.config": ("PRESETS", "OpadConfig", "preset"),
    "methods.registry": ("METHODS", "method_config"),
    "methods.train": ("train",),
    "networks.text_encoder": ("PLACEHOLDER", "TextEncoder"),
    "output_folder": ("require_output_folder",),
    "reference_folder": ("find_references", "read_references"),
    "reference_images": ("reads_heic",),
    "training.config": ("override",),
    "training.loop": ("Progress", "TrainingStopped"),
    "training.memory": ("rung_for", "save_memory"),
}

if not TYPE_CHECKING:  # with it, a type checker would accept any name

    def __getattr__(name: str) -> object:
        for module, names in _MODULES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
