"""Draw the inputs of one OPAD iteration on the host: images, words, noise, timesteps, crops and filters.

| name                                | shape                      | use                                         |
|-------------------------------------|----------------------------|---------------------------------------------|
| `eps`                               | [b, c, h, w]               | noise of L_rec, and the student's start     |
| `learned.latents`                   | [b, c, h, w]               | what the teacher learns, from a cache       |
| `learned.pixels`, `learned.noise`   | [b, 3, r, r], [b, c, h, w] | or what it encodes, and the encoder's noise |
| `learned.mask`, `learned.t`         | [b, 1, h, w], [b]          | mask and timesteps of L_rec                 |
| `learned.ids`, `learned.is_concept` | [b, tokens]                | the teacher's prompts                       |
| `prompts.ids`, `prompts.is_concept` | [b, tokens]                | the student's prompts                       |
| `crop.rows`, `crop.columns`         | [side]                     | the part of the latents that is decoded     |
| `target.t`, `target.compared`       | [b]                        | timesteps, and which images are compared    |
| `target.latents`                    | [b, c, h, w]               | or what they are compared with              |
| `swd.0`, `swd.1`, ...               | [projections, 3, p, p]     | filters of each level of MS-SWD             |
| `real.pixels`                       | [b', 3, s, s]              | real images                                 |
| `real.dino`, ...                    | [b', ...]                  | or their features, from a cache             |

If teacher or student learns alone, the inputs of the other are missing.
"""

import torch

from opad_core.bases.loading import Base
from opad_core.methods.opad.batches import OpadBatches
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.opad.losses import swd_filters
from opad_core.methods.opad.teacher_samples import TeacherSamples
from opad_core.methods.reconstruction import batch_inputs, token_inputs
from opad_core.networks.resampling import random_crop
from opad_core.networks.schedule import random_timesteps
from opad_core.training.augmentation import Batch
from opad_core.training.data import TrainingData
from opad_core.training.method import Inputs, Step


def draw_inputs(
    data: TrainingData, config: OpadConfig, batches: OpadBatches, samples: TeacherSamples, step: Step
) -> Inputs:
    """Return the inputs of an iteration. The tensors are on the CPU, those from caches on the base's device."""
    distilling = step.number < config.distillation_iterations
    teacher_is_alone = config.teacher_first and step.number < config.iterations
    teacher_is_fixed = config.teacher_first and distilling and not teacher_is_alone
    learned, real = batches.distillation(step) if distilling else batches.collaborative(step)
    inputs = {"eps": torch.randn((config.batch_size, *data.base.latent_shape), generator=step.stream("noise"))}
    if not teacher_is_fixed:
        inputs |= batch_inputs(
            data, "learned", learned,
            timestep_range=config.teacher_timestep_range,
            posterior=step.stream("vae"), times=step.stream("teacher-time"),
        )  # fmt: skip
    if not teacher_is_alone:
        inputs |= _student_inputs(data, config, batches, real, step)
    if config.has_target and not teacher_is_alone:
        inputs |= samples.inputs(step) if teacher_is_fixed else _timesteps(data.base, config, step)
        if config.lambda_swd and "target.compared" in inputs:
            filters = swd_filters(
                config.swd_levels, config.swd_projections, config.swd_patch, generator=step.stream("swd")
            )
            inputs |= {f"swd.{level}": projections for level, projections in enumerate(filters)}
    return inputs


def _student_inputs(data: TrainingData, config: OpadConfig, batches: OpadBatches, real: Batch, step: Step) -> Inputs:
    # As published, the student gets the prompts of the real batch.
    inputs = token_inputs(data, "prompts", batches.with_scenes(real.prompts, step))
    rows, columns = random_crop(data.base.latent_shape[-1], config.decode_crop, step.stream("window"))
    inputs |= {"crop.rows": rows, "crop.columns": columns}
    reals = batches.real(real.rows(list(range(config.scene_prompts, config.batch_size))), step)
    return inputs | {f"real.{name}": tensor for name, tensor in reals.items()}


def _timesteps(base: Base, config: OpadConfig, step: Step) -> Inputs:
    """Return the timesteps of the teacher's corrections and who gets one; nothing if nobody does."""
    steps = len(base.teacher.abar)
    t = random_timesteps(config.batch_size, steps, config.target_timestep_range, step.stream("student-time"))
    compared = t < config.max_target_timestep * steps
    return {"target.t": t, "target.compared": compared} if compared.any() else {}
