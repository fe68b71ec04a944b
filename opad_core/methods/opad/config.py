"""All settings of OPAD in one table with their sources, and the two presets.

`python -m opad_core presets --base NAME` prints the values that a training uses. `training.config` has the settings
that all methods share, and the meaning of the sources.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from opad_core.errors import OpadError
from opad_core.training.config import TrainingConfig, check_timestep_range, constant, override

PUBLISHED, PRESET, BASE = "published", "preset", "base"
"""Who set a value: the published setting, the preset, or the base's manifest."""


@dataclass(frozen=True)
class OpadConfig(TrainingConfig):
    """All settings of OPAD. `iterations` is the length of the distillation stage."""

    # The paper describes this stage. Its main results probably do not include it; `--collaborative-iterations 0`
    # reproduces the training that they describe.
    collaborative_iterations: int = constant(300, "inferred: unpublished")
    lr_student: float = constant(2e-5, "setting")  # student K/V: 1e-5 times the batch size
    lr_teacher: float = constant(1e-5, "setting")  # teacher K/V, not multiplied
    lr_token: float = constant(1e-5, "setting")  # the V* row
    lr_discriminator: float = constant(1e-4, "setting")  # heads

    # Weights of the student's losses
    lambda_adv: tuple[float, float, float] = constant((1.0, 1.0, 1.0), "setting")  # D1 DINO, D2 DINOv2, D3 CLIP
    lambda_id: float = constant(1.0, "setting")  # identity loss
    lambda_mse: float = constant(1.0, "setting")  # squared distance of latents
    lambda_swd: float = constant(0.1, "setting")  # MS-SWD of pixels
    lambda_kv_preservation: float = constant(0.0, "ours")  # relative squared change of other words' K/V
    swd_levels: int = constant(5, "setting")  # levels of the pyramid
    swd_projections: int = constant(128, "setting")  # random filters on each level
    swd_patch: int = constant(11, "setting")  # pixels
    guidance: float = constant(7.5, "setting")  # classifier-free guidance of the teacher's target

    teacher_timestep_range: tuple[float, float] = constant((0.0, 1.0), "setting")  # shares of the schedule: t of L_rec
    target_timestep_range: tuple[float, float] = constant((0.0, 1.0), "setting")  # t of the target
    target_weight: Literal["abar", "uniform"] = constant("abar", "setting")  # c(t): abar_t, or 1
    max_target_timestep: float = constant(1.0, "ours")  # share of the schedule; images with a later t get no target

    # Parts that the paper's ablations remove (tables 6, 8 and 9); see `ablated`. False: the student's V* stays at
    # its initial value, as if the student had another text encoder that never learned V*.
    shared_text_encoder: bool = constant(True, "paper; what False means is inferred")
    # True: the teacher learns alone for `iterations`, then the student learns from images that the fixed teacher
    # generated in 25 steps, `samples` of them with the noise and the prompts of each.
    teacher_first: bool = constant(False, "paper; what True means is inferred")

    scene_share: float = constant(0.0, "ours")  # share of prompts that name a scene; discriminators skip them
    canvas_for_discriminators: bool = constant(True, "setting")  # real images may have the canvas's border
    # what the heads should say of a real image; below 1 is one-sided label smoothing (Salimans et al. 2016, sec. 3.4)
    real_label: float = constant(1.0, "setting")

    # Feature networks
    normalize_backbones: bool = constant(False, "setting")  # False feeds [-1, 1] where normalized input is expected
    # how images are resized for the discriminators
    discriminator_resize: Literal["area", "bilinear", "bicubic"] = constant("area", "setting")
    identity_resize: Literal["area", "bilinear", "bicubic"] = constant("bilinear", "setting")  # equal: one shared pass
    reuse_features: bool = constant(False, "setting")  # True: discriminators reuse the features of the student's step
    decode_crop: float = constant(1.0, "ours")  # share of the side that is decoded, a random crop, for pixel losses
    dinov2_size: int = constant(0, "setting")  # pixels of D2's input; 0: the network's own, 518
    swd_unit_range: bool = constant(False, "setting")  # False gives MS-SWD [-1, 1] where it expects [0, 1]

    # Collaborative stage
    collaboration: Literal["strict", "gated"] = constant(
        "strict", "paper, sec. 10"
    )  # strict: samples replace references
    samples: int = constant(100, "inferred: unpublished")  # images that the student generates for the stage
    kept_share: float = constant(0.5, "inferred: unpublished")  # gated: share kept, by identity to the references
    reference_share: float = constant(0.5, "inferred: unpublished")  # gated: references in the teacher's batches

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.collaborative_iterations < 0:
            raise OpadError(f"collaborative_iterations must be at least 0, got {self.collaborative_iterations}")
        check_timestep_range(self, "teacher_timestep_range")
        check_timestep_range(self, "target_timestep_range")
        if not 0 < self.decode_crop <= 1:
            raise OpadError(f"decode_crop must be in (0, 1], got {self.decode_crop}")
        if not self.target_timestep_range[0] <= self.max_target_timestep <= 1:
            raise OpadError(
                f"max_target_timestep must be in [{self.target_timestep_range[0]}, 1], got {self.max_target_timestep}"
            )
        if not 0.5 < self.real_label <= 1:
            raise OpadError(f"real_label must be in (0.5, 1], got {self.real_label}")
        if not 0 <= self.scene_share < 1:
            raise OpadError(f"scene_share must be in [0, 1), got {self.scene_share}")

    @property
    def distillation_iterations(self) -> int:
        return self.iterations * (2 if self.teacher_first else 1)

    @property
    def total_iterations(self) -> int:
        return self.distillation_iterations + self.collaborative_iterations

    @property
    def has_target(self) -> bool:
        """Whether the student is compared with what the teacher generates."""
        return bool(self.lambda_id or self.lambda_mse or self.lambda_swd)

    @property
    def scene_prompts(self) -> int:
        """Number of prompts, the first of a batch, that name a scene.

        No reference shows the concept in such a scene, so only the teacher corrects these images.
        """
        return int(self.scene_share * self.batch_size)


