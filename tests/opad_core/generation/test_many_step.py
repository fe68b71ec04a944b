import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.generation.many_step import many_step, student_images, timesteps
from opad_core.networks.denoiser import Denoiser

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PROMPTS = ["a photo of a dog", "a mug on the beach"]


@torch.no_grad()
def keys_values(base, prompts):
    return base.teacher.keys_values(base.text.encode(prompts, [""] * len(prompts), [None] * len(prompts)))


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_it_is_diffusers_ddim(base, prediction_type):
    """Eta 0, trailing spacing, and a last step to alpha 1."""
    teacher = Denoiser(base.teacher.unet, base.teacher.abar, prediction_type, first_scale=1.0)
    eps = torch.randn(2, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    with_text, without = keys_values(base, PROMPTS), keys_values(base, ["", ""])
    mine = many_step(teacher, eps, with_text, without, steps=5, guidance=3.0)
    scheduler = DDIMScheduler(
        **BETAS, prediction_type=prediction_type, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    scheduler.set_timesteps(5)
    z_t = eps
    for t in scheduler.timesteps:
        times = torch.full((2,), int(t))
        text, null = (teacher.predict(z_t, times, each) for each in (with_text, without))
        z_t = scheduler.step(null + 3.0 * (text - null), t, z_t).prev_sample
    torch.testing.assert_close(mine, z_t, rtol=1e-4, atol=1e-4)  # five steps, each divides by alphas down to 0.07


@torch.no_grad()
def test_without_guidance_the_empty_prompt_plays_no_part(base):
    eps = torch.randn(1, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    with_text = keys_values(base, PROMPTS[:1])
    assert torch.equal(
        many_step(base.teacher, eps, with_text, {}, steps=2, guidance=1.0),
        many_step(base.teacher, eps, with_text, with_text, steps=2, guidance=1.0),
    )


@torch.no_grad()
def test_a_students_steps_are_those_of_its_own_scheduler(base):
    """SD-Turbo's Euler steps in sigma, from its first noise."""
    noise = torch.randn(1, *base.latent_shape, generator=torch.Generator().manual_seed(3))
    prompt, student = "a photo of a dog", base.student
    with_text = student.keys_values(base.text.encode([prompt], [""], [None]))
    scheduler = EulerDiscreteScheduler(**BETAS, prediction_type=student.prediction_type, timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    z = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        z_t = scheduler.scale_model_input(z, t)
        z = scheduler.step(student.predict(z_t, torch.full((1,), int(t)), with_text), t, z).prev_sample
    pixels = ((base.decode(z).clamp(-1, 1) + 1) * 127.5)[0].permute(1, 2, 0).numpy()
    [mine] = student_images(base, None, prompt, [3], steps=4)
    assert np.abs(mine - pixels).mean() < 1  # the base's first noise is not scaled by sigma^2 / (sigma^2 + 1)
    _, other = student_images(base, None, prompt, [8, 3], steps=1)
    assert np.abs(other - pixels).mean() > 1
    [one_step] = OneStepGenerator(base).generate([ImageRequest(None, prompt, 3)])
    assert np.abs(other.astype(int) - one_step).max() <= 1  # another order of operations may round differently


def test_timesteps_begin_at_pure_noise_and_have_equal_distances():
    assert timesteps(1) == [999]
    assert timesteps(4) == [999, 749, 499, 249]
    assert timesteps(1000)[-1] == 0
    with pytest.raises(ValueError, match="got 0"):
        timesteps(0)
