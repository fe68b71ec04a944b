"""Count the floating-point operations of one iteration by running the training code without weights."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from opad_core.bases.full_size import FullSizeBase
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.train import new_training
from opad_core.training.config import override

TERA = 1e12


def count_iteration(config: OpadConfig, *, resolution: int = 512) -> dict[str, Any]:
    """Return the TFLOP of an average distillation iteration and of its three steps, at the full size of SD-Turbo.

    A multiplication and an addition count as two. Only matrix products, convolutions and attention are counted, as is
    usual.
    """
    # The cache is filled before the first iteration and not counted.
    config = override(config, {"augmentation_cache": min(config.augmentation_cache, config.batch_size)})
    parts = dict.fromkeys(("teacher", "student", "discriminators", "prompts"), 0.0)
    for share, kind in iterations_by_share(config):
        for part, tera in _iteration(kind, resolution).items():
            parts[part] += share * tera
    return {
        "tflop_per_iteration": round(sum(parts.values()), 2),
        "parts": {part: round(value, 2) for part, value in parts.items()},
    }


def iterations_by_share(config: OpadConfig) -> list[tuple[float, OpadConfig]]:
    """Return the two kinds of iteration, each with the share of iterations that are of this kind.

    One compares all its images with a target, the other none. The costs weighted by the shares sum to the cost of an
    average iteration.
    """
    low, high = config.target_timestep_range
    compared = min(1.0, max(0.0, (config.max_target_timestep - low) / (high - low)))
    kinds = (
        (compared, (low, min(high, config.max_target_timestep))),
        (1 - compared, (config.max_target_timestep, high)),
    )
    return [(share, override(config, {"target_timestep_range": times})) for share, times in kinds if share]


def _iteration(config: OpadConfig, resolution: int) -> dict[str, float]:
    parts: dict[str, float] = {}

    @contextmanager
    def count(part: str) -> Iterator[None]:
        with FlopCounterMode(display=False) as counter:
            yield
        parts[part] = counter.get_total_flops() / TERA

    with tempfile.TemporaryDirectory() as folder:
        base = FullSizeBase(Path(folder), torch.device("meta"), resolution=resolution)
        references = [Image.new("RGB", (resolution, resolution))] * 3
        training = new_training(base, references, "dog", config, seed=0, hook=count)
        training.method.prepare()
    with FlopCounterMode(display=False) as counter:
        training.iterate()
    parts["prompts"] = counter.get_total_flops() / TERA - sum(parts.values())
    return parts
