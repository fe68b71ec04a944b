"""The coupling of noise and images with which student and teacher are trained.

With independent noise, the best one-step output is the mean of all images of a caption, and so is the teacher's at high
noise. Keys and values trained to produce means have little influence on details, and a concept changes nothing else.
When one mug was fitted through the teacher's keys and values, the error was 0.39 of unit variance without the coupling
and 0.30 with it. Flow matching also couples noise and data, to straighten paths (Pooladian et al. 2023). Here the
coupling is learned.
"""

from torch import Tensor, nn

from opad_core.nano.build.architecture import LATENT_CHANNELS, LATENT_SIZE, TEXT_WIDTH
from opad_core.nano.build.stage import Build


class Coder(nn.Module):
    """The encoder of the conditional VAE: it turns an image and its caption into the noise that stands for the image.

    The coder reads the caption, so it can spread the images of every caption over all codes. A coder that read the
    image alone put the scene into the code. A third of the images generated from plain noise then had another scene
    than their caption.
    """

    def __init__(self) -> None:
        super().__init__()
        # Saved checkpoints contain these attribute names.
        self.picture = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, 64, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * LATENT_SIZE**2, 256)
        )
        self.words = nn.Linear(TEXT_WIDTH, 256, bias=False)
        self.code = nn.Linear(256, 2 * LATENT_CHANNELS)

    def forward(self, z0: Tensor, pooled: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coded noise [b, 80, 8, 8] and the code's KL divergence from unit normal, [b], in nats.

        `z0` [b, 80, 8, 8] are latents, `pooled` [b, 128] is the caption's pooled embedding and `eps` [b, 80, 8, 8] is
        unit noise. Coding replaces the channel means of `eps` and leaves the rest unchanged.
        """
        mean, log_variance = self.code((self.picture(z0) + self.words(pooled)).relu()).chunk(2, 1)
        log_variance = log_variance.clamp(-8, 4)
        channel_means = eps.mean((2, 3)) * LATENT_SIZE  # unit normal again: the mean of 64 numbers has deviation 1/8
        code = mean + (log_variance / 2).exp() * channel_means
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return eps + ((code - channel_means) / LATENT_SIZE)[:, :, None, None], kl


def load_coder(build: Build) -> Coder:
    """Load the coder of stage `coding`, frozen."""
    coder = Coder()
    build.load("coding", "coder", coder)
    return coder.requires_grad_(False)
