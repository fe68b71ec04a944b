"""Align the student with the teacher: the target and the distances to it (Algorithm 1, lines 15-19)."""

import torch
from torch import Tensor

from opad_core.adapters.key_value import KeyValueProjections
from opad_core.bases.loading import Base
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.opad.losses import identity_loss, latent_loss, ms_swd
from opad_core.networks.denoiser import Denoiser
from opad_core.networks.resampling import cropped
from opad_core.networks.schedule import add_noise
from opad_core.training.method import Inputs


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
    inputs: Inputs,
    projections: KeyValueProjections,
    *,
    z_student: Tensor,
    x_student: Tensor,
    identity: Tensor | None,
    text_states: Tensor,
    null_states: Tensor,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the mean of L_id, L_mse and L_swd, and their weighted mean with c(t). Losses of weight 0 are omitted.

    `projections` and `text_states` [b, tokens, d] are the teacher's. `identity` are the student's identity tokens, or
    None without L_id. Only images with a timestep below `max_target_timestep` are compared with a target. The others
    count as 0 in the weighted mean, and not at all in the mean. All get a target, so that the number of compared images
    changes no shape. If the inputs hold latents of the teacher's samples, these are the targets, with c = 1.
    """
    compared = inputs["target.compared"]
    if "target.latents" in inputs:
        z_target, c = inputs["target.latents"], torch.ones_like(z_student[:, 0, 0, 0])
    else:
        t = inputs["target.t"]
        z_target = teacher_target(
            base.teacher, projections, z_student.detach(), inputs["eps"], t,
            text_states=text_states, null_states=null_states, guidance=config.guidance,
        )  # fmt: skip
        c = alignment_weight(config, base.teacher.abar[t])
    # Any target would do for the others, but their distances must be finite.
    z_target = torch.where(compared.view(-1, 1, 1, 1), z_target, z_student.detach())
    with torch.no_grad():
        x_target = base.decode(cropped(z_target, inputs["crop.rows"], inputs["crop.columns"]))
    distances = alignment_losses(
        base, config,
        z_student=z_student, x_student=x_student, identity=identity,
        z_target=z_target, x_target=x_target,
        filters=[inputs[f"swd.{level}"] for level in range(config.swd_levels)] if config.lambda_swd else [],
    )  # fmt: skip
    c_t = torch.where(compared, c, 0.0)
    share = compared / compared.sum()
    return {
        name: ((share * per_sample).sum(), weight * (c_t * per_sample).mean())
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
    filters: list[Tensor],
) -> dict[str, tuple[float, Tensor]]:
    """Return the weight and the value [b] of L_id, L_mse and L_swd. Losses of weight 0 are omitted.

    `filters` are those of MS-SWD, by level. The targets carry no gradient.
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
        losses["swd"] = (config.lambda_swd, ms_swd(x, y, filters))
    return losses
