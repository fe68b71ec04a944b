"""DreamBooth (Ruiz et al. 2023, arXiv 2208.12242) on the one-step student.

The whole UNet learns to denoise the references under a rare word before the class noun, and images of the class under
the noun alone (eq. 2). The word does not learn. "sks" is what the published examples use; a base without it gets a
random row with the length of the noun's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from opad_core.adapters.unet import UNetAdapter
from opad_core.bases.loading import Base
from opad_core.methods.denoising import DenoisingConfig, DenoisingMethod
from opad_core.random_streams import stream
from opad_core.training.config import constant
from opad_core.training.data import TrainingData

RARE_WORD = "sks"


@dataclass(frozen=True)
class DreamBoothConfig(DenoisingConfig):
    """The published settings for Stable Diffusion. Images are shown whole and not augmented."""

    iterations: int = constant(1000, "Ruiz et al., section 4")
    batch_size: int = constant(1, "inferred")
    templates: tuple[str, ...] = constant(("a {}",), "Ruiz et al., section 3.1")
    lr: float = constant(5e-6, "Ruiz et al., section 4")
    weight_decay: float = constant(1e-2, "inferred")
    class_images: int = constant(1000, "Ruiz et al., section 4")
    class_prompt: str = constant("a {}", "Ruiz et al., section 3.2")
    lambda_prior: float = constant(1.0, "Ruiz et al., section 4")
    flip_probability: float = constant(0.0, "inferred")
    canvas_probability: float = constant(0.0, "inferred")
    crop_scale: tuple[float, float] = constant((1.0, 1.0), "inferred")
    size_words: bool = constant(False, "inferred")


class DreamBooth(DenoisingMethod):
    name = "dreambooth"

    def __init__(
        self, data: TrainingData, config: DreamBoothConfig, *, seed: int, networks: Base | None = None
    ) -> None:
        row = rare_row(data.base, data.start_row, seed=seed)
        adapter = UNetAdapter.initial((networks or data.base).student, row)
        weights = (adapter.weights.parameters(), config.lr, config.weight_decay)
        super().__init__(data, config, adapter, [weights], seed=seed, networks=networks)


def rare_row(base: Base, noun_row: Tensor, *, seed: int) -> Tensor:
    """Return the token row [d] of the rare word, or a random one with the length of the noun's."""
    word = f"{RARE_WORD}</w>"  # CLIP's mark of a word's end
    if word in base.text.tokenizer.get_vocab():
        return base.text.embedding_of(RARE_WORD).to(noun_row)
    row = torch.randn(noun_row.shape, generator=stream(seed, 0, "rare-word"))
    return (row / row.norm()).to(noun_row) * noun_row.norm()