@dataclass(frozen=True)
class Departure:
    """A value of a preset that differs from the published one."""

    value: Any
    reason: str


PRESETS: dict[str, dict[str, Departure]] = {
    # The published setting, including its accidents.
    "paper": {},
    # The published setting, plus changes that arithmetic or counting justifies at 512 pixels. Changes that need
    # evidence from a training with the published weights are off; a base with such evidence sets them in its manifest.
    "default": {
        "reuse_features": Departure(
            True, "the same images through the same frozen networks give equal features, and one pass is saved"
        ),
        "canvas_for_discriminators": Departure(
            False,
            "66 % of the published real images have a gray border and no generated image has; these are shown whole",
        ),
        "initializer_lookup": Departure(
            "word", "the published lookup finds the end token's row for many words, and the right row for none"
        ),
    },
}

_ABLATIONS: dict[str, Callable[[OpadConfig], dict[str, Any]]] = {
    "no-teacher": lambda config: {"lambda_id": 0.0, "lambda_mse": 0.0, "lambda_swd": 0.0},
    "no-dino": lambda config: {"lambda_adv": (0.0, *config.lambda_adv[1:])},
    "no-dinov2": lambda config: {"lambda_adv": (config.lambda_adv[0], 0.0, config.lambda_adv[2])},
    "no-clip": lambda config: {"lambda_adv": (*config.lambda_adv[:2], 0.0)},
    "no-discriminators": lambda config: {"lambda_adv": (0.0, 0.0, 0.0)},
    "no-id": lambda config: {"lambda_id": 0.0},
    "no-mse": lambda config: {"lambda_mse": 0.0},
    "no-swd": lambda config: {"lambda_swd": 0.0},
    "no-shared-text-encoder": lambda config: {"shared_text_encoder": False},
    "teacher-first": lambda config: {"teacher_first": True},
    "one-shot": lambda config: {"max_references": 1},
}
ABLATIONS = tuple(_ABLATIONS)
"""Names of the paper's ablations.

Three are inferred, because the paper only names them. "no-teacher": the student has no alignment losses; the teacher
still learns, because only L_rec trains V*. "no-shared-text-encoder": the student's V* stays at its initial value.
"teacher-first": see `OpadConfig.teacher_first`.
"""


def ablated(config: OpadConfig, name: str | None) -> OpadConfig:
    """Return a config without one part of the method, by a name of `ABLATIONS`; None removes nothing.

    All else stays as it is. A loss of weight 0 is not computed.
    """
    return override(config, _ABLATIONS[name](config)) if name else config


def preset(name: str, base_presets: dict[str, dict[str, Any]]) -> OpadConfig:
    """Return a preset with the base's own values (`manifest.presets`) for settings that depend on its size."""
    if name not in PRESETS:
        raise OpadError(f"unknown preset {name!r}; known presets are {', '.join(PRESETS)}")
    departures = {name: departure.value for name, departure in PRESETS[name].items()}
    return override(OpadConfig(), departures | base_presets.get(name, {}))


@dataclass(frozen=True)
class Setting:
    """One value that a training uses, and who set it."""

    name: str
    value: Any
    set_by: str
    """PUBLISHED, PRESET or BASE."""
    source: str


def settings_of(name: str, base_presets: dict[str, dict[str, Any]]) -> list[Setting]:
    """Return every setting of a preset on a base, in the order of the fields."""
    config, base_values = preset(name, base_presets), base_presets.get(name, {})
    settings = []
    for field in dataclasses.fields(OpadConfig):
        set_by, source = PUBLISHED, str(field.metadata["source"])
        if field.name in base_values:
            set_by, source = BASE, "the base's manifest"
        elif field.name in PRESETS[name]:
            set_by, source = PRESET, f"ours: {PRESETS[name][field.name].reason}"
        settings.append(Setting(field.name, getattr(config, field.name), set_by, source))
    return settings
