"""Estimate what a comparison at full size costs in GPU hours, before it starts."""

import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from opad_core.bases.full_size import FullSizeBase
from opad_core.bases.manifest import Manifest
from opad_core.flops import TERA, count_iteration
from opad_core.methods.denoising import DenoisingConfig
from opad_core.methods.opad.config import preset
from opad_core.methods.train import new_training
from opad_core.tables.rows import Row, config_of
from opad_core.training.config import TrainingConfig, override

SECONDS_PER_TFLOP = (0.0107, 0.0256)
"""Measured on an H100 with an iteration of 25.8 TFLOP in half precision: 275 ms of kernels, and 660 ms with the host's
launches in the plain loop (docs/learning.md). CUDA graphs come near the first."""
IMAGE_TFLOP = {"student": 0.68, "decoder": 2.48, "teacher": 1.36}
"""Of a 512 x 512 image: a step of the student, decoding, and a step of the teacher with guidance. A multiplication and
an addition count as two: the UNet has 0.34 and the decoder 1.24 x 10^12 of each."""
TEACHER_STEPS = 25


def gpu_hours(manifest: Manifest, runs: Iterable[tuple[Row, int]]) -> str:
    """Say what runs cost on a base of SD-Turbo's size. Each is a row, with the number of images of each result."""
    learning = images = 0.0
    for row, count in runs:
        if row.method != "untouched":
            config = config_of(row, manifest)
            learning += config.total_iterations * method_tflop(row.method)
        images += count * image_tflop(row)
    low, high = (seconds * (learning + images) / 3600 for seconds in SECONDS_PER_TFLOP)
    fast, slow = (f"{seconds * 1e3:g}" for seconds in SECONDS_PER_TFLOP)
    return (
        f"about {low:.1f} to {high:.1f} hours of an H100: {learning / 1e3:.1f} PFLOP to learn and {images / 1e3:.1f} "
        f"to generate, at {fast} to {slow} ms a TFLOP (kernels alone, and with launches). Ablations are counted as the "
        "whole method, and scores are not counted"
    )


def image_tflop(row: Row) -> float:
    """Return the TFLOP of one image of each result of a row."""
    student = sum(steps * IMAGE_TFLOP["student"] + IMAGE_TFLOP["decoder"] for steps in row.steps)
    for stage in row.stages:
        of_teacher = stage.network == "teacher"
        steps = TEACHER_STEPS * IMAGE_TFLOP["teacher"] if of_teacher else IMAGE_TFLOP["student"]
        student += steps + IMAGE_TFLOP["decoder"]
    return student


@cache
def method_tflop(method: str, *, resolution: int = 512) -> float:
    """Return the TFLOP of an iteration of a method with its own settings and OPAD's batch."""
    if method == "opad":
        tera: float = count_iteration(preset("default", {}), resolution=resolution)["tflop_per_iteration"]
        return tera
    with tempfile.TemporaryDirectory() as folder:
        base = FullSizeBase(Path(folder), torch.device("meta"), resolution=resolution)
        config = config_of(Row(method, method, method, ()), base.manifest)
        if isinstance(config, DenoisingConfig) and config.class_images:
            # they are a second batch as large as the photos', and nothing can generate them without weights
            return 2 * _counted(base, override(config, {"class_images": 0}))
        return _counted(base, config)


def _counted(base: FullSizeBase, config: TrainingConfig) -> float:
    references = [Image.new("RGB", (base.manifest.resolution,) * 2)] * 3
    training = new_training(base, references, "dog", config, seed=0)
    training.method.prepare()
    with FlopCounterMode(display=False) as counter:
        training.iterate()
    return float(counter.get_total_flops() / TERA)
