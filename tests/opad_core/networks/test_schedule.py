import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler

from opad_core.errors import OpadError
from opad_core.networks.schedule import (
    T_MAX,
    add_noise,
    first_scale,
    predict_x0,
    random_timesteps,
    read_schedule,
    training_target,
)

CONFIG = {
    "_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "num_train_timesteps": 1000, "prediction_type": "v_prediction",
}  # fmt: skip
ABAR, _ = read_schedule(CONFIG)


def test_the_table_is_stable_diffusions():
    # Published values of the scaled linear schedule, four digits.
    assert ABAR[[0, 500, 999]].tolist() == pytest.approx([0.9992, 0.2763, 0.00466], rel=2e-3)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_gives_the_clean_latents_back(prediction_type):
    z0, eps = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 500, 999])
    prediction = training_target(z0, eps, t, ABAR, prediction_type)
    x0 = predict_x0(prediction, add_noise(z0, eps, t, ABAR), t, ABAR, prediction_type)
    # float32 rounding of z_t, 6e-8, is multiplied by 14.6 at t = 999 for epsilon.
    torch.testing.assert_close(x0, z0, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_one_step_is_the_euler_schedulers(prediction_type):
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing",
        prediction_type=prediction_type,
    )  # fmt: skip
    scheduler.set_timesteps(1)
    eps, prediction = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    noisy = eps * scheduler.init_noise_sigma
    theirs_in = scheduler.scale_model_input(noisy, scheduler.timesteps[0])
    theirs = scheduler.step(prediction, scheduler.timesteps[0], noisy).prev_sample
    ours_in = first_scale(dict(scheduler.config) | {"_class_name": "EulerDiscreteScheduler"}) * eps
    ours = predict_x0(prediction, ours_in, torch.tensor([T_MAX]), ABAR, prediction_type)
    # With trailing spacing init_noise_sigma is sigma, so input and result agree up to rounding.
    torch.testing.assert_close(ours_in, theirs_in, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["PNDMScheduler", "DDPMScheduler", "DDIMScheduler"])
def test_the_one_step_of_a_scheduler_of_ddpms_form_starts_from_the_noise_itself(name):
    """As AMD's students are run: DDPM's scheduler with the single timestep 999, whose result is the clean latents."""
    config = CONFIG | {"_class_name": name, "prediction_type": "epsilon", "clip_sample": False}
    scheduler = DDPMScheduler.from_config(config)
    scheduler.set_timesteps(timesteps=[T_MAX])
    eps, prediction = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    noise = eps * scheduler.init_noise_sigma
    theirs_in = scheduler.scale_model_input(noise, T_MAX)
    theirs = scheduler.step(prediction, T_MAX, noise, generator=torch.Generator().manual_seed(2)).prev_sample
    ours_in = first_scale(config) * eps
    ours = predict_x0(prediction, ours_in, T_MAX, ABAR, "epsilon")
    assert torch.equal(ours_in, theirs_in)
    # their step adds noise of a variance of 1e-20; float32 rounding is multiplied by 14.6
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def test_timesteps_come_from_their_share_of_the_schedule():
    timesteps = random_timesteps(400, 1000, (0.6, 1.0), torch.Generator().manual_seed(0))
    assert 600 <= int(timesteps.min()) < 610
    assert 990 < int(timesteps.max()) <= 999


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize(
    ("beta_schedule", "betas"),
    [
        ("linear", torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)),
        ("scaled_linear", torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2),
    ],
)
def test_the_schedule_is_the_one_that_the_base_names(name, beta_schedule, betas):
    abar, prediction_type = read_schedule(CONFIG | {"_class_name": name, "beta_schedule": beta_schedule})
    # diffusers multiplies a thousand factors in float32, which is accurate to 1e-6.
    torch.testing.assert_close(abar.double(), (1 - betas).cumprod(0), rtol=5e-6, atol=0)
    assert prediction_type == "v_prediction"


def test_the_default_prediction_type_is_epsilon():
    assert read_schedule({key: value for key, value in CONFIG.items() if key != "prediction_type"})[1] == "epsilon"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "has no table of noise levels"),
        ({"_class_name": "UNet2DConditionModel"}, "but diffusers has no such scheduler"),
        ({"_class_name": "Nothing"}, "'Nothing', but diffusers has no such scheduler"),
        ({"prediction_type": "sample"}, "the base predicts 'sample'; known are epsilon and v_prediction"),
    ],
)
def test_an_unsupported_schedule_is_refused(changes, sentence):
    with pytest.raises(OpadError, match=sentence):
        read_schedule(CONFIG | changes)
