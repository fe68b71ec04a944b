"""Which noise stands for which picture: the coupling that student and teacher are trained with.

From independent noise the one-step answer, and the teacher's at high noise, is the mean of all pictures of a caption.
Keys and values that were trained to give means have little say in details, and a concept enters through them alone: of
one mug, fitted through the teacher's, an error of 0.39 of unit variance was left without the coupling and 0.30 with it.
Couplings of noise and data are also what straightens paths in flow matching (Pooladian et al. 2023); this one is
learned.
"""

from torch import Tensor, nn

from opad_core.nano.build.architecture import LATENT_CHANNELS, LATENT_SIZE, TEXT_WIDTH
from opad_core.nano.build.stage import Build


class Coder(nn.Module):
    """Latents [b, 80, 8, 8] of a real picture and its caption's summary [b, 128] to the noise that stands for it, and
    the code's divergence [b].

    Told the caption, it can spread the pictures of every caption over all codes. A coder that saw the picture alone
    put the scene into the code: drawn from plain noise, a third of the scenes were then not the caption's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, 64, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * LATENT_SIZE**2, 256)
        )
        self.words = nn.Linear(TEXT_WIDTH, 256, bias=False)
        self.code = nn.Linear(256, 2 * LATENT_CHANNELS)

    def forward(self, z0: Tensor, summary: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """`eps` is unit noise; what it says beside its channel means stays as it is."""
        mean, log_variance = self.code((self.picture(z0) + self.words(summary)).relu()).chunk(2, 1)
        log_variance = log_variance.clamp(-8, 4)
        drawn = eps.mean((2, 3)) * LATENT_SIZE  # unit normal again: the mean of 64 numbers has deviation 1/8
        code = mean + (log_variance / 2).exp() * drawn
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return eps + ((code - drawn) / LATENT_SIZE)[:, :, None, None], divergence


def load_coder(build: Build) -> Coder:
    """Of stage `coding`, frozen."""
    coder = Coder()
    build.load("coding", "coder", coder)
    return coder.requires_grad_(False)
