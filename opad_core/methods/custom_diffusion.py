"""Custom Diffusion (Kumari et al. 2023, arXiv 2212.04488) on the one-step student.

Key and value projections and V* learn to denoise the references (section 3.2), and images of the class, so that its
name keeps its meaning (section 3.2, "regularization dataset").
"""

from dataclasses import dataclass

from opad_core.adapters.key_value import KeyValueAdapter
from opad_core.bases.loading import Base
from opad_core.methods.denoising import DenoisingConfig, DenoisingMethod
from opad_core.training.config import constant
from opad_core.training.data import TrainingData


@dataclass(frozen=True)
class CustomDiffusionConfig(DenoisingConfig):
    """The published settings. Augmentation, with the bounds of its scales, is that of the published code."""

    iterations: int = constant(250, "Kumari et al., section 4")
    batch_size: int = constant(8, "Kumari et al., section 4")
    templates: tuple[str, ...] = constant(("photo of a {}",), "Kumari et al., section 4")
    lr: float = constant(8e-5, "Kumari et al., section 4")  # of the projections: 1e-5 times the batch size
    lr_token: float = constant(8e-5, "Kumari et al., section 4")
    class_images: int = constant(200, "Kumari et al., section 4")
    class_prompt: str = constant("photo of a {}", "Kumari et al., section 4")
    lambda_prior: float = constant(1.0, "Kumari et al., section 3.2")
    timestep_range: tuple[float, float] = constant((0.0, 1.0), "Kumari et al., eq. 1")


class CustomDiffusion(DenoisingMethod):
    name = "custom_diffusion"

    def __init__(
        self, data: TrainingData, config: CustomDiffusionConfig, *, seed: int, networks: Base | None = None
    ) -> None:
        adapter = KeyValueAdapter.initial((networks or data.base).student, data.start_row)
        projections = (adapter.projections.parameters(), config.lr, config.weight_decay)
        token = ([adapter.token_row], config.lr_token, config.token_weight_decay)
        super().__init__(data, config, adapter, [projections, token], seed=seed, networks=networks)
