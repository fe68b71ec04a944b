"""Generate with several steps: DDIM (Song et al. 2021, eq. 12 with eta = 0) with classifier-free guidance.

In more than one step, SD-Turbo's own scheduler takes the same steps: Euler's method in sigma is DDIM.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from opad_core.adapters.adapter import text_states_of
from opad_core.bases.loading import Base
from opad_core.errors import OpadError, OtherBaseError
from opad_core.generation.bundle import Bundle, Network
from opad_core.generation.generator import noise_of
from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.schedule import T_MAX, predict_x0
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.pixels import to_uint8

STEPS, GUIDANCE = 25, 7.5
"""What the paper generates the teacher's images with (section 4)."""


def teacher_image(
    base: Base, bundle: Bundle | None, prompt: str, seed: int, *, steps: int = STEPS, guidance: float = GUIDANCE
) -> np.ndarray:
    """Generate an image [r, r, 3] uint8 with the teacher and its bundle, or with the untouched teacher.

    Raises OpadError for the bundle of a student or of another base, for a prompt that does not name the concept, and
    for a number of steps outside 1..1000.
    """
    image: np.ndarray = teacher_images(base, bundle, prompt, [seed], steps=steps, guidance=guidance)[0]
    return image


def teacher_images(
    base: Base, bundle: Bundle | None, prompt: str, seeds: Sequence[int], *, steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> np.ndarray:  # fmt: skip
    """Generate images [n, r, r, 3] uint8 of one prompt at once, otherwise as `teacher_image` does."""
    return _images("teacher", base, bundle, prompt, seeds, steps, guidance)


def student_images(
    base: Base, bundle: Bundle | None, prompt: str, seeds: Sequence[int], *, steps: int
) -> np.ndarray:  # fmt: skip
    """Generate images [n, r, r, 3] uint8 in several steps with the student, without guidance.

    Raises OpadError as `teacher_image` does.

    SD-Turbo was distilled for 1 to 4 steps. A student that knows one timestep only, such as nano's, gains nothing.
    """
    return _images("student", base, bundle, prompt, seeds, steps, 1.0)


@torch.no_grad()
def _images(
    network: Network,
    base: Base,
    bundle: Bundle | None,
    prompt: str,
    seeds: Sequence[int],
    steps: int,
    guidance: float,
) -> np.ndarray:
    if not 1 <= steps <= T_MAX + 1:
        raise OpadError(f"steps must be in 1..{T_MAX + 1}, got {steps}")
    denoiser = base.teacher if network == "teacher" else base.student
    null_states = base.text.encode([""], [""], [None])
    if bundle is None:
        keys_values = denoiser.keys_values(base.text.encode([prompt], [""], [None]))
        null_keys_values = denoiser.keys_values(null_states)
    else:
        if bundle.network != network:
            ways = {"student": "generates in one step or a few", "teacher": "generates in many steps"}
            raise OpadError(f"the bundle is of the {bundle.network}, which {ways[bundle.network]}; use the {network}'s")
        if bundle.base_sha256 != base.manifest.sha256:
            raise OtherBaseError(
                f"the {network} learned on another base ({bundle.base}) than the one loaded ({base.manifest.name})"
            )
        if PLACEHOLDER not in prompt:
            raise OpadError(f"the prompt does not name {PLACEHOLDER}; add it where the concept belongs")
        adapter = bundle.adapter.to(base.device)
        denoiser = adapter.denoiser(denoiser)
        text_states = text_states_of(adapter, base.text, [prompt], bundle.class_noun)
        keys_values = adapter.keys_values(text_states, denoiser)
        null_keys_values = adapter.keys_values(null_states, denoiser)
    eps = torch.stack([noise_of(seed, base.latent_shape) for seed in seeds]).to(base.device)
    if network == "student":
        eps = base.student.first_scale * eps
    keys_values, null_keys_values = (
        {layer: (k.expand(len(eps), -1, -1), v.expand(len(eps), -1, -1)) for layer, (k, v) in each.items()}
        for each in (keys_values, null_keys_values)
    )
    latents = many_step(denoiser, eps, keys_values, null_keys_values, steps=steps, guidance=guidance)
    return to_uint8(base.decode(latents))


def many_step(
    denoiser: Denoiser,
    eps: Tensor,
    keys_values: KeysValues,
    null_keys_values: KeysValues,
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Tensor:
    """Generate clean latents from noise [b, 4, h, w] ~ N(0, 1), float32.

    The timesteps begin at 999 and have equal distances ("trailing"), and the last step leads to x0 without noise. Keys
    and values are those of the prompts and of the empty prompt. Guidance 1 does not use the latter, and takes half the
    time. Raises ValueError unless 1 <= steps <= 1000.
    """
    times = timesteps(steps)
    z_t = eps
    for t, following in zip(times, [*times[1:], None], strict=True):
        x0, noise = _predicted(denoiser, z_t, t, keys_values, null_keys_values, guidance)
        if following is None:
            return x0
        a = denoiser.abar[following]
        z_t = a.sqrt() * x0 + (1 - a).sqrt() * noise
    raise AssertionError("there is at least one step")


def timesteps(steps: int) -> list[int]:
    """Return the timesteps of `steps` evaluations, from 999 down."""
    if not 1 <= steps <= T_MAX + 1:
        raise ValueError(f"steps must be in 1..{T_MAX + 1}, got {steps}")
    return [round((T_MAX + 1) * (steps - number) / steps) - 1 for number in range(steps)]


def _predicted(
    denoiser: Denoiser, z_t: Tensor, t: int, keys_values: KeysValues, null_keys_values: KeysValues, guidance: float
) -> tuple[Tensor, Tensor]:
    """Return the predicted x0 and noise at one timestep, guided, float32."""
    times = torch.full((len(z_t),), t, device=z_t.device)
    prediction = denoiser.predict(z_t, times, keys_values).float()
    if guidance != 1:
        null = denoiser.predict(z_t, times, null_keys_values).float()
        prediction = null + guidance * (prediction - null)
    x0 = predict_x0(prediction, z_t, t, denoiser.abar, denoiser.prediction_type)
    a = denoiser.abar[t]
    return x0, (z_t - a.sqrt() * x0) / (1 - a).sqrt()
