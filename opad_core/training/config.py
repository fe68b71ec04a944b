"""Settings that every method has: augmentation, number of iterations, optimizers.

A method's own settings are fields of a subclass (`methods.opad.config.OpadConfig`). The table is flat: a preset, a
base's manifest and `--set` refer to any field by its name. Sizes are fractions of the base's resolution.

Sources: "paper" is arXiv 2510.20512 with its supplement; "setting" is what its authors ran for the published table;
"inferred" is our choice where both are silent; "ours" is our own switch, off by default.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from opad_core.errors import OpadError

Config = TypeVar("Config", bound="TrainingConfig")


def constant(default: Any, source: str) -> Any:
    """Declare a setting with its published value and the source of the value."""
    return field(default=default, metadata={"source": source})


@dataclass(frozen=True)
class AugmentationConfig:
    """Settings of the augmentation."""

    max_references: int = constant(0, "ours")  # how many of the references are used; 0: all, 1: one-shot
    batch_size: int = constant(2, "setting")  # references per iteration, and generated images
    templates: tuple[str, ...] = constant((), "setting")  # empty: the base's own training prompts
    keep_aspect: bool = constant(False, "setting")  # False squashes an image to a square; True crops its middle
    flip_probability: float = constant(0.5, "setting")  # horizontal flips
    canvas_probability: float = constant(0.66, "setting")  # how often an image is shrunk onto a canvas
    # what the canvas shows: gray, or the color of the image's nearest edge pixel
    canvas_fill: Literal["gray", "edge"] = constant("gray", "setting")
    canvas_scale: tuple[float, float] = constant((170 / 512, 1.0), "setting")  # its size on the canvas
    far_below: float = constant(307 / 512, "setting")  # below this scale the prompt says "far away"
    crop_scale: tuple[float, float] = constant((614 / 512, 715 / 512), "setting")  # else enlarged by this and cropped
    scene_captions: bool = constant(False, "ours")  # prompts name the scene that the base's CLIP finds in the reference
    size_words: bool = constant(True, "setting")  # "a far away", "very small", "zoomed in", "close up" in the prompt
    augmentation_cache: int = constant(0, "ours")  # augmented images in the cache; 0: no cache

    def __post_init__(self) -> None:
        if self.max_references < 0 or self.augmentation_cache < 0:
            raise OpadError(
                f"max_references and augmentation_cache must be at least 0, got {self.max_references} "
                f"and {self.augmentation_cache}"
            )
        if self.batch_size < 1:
            raise OpadError(f"batch_size must be at least 1, got {self.batch_size}")


@dataclass(frozen=True)
class TrainingConfig(AugmentationConfig):
    """Settings of the loop and the optimizers."""

    iterations: int = constant(1000, "paper, table 5")  # of the first stage
    weight_decay: float = constant(1e-2, "setting")  # AdamW, betas .9/.999
    token_weight_decay: float = constant(1e-2, "setting")  # of the V* row: 1e-4 of its length in 1000 iterations
    lr_decay: float = constant(0.0, "ours")  # last share of the iterations, in which learning rates fall to 0; 0: never
    clip_norm: float = constant(1.0, "setting")  # of the gradients of keys, values and token row
    ema_decay: float = constant(0.0, "ours")  # EMA of the learned parameters; 0 keeps the last iterate
    # iterations between two evaluations on held-out scenes; the best adapter is kept; 0: never
    eval_every: int = constant(0, "ours")
    patience: int = constant(0, "ours")  # training ends when this many evaluations raised the best score too little
    min_gain: float = constant(0.0, "ours")  # a rise of the held-out score that is too little

    # Where V* starts
    initializer_word: str = constant("", "setting")  # chosen by hand for each concept; empty: the class noun
    # "entry" looks the bare word up in the vocabulary, as the authors' script does. That finds an entry without the
    # end-of-word mark, which is the beginning of longer words, or else the end token. "word" tokenizes it as text.
    initializer_lookup: Literal["entry", "word"] = constant("entry", "setting")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise OpadError(f"iterations must be at least 1, got {self.iterations}")
        if self.eval_every < 0 or self.patience < 0:
            raise OpadError(f"eval_every and patience must be at least 0, got {self.eval_every} and {self.patience}")
        if self.min_gain < 0:
            raise OpadError(f"min_gain must be at least 0, got {self.min_gain}")
        if not 0 <= self.ema_decay < 1:
            raise OpadError(f"ema_decay must be in [0, 1), got {self.ema_decay}")

    @property
    def total_iterations(self) -> int:
        """Iterations of all stages."""
        return self.iterations


def check_timestep_range(config: TrainingConfig, name: str) -> None:
    """Raise OpadError unless the field holds two increasing shares of the schedule."""
    low, high = getattr(config, name)
    if not 0 <= low < high <= 1:
        raise OpadError(f"{name} must be two increasing numbers in [0, 1], got {(low, high)}")


def override(config: Config, changes: dict[str, Any]) -> Config:
    """Return the config with some fields changed; lists become tuples. Raises OpadError for an unknown field."""
    known = {f.name for f in dataclasses.fields(config)}
    if unknown := changes.keys() - known:
        raise OpadError(f"unknown setting {sorted(unknown)[0]!r} of the method; see `python -m opad_core presets`")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    return dataclasses.replace(config, **values)
