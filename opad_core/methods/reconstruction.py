"""Learning to denoise images of the concept: the loss that every method here has in one form."""

from torch import Tensor

from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.schedule import add_noise, training_target


def reconstruction(
    denoiser: Denoiser, z0: Tensor, eps: Tensor, t: Tensor, keys_values: KeysValues, mask: Tensor
) -> Tensor:
    """Return the loss [b] of denoising latents z0 [b, c, h, w] at timesteps t [b]; `mask` as in the loss."""
    prediction = denoiser.predict(add_noise(z0, eps, t, denoiser.abar), t, keys_values)
    target = training_target(z0, eps, t, denoiser.abar, denoiser.prediction_type)
    return reconstruction_loss(prediction, target, mask.to(prediction.device))


def reconstruction_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_rec (paper, eq. 1) over the valid region: sum over channels and valid cells / number of valid cells.

    `mask` is [b, 1, h, w] of 0 and 1 with at least one 1 per sample. Four channels make this four times a mean per
    element, which matters only to the gradient clip.
    """
    squared = (prediction.float() - target.float()) ** 2 * mask
    return squared.sum((1, 2, 3)) / mask.sum((1, 2, 3))
