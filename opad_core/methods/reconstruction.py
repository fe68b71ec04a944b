"""The denoising loss, which every method here uses, and its inputs."""

import torch
from torch import Tensor

from opad_core.bases.loading import Base
from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.schedule import add_noise, random_timesteps, training_target
from opad_core.networks.text_encoder import Tokens
from opad_core.training.augmentation import Batch
from opad_core.training.data import TrainingData
from opad_core.training.method import Inputs


def token_inputs(data: TrainingData, name: str, prompts: list[str]) -> Inputs:
    """Return tokenized prompts of the concept under a name; `tokens_of` reads them."""
    tokens = data.base.text.tokens(prompts, [data.class_noun] * len(prompts))
    return {f"{name}.ids": tokens.ids, f"{name}.is_concept": tokens.is_concept}


def tokens_of(inputs: Inputs, name: str) -> Tokens:
    return Tokens(inputs[f"{name}.ids"], inputs[f"{name}.is_concept"])


def batch_inputs(
    data: TrainingData,
    name: str,
    batch: Batch,
    *,
    timestep_range: tuple[float, float],
    timesteps: tuple[int, ...] = (),
    posterior: torch.Generator,
    times: torch.Generator,
) -> Inputs:
    """Return the prompts, mask, timesteps and latents of a batch under a name; `latents_of` reads the latents.

    Timesteps come from `timesteps`, or from `timestep_range` if that is empty.
    """
    base, count = data.base, len(batch.prompts)
    inputs = token_inputs(data, name, batch.prompts) | {f"{name}.mask": batch.mask}
    if batch.latents is not None:
        inputs[f"{name}.latents"] = batch.latents
    else:
        assert batch.pixels is not None
        inputs |= {f"{name}.pixels": batch.pixels, f"{name}.noise": base.posterior_noise(count, posterior)}
    if timesteps:
        inputs[f"{name}.t"] = torch.tensor(timesteps)[torch.randint(len(timesteps), (count,), generator=times)]
    else:
        inputs[f"{name}.t"] = random_timesteps(count, len(base.student.abar), timestep_range, times)
    return inputs


@torch.no_grad()
def latents_of(base: Base, inputs: Inputs, name: str) -> Tensor:
    """Return scaled latents [b, c, h, w] of a batch, as they are given or encoded from its pixels."""
    latents = inputs.get(f"{name}.latents")
    return base.encode(inputs[f"{name}.pixels"], inputs[f"{name}.noise"]) if latents is None else latents


def reconstruction(
    denoiser: Denoiser, z0: Tensor, eps: Tensor, t: Tensor, keys_values: KeysValues, mask: Tensor
) -> Tensor:
    """Return `reconstruction_loss` [b] for latents z0 [b, c, h, w] at timesteps t [b]."""
    prediction = denoiser.predict(add_noise(z0, eps, t, denoiser.abar), t, keys_values)
    target = training_target(z0, eps, t, denoiser.abar, denoiser.prediction_type)
    return reconstruction_loss(prediction, target, mask)


def reconstruction_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_rec (paper, eq. 1) over the valid region: the sum over channels and valid cells, per valid cell.

    `mask` [b, 1, h, w] is 1 in valid cells, at least one per sample, else 0. With four channels the loss is four times
    a mean over elements. The factor matters only to gradient clipping.
    """
    squared = (prediction.float() - target.float()) ** 2 * mask
    return squared.sum((1, 2, 3)) / mask.sum((1, 2, 3))
