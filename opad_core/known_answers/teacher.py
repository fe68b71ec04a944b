"""Check of the teacher: does it denoise a photo?"""

import torch

from opad_core.bases.loading import Base
from opad_core.known_answers.answer import Answer, answer, skipped
from opad_core.known_answers.photos import NO_PHOTOS, Photos, all_pixels
from opad_core.networks.schedule import PREDICTION_TYPES, add_noise, predict_x0

LITTLE, MUCH = 200, 600
"""Timesteps. At 200 both readings of a prediction give nearly the same image, so 600 tells which one is right: there
v = 0.40 eps - 0.92 z0, and read as noise it gives 2.5 z0."""
NEAR, FAR = 0.8, 1.5
"""Least improvement over the noisy latents at 200, and least ratio of the errors of both readings at 600. Nano has 0.69
and 3.2."""
PHOTOS = 8


@torch.no_grad()
def denoised_photo(base: Base, photos: list[Photos]) -> Answer:
    """Add noise to photos, let the teacher remove it, and read its prediction in both ways."""
    check = "the teacher denoises photos"
    if not photos:
        return skipped(check, NO_PHOTOS)
    near = _errors(base, photos, LITTLE)
    far = _errors(base, photos, MUCH)
    own = base.teacher.prediction_type
    [other] = (kind for kind in PREDICTION_TYPES if kind != own)
    return answer(
        check,
        near[own] < NEAR * near["noisy"] and far[other] > FAR * far[own],
        f"at t = {LITTLE} its image is off by {near[own]:.2f}, the noisy one by {near['noisy']:.2f}; at t = {MUCH} "
        f"by {far[own]:.2f}, and by {far[other]:.2f} if read as {other}",
        wrong=f"expected are less than {NEAR} and more than {FAR} times as much. The teacher's weights and its "
        "scheduler file do not belong together, and nothing can be learned from it; fetch the base again",
    )


def _errors(base: Base, photos: list[Photos], t: int) -> dict[str, float]:
    """Return the relative errors of noisy latents and of the teacher's x0 in both readings, at one timestep."""
    teacher, x = base.teacher, all_pixels(base, photos)[:PHOTOS]
    z0 = base.encode(x, x.new_zeros(len(x), *base.latent_shape))
    eps = torch.randn(z0.shape, generator=torch.Generator().manual_seed(0)).to(z0)
    times = torch.full((len(z0),), t, device=base.device)
    z_t = add_noise(z0, eps, times, teacher.abar)
    keys_values = teacher.keys_values(base.text.encode(["a photo"] * len(z0), [""] * len(z0), [None] * len(z0)))
    prediction = teacher.predict(z_t, times, keys_values)
    x0 = {kind: predict_x0(prediction, z_t, times, teacher.abar, kind) for kind in PREDICTION_TYPES}
    x0["noisy"] = z_t / teacher.abar[t].sqrt()
    return {name: float((image - z0).norm() / z0.norm()) for name, image in x0.items()}
