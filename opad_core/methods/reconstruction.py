"""The denoising loss, which every method here uses."""

from torch import Tensor

from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.schedule import add_noise, training_target


def reconstruction(
    denoiser: Denoiser, z0: Tensor, eps: Tensor, t: Tensor, keys_values: KeysValues, mask: Tensor
) -> Tensor:
    """Return `reconstruction_loss` [b] for latents z0 [b, c, h, w] at timesteps t [b]."""
    prediction = denoiser.predict(add_noise(z0, eps, t, denoiser.abar), t, keys_values)
    target = training_target(z0, eps, t, denoiser.abar, denoiser.prediction_type)
    return reconstruction_loss(prediction, target, mask.to(prediction.device))


def reconstruction_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_rec (paper, eq. 1) over the valid region: the sum over channels and valid cells, per valid cell.

    `mask` [b, 1, h, w] is 1 in valid cells, at least one per sample, else 0. With four channels the loss is four times
    a mean over elements. The factor matters only to gradient clipping.
    """
    squared = (prediction.float() - target.float()) ** 2 * mask
    return squared.sum((1, 2, 3)) / mask.sum((1, 2, 3))
