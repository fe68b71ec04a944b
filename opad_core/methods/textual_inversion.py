"""Textual Inversion (Gal et al. 2023, arXiv 2208.01618) on the one-step student.

Only V* learns to denoise the references (eq. 2). As in the paper's comparison, prompts name the class noun after it.
"""

from dataclasses import dataclass

from opad_core.adapters.token import TokenAdapter
from opad_core.bases.loading import Base
from opad_core.methods.denoising import DenoisingConfig, DenoisingMethod
from opad_core.training.config import constant
from opad_core.training.data import TrainingData


@dataclass(frozen=True)
class TextualInversionConfig(DenoisingConfig):
    """The published settings. Images are shown whole; only flips augment them, as in the published code."""

    iterations: int = constant(5000, "Gal et al., section 4.1")
    batch_size: int = constant(8, "Gal et al., section 4.1")  # two GPUs with four images each
    lr_token: float = constant(5e-3, "Gal et al., section 4.1")
    token_weight_decay: float = constant(1e-2, "inferred")  # PyTorch's default of AdamW
    canvas_probability: float = constant(0.0, "Gal et al., section 4.1")
    crop_scale: tuple[float, float] = constant((1.0, 1.0), "Gal et al., section 4.1")
    size_words: bool = constant(False, "Gal et al., section 4.1")


class TextualInversion(DenoisingMethod):
    name = "textual_inversion"

    def __init__(
        self, data: TrainingData, config: TextualInversionConfig, *, seed: int, networks: Base | None = None
    ) -> None:
        adapter = TokenAdapter.initial(data.start_row)
        token = ([adapter.token_row], config.lr_token, config.token_weight_decay)
        super().__init__(data, config, adapter, [token], seed=seed, networks=networks)
