"""Every constant of the method, in one table with its source; two presets and nothing hidden.

Sources: "paper" is arXiv 2510.20512 with supplement; "setting" what the authors ran for the published table; "inferred"
what neither names, and what we took for it; "ours" a switch of our own, whose default changes nothing. Sizes are
fractions of the base's resolution. `python -m opad_core presets --base NAME` prints what a training would use.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from opad_core.errors import OpadError

PUBLISHED, OF_PRESET, OF_BASE = "published", "preset", "base"
"""Who set a value: nobody (the published one), the preset, or the base's manifest."""


def _constant(default: Any, source: str) -> Any:
    """A field of the table: its published value and where that comes from."""
    return field(default=default, metadata={"source": source})


@dataclass(frozen=True)
class OpadConfig:
    # Length and optimisers
    iterations: int = _constant(1000, "paper, table 5")  # distillation stage
    # The stage is in the paper's text; whether its headline figures include it is unknown, and they probably do not:
    # `--collaborative-iterations 0` is the training that they describe.
    collaborative_iterations: int = _constant(300, "inferred: unpublished")
    batch_size: int = _constant(2, "setting")  # photos per iteration, as many fakes
    lr_student: float = _constant(2e-5, "setting")  # student K/V: 1e-5 scaled by the batch
    lr_teacher: float = _constant(1e-5, "setting")  # teacher K/V, not scaled
    lr_token: float = _constant(1e-5, "setting")  # the V* row
    lr_discriminator: float = _constant(1e-4, "setting")  # heads
    weight_decay: float = _constant(1e-2, "setting")  # AdamW, betas .9/.999
    token_weight_decay: float = _constant(1e-2, "setting")  # of the V* row: 1e-4 of its length in 1000 iterations
    lr_decay: float = _constant(0.0, "ours")  # last share of the iterations over which rates fall to 0; 0: never
    clip_norm: float = _constant(1.0, "setting")  # teacher and student
    ema_decay: float = _constant(0.0, "ours")  # EMA of the student's K/V and V*; 0 keeps the last iterate

    # Where V* starts
    initializer_word: str = _constant("", "setting")  # a word chosen by hand for each thing; empty: the class noun
    # "entry" looks the bare word up in the vocabulary, as the authors' script does: that finds the entry without the
    # end-of-word mark, which means a word's beginning, or the end token where there is none. "word" reads it as text.
    initializer_lookup: Literal["entry", "word"] = _constant("entry", "setting")

    # Weights of the student's losses
    lambda_adv: tuple[float, float, float] = _constant((1.0, 1.0, 1.0), "setting")  # D1 DINO, D2 DINOv2, D3 CLIP
    lambda_id: float = _constant(1.0, "setting")
    lambda_mse: float = _constant(1.0, "setting")
    lambda_swd: float = _constant(0.1, "setting")
    lambda_kv_preservation: float = _constant(0.0, "ours")  # relative squared change of other words' K/V
    swd_levels: int = _constant(5, "setting")
    swd_projections: int = _constant(128, "setting")
    swd_patch: int = _constant(11, "setting")  # pixels
    guidance: float = _constant(7.5, "setting")  # classifier-free guidance of the teacher's target

    teacher_timestep_range: tuple[float, float] = _constant((0.0, 1.0), "setting")  # shares of the schedule: t of L_rec
    target_timestep_range: tuple[float, float] = _constant((0.0, 1.0), "setting")  # t of the target
    target_weight: Literal["abar", "uniform"] = _constant("abar", "setting")  # c(t): abar_t, or 1
    max_target_timestep: float = _constant(1.0, "ours")  # share of the schedule; a picture with a later t has no target

    # What the paper's ablations take away (tables 6, 8 and 9); `ABLATIONS` names them. False: the student reads the
    # row where V* started, as if its text encoder were another one that never learned V*.
    shared_text_encoder: bool = _constant(True, "paper; what False means is inferred")
    # True: the teacher learns alone for `iterations`, then the student learns from it while it rests.
    teacher_first: bool = _constant(False, "paper; what True means is inferred")
    eval_every: int = _constant(0, "ours")  # iterations between two looks at the average, the best is kept; 0: never
    patience: int = _constant(0, "ours")  # looks in a row without a better one that end the training; 0: never

    max_references: int = _constant(0, "ours")  # how many of the references are used; 0 takes all, 1 is one-shot

    # Pictures
    templates: tuple[str, ...] = _constant((), "setting")  # empty: the base's own training prompts
    keep_aspect: bool = _constant(False, "setting")  # False squashes a photo to a square; True crops its middle
    flip_probability: float = _constant(0.5, "setting")  # horizontal flips of photos
    canvas_probability: float = _constant(0.66, "setting")  # how often a photo is shrunk onto a grey canvas
    canvas_scale: tuple[float, float] = _constant((170 / 512, 1.0), "setting")
    far_below: float = _constant(307 / 512, "setting")  # shrunk below this the prompt says "far away"
    crop_scale: tuple[float, float] = _constant((614 / 512, 715 / 512), "setting")  # else enlarged by this and cropped
    scene_share: float = _constant(0.0, "ours")  # student's prompts that name a scene; discriminators skip them
    scene_captions: bool = _constant(False, "ours")  # photos' prompts name the scene that the base's CLIP sees there
    size_words: bool = _constant(True, "setting")  # "a far away", "very small", "zoomed in", "close up" in the prompt
    canvas_for_discriminators: bool = _constant(True, "setting")  # the reals carry the canvas's grey border

    augmentation_cache: int = _constant(0, "ours")  # views that are drawn once; 0 draws fresh ones

    # Feature networks
    normalize_backbones: bool = _constant(False, "setting")  # False feeds [-1, 1] to networks that expect mean/std
    discriminator_resize: Literal["area", "bilinear", "bicubic"] = _constant("area", "setting")
    identity_resize: Literal["area", "bilinear", "bicubic"] = _constant("bilinear", "setting")  # equal: one shared pass
    reuse_features: bool = _constant(False, "setting")  # True: discriminators reuse the features of the student's step
    decode_crop: float = _constant(1.0, "ours")  # side of the window that is decoded for the pixel losses
    dinov2_size: int = _constant(0, "setting")  # pixels of D2's input; 0 takes the network's own, 518
    swd_unit_range: bool = _constant(False, "setting")  # False gives MS-SWD [-1, 1] where it expects [0, 1]

    # Collaborative stage
    collaboration: Literal["strict", "gated"] = _constant("strict", "paper, sec. 10")  # strict: samples replace photos
    samples: int = _constant(100, "inferred: unpublished")  # student pictures drawn for the stage
    kept_share: float = _constant(0.5, "inferred: unpublished")  # gated: best share by identity to the photos
    reference_share: float = _constant(0.5, "inferred: unpublished")  # gated: photos in the teacher's batches

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.collaborative_iterations < 0:
            raise OpadError(
                f"iterations must be at least 1 and collaborative_iterations at least 0, got {self.iterations} "
                f"and {self.collaborative_iterations}"
            )
        for name, times in (
            ("teacher_timestep_range", self.teacher_timestep_range),
            ("target_timestep_range", self.target_timestep_range),
        ):
            if not 0 <= times[0] < times[1] <= 1:
                raise OpadError(f"{name} must rise within [0, 1], got {times}")
        if self.max_references < 0 or self.augmentation_cache < 0:
            raise OpadError(
                f"max_references and augmentation_cache must be at least 0, got {self.max_references} "
                f"and {self.augmentation_cache}"
            )
        if self.batch_size < 1:
            raise OpadError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.eval_every < 0 or self.patience < 0:
            raise OpadError(f"eval_every and patience must be at least 0, got {self.eval_every} and {self.patience}")
        if not 0 < self.decode_crop <= 1:
            raise OpadError(f"decode_crop must be in (0, 1], got {self.decode_crop}")
        if not self.target_timestep_range[0] <= self.max_target_timestep <= 1:
            raise OpadError(
                f"max_target_timestep must be in [{self.target_timestep_range[0]}, 1], got {self.max_target_timestep}"
            )
        if not 0 <= self.scene_share < 1:
            raise OpadError(f"scene_share must be in [0, 1), got {self.scene_share}")
        if not 0 <= self.ema_decay < 1:
            raise OpadError(f"ema_decay must be in [0, 1), got {self.ema_decay}")

    @property
    def distillation_iterations(self) -> int:
        return self.iterations * (2 if self.teacher_first else 1)

    @property
    def total_iterations(self) -> int:
        return self.distillation_iterations + self.collaborative_iterations


