"""Align the student with the teacher: the teacher's target and the distances to it (Algorithm 1, lines 15-19)."""

from types import EllipsisType

import torch
from torch import Tensor

from opad_core.adapters.key_value import KeyValueProjections
from opad_core.bases.loading import Base
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.opad.losses import identity_loss, latent_loss, ms_swd
from opad_core.networks.denoiser import Denoiser
from opad_core.networks.schedule import add_noise, random_timesteps
from opad_core.training.method import Step

Crop = tuple[EllipsisType, slice, slice]


def alignment_weight(config: OpadConfig, abar: Tensor) -> Tensor:
    """Return the weight c(t) [b] of timesteps with cumulative alphas `abar` [b]."""
    return abar if config.target_weight == "abar" else torch.ones_like(abar)


@torch.no_grad()
def teacher_target(
    teacher: Denoiser,
    projections: KeyValueProjections,
    z_student: Tensor,
    eps: Tensor,
    t: Tensor,
    *,
    text_states: Tensor,
    null_states: Tensor,
    guidance: float,
) -> Tensor:
    """Return z_tc: the student's latents, noised again and denoised once by the teacher with guidance.

    `eps` is the noise that the student started from. It keeps z_t on the student's line from noise to image, so the
    teacher corrects the image instead of inventing another.
    """
    z_t = add_noise(z_student, eps, t, teacher.abar)
    if guidance == 1:  # the prediction without text has weight 0
        return teacher.denoise(z_t, t, projections(text_states))
    both = torch.cat([null_states.expand_as(text_states), text_states])
    x0_null, x0_text = teacher.denoise(torch.cat([z_t, z_t]), torch.cat([t, t]), projections(both)).chunk(2)
    return x0_null + guidance * (x0_text - x0_null)


def identity_tokens(base: Base, config: OpadConfig, x: Tensor) -> Tensor:
    """Return phi(x) [b, tokens, d] of pixels x in [-1, 1]."""
    tokens: Tensor = base.identity(x, resize_mode=config.identity_resize, normalize=config.normalize_backbones)
    return tokens


def aligned(
    base: Base,
    config: OpadConfig,
    step: Step,
    projections: KeyValueProjections,
    *,
    z_student: Tensor,
    x_student: Tensor,
    identity: Tensor | None,
    crop: Crop,
    eps: Tensor,
    text_states: Tensor,
    null_states: Tensor,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the mean of L_id, L_mse and L_swd, and their weighted mean with c(t). Losses of weight 0 are omitted.

    `projections` and `text_states` [b, tokens, d] are the teacher's. `identity` are the student's identity tokens, or
    None without L_id. Only images with a timestep below `max_target_timestep` get a target. The others count as 0 in
    the weighted mean, and not at all in the mean.
    """
    if not (config.lambda_id or config.lambda_mse or config.lambda_swd):
        return {}
    abar = base.teacher.abar
    times = random_timesteps(len(eps), len(abar), config.target_timestep_range, step.stream("student-time"))
    last = config.max_target_timestep * len(abar)
    rows = [row for row, time in enumerate(times.tolist()) if time < last]
    if not rows:
        return {}
    t = times[rows].to(base.device)
    c_t = alignment_weight(config, abar[t])
    z_target = teacher_target(
        base.teacher, projections, z_student.detach()[rows], eps[rows], t,
        text_states=text_states[rows], null_states=null_states, guidance=config.guidance,
    )  # fmt: skip
    with torch.no_grad():
        x_target = base.decode(z_target[crop])
    distances = alignment_losses(
        base, config,
        z_student=z_student[rows], x_student=x_student[rows],
        identity=None if identity is None else identity[rows],
        z_target=z_target, x_target=x_target, filters=step.stream("swd"),
    )  # fmt: skip
    return {
        name: (per_sample.mean(), weight * (c_t * per_sample).sum() / len(times))
        for name, (weight, per_sample) in distances.items()
    }


def alignment_losses(
    base: Base,
    config: OpadConfig,
    *,
    z_student: Tensor,
    x_student: Tensor,
    identity: Tensor | None,
    z_target: Tensor,
    x_target: Tensor,
    filters: torch.Generator,
) -> dict[str, tuple[float, Tensor]]:
    """Return the weight and the value [b] of L_id, L_mse and L_swd. Losses of weight 0 are omitted.

    `filters` generates the filters of MS-SWD. The targets carry no gradient.
    """
    losses: dict[str, tuple[float, Tensor]] = {}
    if identity is not None:
        with torch.no_grad():
            target_identity = identity_tokens(base, config, x_target)
        losses["id"] = (config.lambda_id, identity_loss(identity, target_identity))
    if config.lambda_mse:
        losses["mse"] = (config.lambda_mse, latent_loss(z_student, z_target))
    if config.lambda_swd:
        x, y = (x_student * 0.5 + 0.5, x_target * 0.5 + 0.5) if config.swd_unit_range else (x_student, x_target)
        losses["swd"] = (
            config.lambda_swd,
            ms_swd(
                x, y,
                levels=config.swd_levels, projections=config.swd_projections, patch=config.swd_patch,
                generator=filters,
            ),
        )  # fmt: skip
    return losses
