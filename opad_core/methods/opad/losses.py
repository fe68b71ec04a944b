"""The losses of OPAD. Each returns one value per sample, [b]; weights and means belong to the loop.

| paper      | here                    | arguments                         |
|------------|-------------------------|-----------------------------------|
| L_rec      | `methods.reconstruction` | teacher prediction and its target |
| L_id       | `identity_loss`         | phi(x_st), phi(x_tc)              |
| L_mse      | `latent_loss`           | z_st, z_tc                        |
| L_swd      | `ms_swd`                | x_st, x_tc                        |
| L_adv (G)  | `generator_loss`        | D_k(x_st)                         |
| L_adv (D)  | `discriminator_loss`    | D_k(x_r), D_k(x_st)               |

x are pixels in [-1, 1] (not clamped), [b, 3, h, w]; z are scaled latents, [b, 4, h', w']; st = student,
tc = teacher-denoised student, r = real.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from opad_core.networks.resampling import constant, pyramid_down, reflect_pad

REAL, FAKE = 1, 0
"""Class indices of the two discriminator logits."""


@constant
def _xyz_of_rgb() -> Tensor:
    """IEC 61966-2-1: linear sRGB to XYZ, rows divided by the D65 white point, so that white becomes (1, 1, 1)."""
    return torch.tensor(
        [
            [0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883],
        ]
    )


@constant
def _lab_of_f() -> Tensor:
    return torch.tensor([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])


@constant
def _lab_offset() -> Tensor:
    return torch.tensor([16.0, 0.0, 0.0]).view(1, 3, 1, 1)


def identity_loss(features: Tensor, target_features: Tensor) -> Tensor:
    """L_id (paper, eq. 2): 1 - mean cosine over identity tokens. Both [b, tokens, d]; the target is detached."""
    return 1 - F.cosine_similarity(features, target_features, dim=-1).mean(1)


def latent_loss(z_student: Tensor, z_target: Tensor) -> Tensor:
    """L_mse: half the mean squared distance of scaled latents."""
    return 0.5 * ((z_student - z_target) ** 2).mean((1, 2, 3))


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB to CIELAB (D65). Input in [0, 1] gives L in 0..100; values outside are extrapolated."""
    bend = rgb.clamp(min=0.04045)  # keeps the unused branch of `where` and its gradient finite
    linear = torch.where(rgb > 0.04045, ((bend + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = torch.einsum("ij,bjhw->bihw", _xyz_of_rgb(rgb), linear)
    f = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
    lab = torch.einsum("ij,bjhw->bihw", _lab_of_f(rgb), f)
    return lab - _lab_offset(rgb)


def swd_filters(levels: int, projections: int, patch: int, *, generator: torch.Generator) -> list[Tensor]:
    """Return new unit filters [projections, 3, patch, patch] for each level of `ms_swd`, on the CPU.

    They are channels_last, which halves the time of the convolutions and their gradients on a CPU.
    """
    filters = [torch.randn(projections, 3, patch, patch, generator=generator) for _ in range(levels)]
    unit = [level / level.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for level in filters]
    return [level.to(memory_format=torch.channels_last) for level in unit]


def ms_swd(x: Tensor, y: Tensor, filters: list[Tensor]) -> Tensor:
    """Multi-scale sliced Wasserstein distance of colors and textures (He et al., arXiv 2407.10181).

    Each level of a Gaussian pyramid in RGB is converted to CIELAB and filtered with its random `filters`
    [projections, 3, patch, patch], the same for both images. The distance is the mean difference of the sorted
    responses, averaged over levels.
    """
    distance = x.new_zeros(x.shape[0])
    for level, projections in enumerate(filters):
        if level:
            x, y = pyramid_down(x), pyramid_down(y)
        margin = projections.shape[-1] // 2
        # y first: it carries no gradient, so nothing but the values is kept while x needs most memory
        sorted_y, sorted_x = (
            F.conv2d(reflect_pad(rgb_to_lab(image), margin), projections).flatten(2).sort(dim=-1).values
            for image in (y, x)
        )
        distance = distance + (sorted_x - sorted_y).abs().mean((1, 2))
    return distance / len(filters)


def generator_loss(logits_fake: Tensor) -> Tensor:
    """The student's L_adv (supplement, Alg. 1 line 20): cross-entropy of logits [b, 2] with "real"."""
    return F.cross_entropy(logits_fake.float(), torch.full_like(logits_fake[:, 0], REAL).long(), reduction="none")


def discriminator_loss(logits_real: Tensor, logits_fake: Tensor, *, real_label: float = 1.0) -> Tensor:
    """A discriminator's L_adv (Alg. 1 line 24), halved as in the authors' setting. Generated images are detached.

    Real images should get the probability `real_label` of "real".
    """
    is_real, is_fake = (-logits.float().log_softmax(1) for logits in (logits_real, logits_fake))
    loss_real = real_label * is_real[:, REAL] + (1 - real_label) * is_real[:, FAKE]
    return 0.5 * (loss_real + is_fake[:, FAKE])