@dataclass(frozen=True)
class Departure:
    """A value of a preset that is not the published one."""

    value: Any
    reason: str


PRESETS: dict[str, dict[str, Departure]] = {
    # the published setting, its accidents included
    "paper": {},
    # The published setting, plus what arithmetic or counted draws justify at 512 pixels. What only a training with the
    # published weights could show is off; a base for which it was shown sets it in its manifest.
    "default": {
        "reuse_features": Departure(
            True, "the same pictures through the same frozen networks: the features are equal, a pass is saved"
        ),
        "canvas_for_discriminators": Departure(
            False,
            "66 % of the published reals have a grey border, and no fake has; without it as many are whole photos",
        ),
        "initializer_lookup": Departure(
            "word", "the published lookup gives many words the end token's row, and no word its own"
        ),
    },
}

FULL_SIZE: dict[str, dict[str, Any]] = {}
"""What the manifests of the fetched bases set: nothing, since the method's own numbers are for their size."""


ABLATIONS: dict[str, dict[str, Any]] = {
    "no-teacher": {"lambda_id": 0.0, "lambda_mse": 0.0, "lambda_swd": 0.0},
    "no-dino": {"lambda_adv": (0.0, 1.0, 1.0)},
    "no-dinov2": {"lambda_adv": (1.0, 0.0, 1.0)},
    "no-clip": {"lambda_adv": (1.0, 1.0, 0.0)},
    "no-discriminators": {"lambda_adv": (0.0, 0.0, 0.0)},
    "no-id": {"lambda_id": 0.0},
    "no-mse": {"lambda_mse": 0.0},
    "no-swd": {"lambda_swd": 0.0},
    "no-shared-text-encoder": {"shared_text_encoder": False},
    "teacher-first": {"teacher_first": True},
    "one-shot": {"max_references": 1},
}
"""The paper's ablations by name, as changes of a preset. A term of weight 0 is not computed.

Three are inferred, since the paper only names them. "no-teacher": nothing aligns the student, and the teacher still
learns, because V* comes from L_rec alone. "no-shared-text-encoder": the student reads the row where V* started.
"teacher-first": see `teacher_first`.
"""


