"""LoRA (Hu et al. 2021, arXiv 2106.09685) on the one-step student, with DreamBooth's loss.

Low-rank updates of all attention layers of the UNet, and V*, learn to denoise the references and images of the class.
LoRA's paper has no image models; what its common use with Stable Diffusion adds is marked "inferred".
"""

from dataclasses import dataclass

from opad_core.adapters.low_rank import LowRankAdapter, attention_layers
from opad_core.bases.loading import Base
from opad_core.methods.denoising import DenoisingMethod, LowRankConfig
from opad_core.random_streams import stream
from opad_core.training.config import constant
from opad_core.training.data import TrainingData


@dataclass(frozen=True)
class LoraConfig(LowRankConfig):
    """The rank of Hu et al., the loss of DreamBooth, and the learning rate of diffusers' example."""

    iterations: int = constant(1000, "Ruiz et al., section 4")
    batch_size: int = constant(1, "inferred")
    lr: float = constant(1e-4, "inferred")  # diffusers' example for DreamBooth with LoRA
    lr_token: float = constant(1e-4, "inferred")
    class_images: int = constant(200, "inferred")
    lambda_prior: float = constant(1.0, "Ruiz et al., section 4")
    canvas_probability: float = constant(0.0, "inferred")
    crop_scale: tuple[float, float] = constant((1.0, 1.0), "inferred")
    size_words: bool = constant(False, "inferred")


class Lora(DenoisingMethod):
    name = "lora"

    def __init__(self, data: TrainingData, config: LoraConfig, *, seed: int, networks: Base | None = None) -> None:
        student, text = (networks or data.base).student, data.base.text
        generator = stream(seed, 0, "low-rank")
        adapter = LowRankAdapter.initial(
            student, text, attention_layers(student), data.start_row, rank=config.rank, generator=generator
        )
        updates = ([*adapter.down, *adapter.up], config.lr, config.weight_decay)
        token = ([adapter.token_row], config.lr_token, config.token_weight_decay)
        super().__init__(data, config, adapter, [updates, token], seed=seed, networks=networks)
