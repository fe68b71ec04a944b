"""Custom Diffusion (Kumari et al. 2023, arXiv 2212.04488) on the one-step student.

Key and value projections and V* learn to denoise the references (section 3.2). They also learn to denoise images of the
class, so that its name keeps its meaning (section 3.2, "regularization dataset"). The paper takes these images from
LAION-400M or generates them; here the untouched student generates them in one step.
"""

import dataclasses
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from opad_core.adapters.key_value import KeyValueAdapter
from opad_core.errors import OpadError
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.kv_preservation import kv_preservation_loss, other_words
from opad_core.methods.reconstruction import reconstruction
from opad_core.networks.schedule import random_timesteps
from opad_core.training.augmentation import Batch, Example
from opad_core.training.augmentation_cache import AugmentedBatches, no_features
from opad_core.training.config import TrainingConfig, check_timestep_range, constant
from opad_core.training.data import TrainingData
from opad_core.training.method import Method, Step
from opad_core.training.optimizer import Optimizer

AT_ONCE = 8
"""Class images generated in one batch."""


@dataclass(frozen=True)
class CustomDiffusionConfig(TrainingConfig):
    """The published settings. Augmentation, with the bounds of its scales, is that of the published code."""

    iterations: int = constant(250, "Kumari et al., section 4")
    batch_size: int = constant(8, "Kumari et al., section 4")
    templates: tuple[str, ...] = constant(("photo of a {}",), "Kumari et al., section 4")
    lr: float = constant(8e-5, "Kumari et al., section 4")  # of the projections: 1e-5 times the batch size
    lr_token: float = constant(8e-5, "Kumari et al., section 4")
    class_images: int = constant(200, "Kumari et al., section 4")  # 0: no prior preservation
    class_prompt: str = constant("photo of a {}", "Kumari et al., section 4")
    lambda_prior: float = constant(1.0, "Kumari et al., section 3.2")  # weight of the loss on class images
    timestep_range: tuple[float, float] = constant((0.0, 1.0), "Kumari et al., eq. 1")  # shares of the schedule
    lambda_kv_preservation: float = constant(0.0, "ours")  # relative squared change of other words' K/V

    def __post_init__(self) -> None:
        super().__post_init__()
        check_timestep_range(self, "timestep_range")
        if self.class_images < 0:
            raise OpadError(f"class_images must be at least 0, got {self.class_images}")


class CustomDiffusion(Method):
    name = "custom_diffusion"

    def __init__(self, data: TrainingData, config: CustomDiffusionConfig, *, seed: int) -> None:
        self.data, self.base, self.config, self.seed = data, data.base, config, seed
        self.adapter = self.student = KeyValueAdapter.initial(self.base.student, data.start_row)
        projections = (self.student.projections.parameters(), config.lr, config.weight_decay)
        token = ([self.student.token_row], config.lr_token, config.token_weight_decay)
        scaled = self.base.loss_scale_device
        self.optimizers = {
            "student": Optimizer([projections, token], clip_norm=config.clip_norm, scales_loss_on=scaled)
        }
        self.batches = AugmentedBatches(self.base, config, seed=seed, features=no_features)
        whole = dataclasses.replace(config, flip_probability=0.0, canvas_probability=0.0, crop_scale=(1.0, 1.0))
        self.class_batches = AugmentedBatches(self.base, whole, seed=seed, features=no_features)
        self.class_images: list[Example] = []
        self._class_pixels: Tensor | None = None
        self.other_words = other_words(self.base, data.class_noun)

    def step(self, step: Step) -> dict[str, Tensor]:
        """Learn to denoise references and class images (eq. 1), each at its own random timesteps."""
        config = self.config
        references = self.batches.batch(self.data.examples, "photos", step.number)
        losses = {"rec": self._reconstruction(step, references, "references")}
        total = losses["rec"]
        if config.class_images and config.lambda_prior:
            if not self.class_images:
                with step.part("class images"):
                    self._use(self._generated_class_images())
            batch = self.class_batches.batch(self.class_images, "class-images", step.number)
            losses["prior"] = self._reconstruction(step, batch, "class-images")
            total = total + config.lambda_prior * losses["prior"]
        if config.lambda_kv_preservation:
            preservation = kv_preservation_loss(self.other_words, self.student.projections, self.base.student)
            # The reconstruction loss is a sum over latent channels, this one a mean.
            total = total + self.base.latent_shape[0] * config.lambda_kv_preservation * preservation
        with step.part("student"):
            self.optimizers["student"].step(total, lr_scale=step.lr_scale)
        return {name: loss.detach() for name, loss in losses.items()}

    def _reconstruction(self, step: Step, batch: Batch, name: str) -> Tensor:
        base, config = self.base, self.config
        latents = batch.latents_on(base, step.stream(f"{name}-vae"))
        eps = torch.randn(latents.shape, generator=step.stream(f"{name}-noise")).to(base.device)
        count, steps = len(latents), len(base.student.abar)
        t = random_timesteps(count, steps, config.timestep_range, step.stream(f"{name}-time")).to(base.device)
        text_states = self.student.text_states(base.text, batch.prompts, self.data.class_noun)
        keys_values = self.student.keys_values(text_states, base.student)
        return reconstruction(base.student, latents, eps, t, keys_values, batch.mask).mean()

    def _generated_class_images(self) -> Tensor:
        """Generate images [n, r, r, 3] uint8 of the class with the untouched student."""
        generator, prompt = OneStepGenerator(self.base), self.config.class_prompt.format(self.data.class_noun)
        requests = [ImageRequest(None, prompt, seed) for seed in range(self.config.class_images)]
        parts = [generator.generate(requests[i : i + AT_ONCE]) for i in range(0, len(requests), AT_ONCE)]
        return torch.cat([torch.from_numpy(part) for part in parts])

    def _use(self, images: Tensor | None) -> None:
        prompt = self.config.class_prompt.format(self.data.class_noun)
        self._class_pixels = images
        self.class_images = [Example(Image.fromarray(i.numpy()), prompt) for i in ([] if images is None else images)]

    def state(self) -> dict[str, Tensor]:
        return {} if self._class_pixels is None else {"class_images": self._class_pixels}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self._use(tensors.get("class_images"))