def preset(name: str, base_presets: dict[str, dict[str, Any]]) -> OpadConfig:
    """A preset with the base's own values (`manifest.presets`), where a number means nothing at its size."""
    if name not in PRESETS:
        raise OpadError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    departures = {field: departure.value for field, departure in PRESETS[name].items()}
    return override(OpadConfig(), departures | base_presets.get(name, {}))


@dataclass(frozen=True)
class Setting:
    """One value that a training would use, and who set it."""

    name: str
    value: Any
    set_by: str
    """PUBLISHED, OF_PRESET or OF_BASE."""
    source: str


def settings_of(name: str, base_presets: dict[str, dict[str, Any]]) -> list[Setting]:
    """Every field of a preset on a base, in the order of the table."""
    config, of_base = preset(name, base_presets), base_presets.get(name, {})
    settings = []
    for constant in dataclasses.fields(OpadConfig):
        set_by, source = PUBLISHED, str(constant.metadata["source"])
        if constant.name in of_base:
            set_by, source = OF_BASE, "the base's manifest"
        elif constant.name in PRESETS[name]:
            set_by, source = OF_PRESET, f"ours: {PRESETS[name][constant.name].reason}"
        settings.append(Setting(constant.name, getattr(config, constant.name), set_by, source))
    return settings


def override(config: OpadConfig, changes: dict[str, Any]) -> OpadConfig:
    """The config with some fields changed; JSON's lists become tuples. Raises OpadError for an unknown field."""
    known = {f.name for f in dataclasses.fields(OpadConfig)}
    if unknown := changes.keys() - known:
        raise OpadError(f"unknown setting {sorted(unknown)[0]!r} of the method; see `python -m opad_core presets`")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    return dataclasses.replace(config, **values)
