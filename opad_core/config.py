"""Every constant of the method, in one table with its source; two presets and nothing hidden.

Sources: [paper] arXiv 2510.20512 with supplement; [setting] what the authors ran for the published table;
[ours] a departure with its reason. Sizes are fractions of the base's resolution.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from opad_core.errors import OpadError


@dataclass(frozen=True)
class OpadConfig:
    # Length and optimisers
    iterations: int = 1000  # distillation stage [paper, table 5]
    collaborative_iterations: int = 300  # collaborative stage; unpublished, inferred
    batch_size: int = 2  # photos per iteration, as many fakes [setting]
    lr_student: float = 2e-5  # student K/V: 1e-5 scaled by the batch [setting]
    lr_teacher: float = 1e-5  # teacher K/V, not scaled [setting]
    lr_token: float = 1e-5  # the V* row [setting]
    lr_discriminator: float = 1e-4  # heads [setting]
    weight_decay: float = 1e-2  # AdamW, betas .9/.999 [setting]
    lr_decay: float = 0.0  # share of all iterations, the last, over which the rates fall to nothing; 0: never [setting]
    clip_norm: float = 1.0  # teacher and student [setting]
    ema_decay: float = 0.0  # EMA of the student's K/V; 0 keeps the last iterate [setting]

    # Weights of the student's losses
    lambda_adv: tuple[float, float, float] = (1.0, 1.0, 1.0)  # D1 DINO, D2 DINOv2, D3 CLIP [setting]
    lambda_id: float = 1.0  # [setting]
    lambda_mse: float = 1.0  # [setting]
    lambda_swd: float = 0.1  # [setting]
    lambda_anchor: float = 0.0  # K/V of other words stay what they were: relative squared change [ours]
    swd_levels: int = 5  # [setting]
    swd_projections: int = 128  # [setting]
    swd_patch: int = 11  # pixels [setting]
    guidance: float = 7.5  # classifier-free guidance of the teacher's target [setting]

    rec_times: tuple[float, float] = (0.0, 1.0)  # share of the schedule that L_rec's t is drawn from [setting]
    target_times: tuple[float, float] = (0.0, 1.0)  # share of the schedule that the target's t is drawn from [setting]
    target_weight: Literal["abar", "uniform"] = "abar"  # c(t) of the alignment losses: abar_t [setting], or 1 [ours]
    compared_below: float = 1.0  # share of the schedule; where t is later, a picture is not compared at all [setting]

    # What the paper's ablations take away [tables 6, 8 and 9]; `ABLATIONS` names them
    shared_text_encoder: bool = True  # False: the student starts from the class noun's row and never sees V* [inferred]
    teacher_first: bool = False  # True: the teacher learns alone for `iterations`, then teaches at rest [inferred]
    select_every: int = (
        0  # iterations between two looks at the average, the best is kept; 0: the last iterate [setting]
    )
    patience: int = 0  # looks in a row without a better one that end the training; 0: never [setting]

    photos: int = 0  # how many of the references are used; 0 takes all, 1 is one-shot

    # Pictures
    templates: tuple[str, ...] = ()  # empty: the base's own training prompts (25 CLIP-ImageNet ones for sd-turbo)
    keep_aspect: bool = False  # False squashes a photo to a square [setting]; True crops its middle [ours]
    flip_probability: float = 0.5  # horizontal flips of photos [setting]
    canvas_probability: float = 0.66  # how often a photo is shrunk onto a grey canvas [setting]
    canvas_scale: tuple[float, float] = (170 / 512, 1.0)  # [setting]
    far_below: float = 307 / 512  # shrunk below this the prompt says "far away" [setting]
    crop_scale: tuple[float, float] = (614 / 512, 715 / 512)  # otherwise enlarged by this and cropped [setting]
    scene_share: float = 0.0  # student's prompts that name one of the base's scenes; discriminators skip them
    scene_captions: bool = False  # photos' prompts name the scene that the base's CLIP sees on them [ours]
    size_words: bool = True  # "a far away", "very small", "zoomed in", "close up" in the prompt [setting]
    canvas_for_discriminators: bool = True  # the reals carry the canvas's grey border [setting]

    bank: int = 0  # views drawn once, with their latents and features; 0 draws fresh ones in every iteration [setting]

    # Feature networks
    normalise_backbones: bool = False  # False feeds [-1, 1] to networks that expect mean/std [setting]
    discriminator_resize: Literal["area", "bilinear", "bicubic"] = "area"  # [setting]
    identity_resize: Literal["area", "bilinear", "bicubic"] = (
        "bilinear"  # as above: L_id and D3 share one pass [setting]
    )
    reuse_features: bool = False  # discriminators learn from the features of the student's step [setting: anew]
    decode_share: float = 1.0  # side of the window that is decoded for the pixel losses, of the picture's [setting]
    dinov2_size: int = 0  # pixels of D2's input; 0 takes the network's own, 518 [setting]
    swd_unit_range: bool = False  # False gives MS-SWD [-1, 1] where it expects [0, 1] [setting]

    # Collaborative stage [inferred: the paper names none of these]
    collaboration: Literal["strict", "gated"] = "strict"  # strict: samples replace all photos [paper, sec. 10]
    samples: int = 100  # student pictures drawn for the stage
    kept_share: float = 0.5  # gated: best share by identity to the photos
    photo_share: float = 0.5  # gated: share of photos in the teacher's batches; discriminator reals stay photos

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.collaborative_iterations < 0:
            raise OpadError(
                f"iterations must be at least 1 and collaborative_iterations at least 0, got {self.iterations} "
                f"and {self.collaborative_iterations}"
            )
        for name, times in (("rec_times", self.rec_times), ("target_times", self.target_times)):
            if not 0 <= times[0] < times[1] <= 1:
                raise OpadError(f"{name} must rise within [0, 1], got {times}")
        if self.photos < 0 or self.bank < 0:
            raise OpadError(f"photos and bank must be at least 0, got {self.photos} and {self.bank}")
        if self.batch_size < 1:
            raise OpadError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.select_every < 0 or self.patience < 0:
            raise OpadError(
                f"select_every and patience must be at least 0, got {self.select_every} and {self.patience}"
            )
        if not 0 < self.decode_share <= 1:
            raise OpadError(f"decode_share must be in (0, 1], got {self.decode_share}")
        if not self.target_times[0] <= self.compared_below <= 1:
            raise OpadError(f"compared_below must be in [{self.target_times[0]}, 1], got {self.compared_below}")
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
class _Preset:
    summary: str
    changes: dict[str, Any] = field(default_factory=dict)


PRESETS = {
    "paper": _Preset("the published setting, its accidents included"),
    "default": _Preset(
        "ours: steadier and cheaper, each departure a field with its reason",
        {
            # Without a canvas in the reals, a border cannot give the fakes away, nor be taught to the student.
            "canvas_for_discriminators": False,
            # The backbones see the statistics that they were trained on; [-1, 1] has 0.45 times their contrast.
            "normalise_backbones": True,
            "discriminator_resize": "bicubic",
            # As D3 sees it, so that the student's pictures go through ViT-H once for both.
            "identity_resize": "bicubic",
            # Same pictures, frozen networks: the same features.
            "reuse_features": True,
            # A sixth of the work at 518; D2 is the discriminator that matters least [table 9].
            "dinov2_size": 224,
            # A target costs two passes of the teacher and a decoding. SD's last quarter of times has an
            # abar_t below 0.05, and 1.3 % of all the weight.
            "compared_below": 0.765,
            # Lab is defined on [0, 1]; 0.17 there weighs what 0.1 did on [-1, 1].
            "swd_unit_range": True,
            "lambda_swd": 0.17,
            # Fresh views cost an encoder and three feature networks in every iteration; a photo has few different ones.
            "bank": 100,
            # A one-step GAN's last iterate is noisy; the average over about 100 iterations is not.
            "ema_decay": 0.99,
            # Which iteration is best differs by concept; the authors needed "a few trials".
            "select_every": 50,
            "keep_aspect": True,
            # What a prompt says of the ground, the concept need not learn: see captions.py.
            "scene_captions": True,
            # A student that meets the photos' scenes alone forgets to draw others.
            "scene_share": 0.5,
            # A mug's handle and any lettering have a side; flips ask one step for both at once.
            "flip_probability": 0.0,
            # Self-samples as "real" let the adversarial gradient vanish.
            "collaboration": "gated",
        },
    ),
}


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
    "one-shot": {"photos": 1},
}
"""The paper's ablations by name, as changes of a preset. A term of weight 0 is not computed."""


def preset(name: str, base_presets: dict[str, dict[str, Any]]) -> OpadConfig:
    """A preset with the base's own overrides (`manifest.presets`), where a number means nothing at its size."""
    if name not in PRESETS:
        raise OpadError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return override(OpadConfig(), PRESETS[name].changes | base_presets.get(name, {}))


def override(config: OpadConfig, changes: dict[str, Any]) -> OpadConfig:
    """The config with some fields changed; JSON's lists become tuples. Raises OpadError for an unknown field."""
    known = {f.name for f in dataclasses.fields(OpadConfig)}
    if unknown := changes.keys() - known:
        raise OpadError(f"unknown setting {sorted(unknown)[0]!r} of the method; see `python -m opad_core presets`")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    return dataclasses.replace(config, **values)
