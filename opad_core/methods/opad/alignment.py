"""What pulls the student towards the teacher: the corrected picture, and distances to it (Algorithm 1, lines 15-19)."""

import torch
from torch import Tensor

from opad_core.adapters.key_value import KeyValueProjections
from opad_core.bases.loading import Base
from opad_core.config import OpadConfig
from opad_core.methods.opad.losses import identity_loss, latent_loss, ms_swd
from opad_core.networks.denoiser import Denoiser
from opad_core.networks.schedule import add_noise


def alignment_weight(config: OpadConfig, abar: Tensor) -> Tensor:
    """c(t) of times with these cumulative alphas, [b]."""
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
    """z_tc: the student's latents re-noised with the student's own noise, denoised once with guidance.

    The same noise keeps z_t on the student's own line from noise to image: the teacher corrects, not re-invents.
    """
    z_t = add_noise(z_student, eps, t, teacher.abar)
    if guidance == 1:  # the prediction without text would count nothing
        return teacher.denoise(z_t, t, projections(text_states))
    both = torch.cat([null_states.expand_as(text_states), text_states])
    x0_null, x0_text = teacher.denoise(torch.cat([z_t, z_t]), torch.cat([t, t]), projections(both)).chunk(2)
    return x0_null + guidance * (x0_text - x0_null)


def identity_tokens(base: Base, config: OpadConfig, x: Tensor) -> Tensor:
    """phi(x) of pixels in [-1, 1], [b, tokens, d]."""
    tokens: Tensor = base.identity(x, resize_mode=config.identity_resize, normalize=config.normalize_backbones)
    return tokens


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
    """L_id, L_mse and L_swd with their weights, those that have one; each [b].

    `identity` are the student's identity tokens, None without L_id; `filters` draws MS-SWD's. The targets carry no
    gradient.
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
