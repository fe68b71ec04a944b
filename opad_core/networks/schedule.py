"""The noise schedule, as pure functions (paper, section 3; DDPM notation).

    z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps

`abar` is the table of cumulative alpha products, [1000]; `t` holds one integer timestep per sample, [b].
"""

from typing import Any, cast

import diffusers
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from opad_core.errors import OpadError

T_MAX = 999
"""The timestep of pure noise, from which the student generates in one step."""
PREDICTION_TYPES = ("epsilon", "v_prediction")


def read_schedule(config: dict[str, Any]) -> tuple[Tensor, str]:
    """Return abar [steps], float32, and the prediction type of a scheduler's configuration.

    The configuration names its diffusers class. Raises OpadError for a class without a discrete noise schedule, and for
    an unknown prediction type.
    """
    name = str(config.get("_class_name"))
    kind: Any = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise OpadError(f"the base's scheduler is {name!r}, but diffusers has no such scheduler")
    scheduler = cast(Any, kind).from_config(config)
    abar, prediction_type = getattr(scheduler, "alphas_cumprod", None), config.get("prediction_type", "epsilon")
    if abar is None:
        raise OpadError(f"the base's scheduler {name} has no table of noise levels; a diffusion schedule is needed")
    if prediction_type not in PREDICTION_TYPES:
        raise OpadError(f"the base predicts {prediction_type!r}; known are {' and '.join(PREDICTION_TYPES)}")
    return abar.float(), prediction_type


def first_scale(config: dict[str, Any]) -> float:
    """Return the factor of the noise that a one-step student reads, as its scheduler prepares it for t = 999.

    It is sqrt(1 - abar_999) for an Euler scheduler with "trailing" spacing: z_999 without a signal. Schedulers of
    DDPM's form (DDPM, DDIM, PNDM) pass the noise on as it is, a factor of 1. `read_schedule` refuses unknown ones.
    """
    scheduler = cast(Any, getattr(diffusers, config["_class_name"])).from_config(config)
    noise = torch.ones(1) * scheduler.init_noise_sigma
    return float(scheduler.scale_model_input(noise, torch.tensor(T_MAX)))


def _at(abar: Tensor, t: Tensor | int) -> Tensor:
    return abar[t].view(-1, 1, 1, 1)


def add_noise(z0: Tensor, eps: Tensor, t: Tensor, abar: Tensor) -> Tensor:
    a = _at(abar, t)
    return a.sqrt() * z0 + (1 - a).sqrt() * eps


def training_target(z0: Tensor, eps: Tensor, t: Tensor, abar: Tensor, prediction_type: str) -> Tensor:
    """Return the training target of a prediction type: the noise, or v = sqrt(abar) eps - sqrt(1-abar) z0."""
    if prediction_type == "epsilon":
        return eps
    a = _at(abar, t)
    return a.sqrt() * eps - (1 - a).sqrt() * z0


def predict_x0(prediction: Tensor, z_t: Tensor, t: Tensor | int, abar: Tensor, prediction_type: str) -> Tensor:
    """Convert a prediction to clean latents, in float32. A `t` that is a number is the timestep of every sample.

    At t = 999 an epsilon prediction is multiplied by sqrt((1-abar)/abar) = 14.6, so half precision would show as grain.
    """
    prediction, z_t, a = prediction.float(), z_t.float(), _at(abar, t)
    if prediction_type == "epsilon":
        return (z_t - (1 - a).sqrt() * prediction) / a.sqrt()
    return a.sqrt() * z_t - (1 - a).sqrt() * prediction


def random_timesteps(count: int, steps: int, share: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Sample timesteps [count] on the CPU, uniformly from a share (from, to) of a schedule of `steps`."""
    low, high = share
    return torch.randint(round(low * steps), round(high * steps), (count,), generator=generator)
