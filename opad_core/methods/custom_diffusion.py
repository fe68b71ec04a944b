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
from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.kv_preservation import KeyValuePreservation, other_words
from opad_core.methods.reconstruction import batch_inputs, latents_of, reconstruction, tokens_of
from opad_core.training.augmentation import Batch, Example
from opad_core.training.augmentation_cache import AugmentedBatches, no_features
from opad_core.training.config import TrainingConfig, check_timestep_range, constant
from opad_core.training.data import TrainingData
from opad_core.training.method import Hook, Inputs, Method, Step
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

    def __init__(
        self, data: TrainingData, config: CustomDiffusionConfig, *, seed: int, networks: Base | None = None
    ) -> None:
        """`networks` are the compiled networks of the base, with which `learn` computes; None: those of the base."""
        self.data, self.base, self.config, self.seed = data, networks or data.base, config, seed
        self.adapter = self.student = KeyValueAdapter.initial(self.base.student, data.start_row)
        projections = (self.student.projections.parameters(), config.lr, config.weight_decay)
        token = ([self.student.token_row], config.lr_token, config.token_weight_decay)
        scaled = self.base.loss_scale_device
        self.optimizers = {
            "student": Optimizer([projections, token], clip_norm=config.clip_norm, scales_loss_on=scaled)
        }
        self.batches = AugmentedBatches(data.base, config, seed=seed, features=no_features)
        whole = dataclasses.replace(config, flip_probability=0.0, canvas_probability=0.0, crop_scale=(1.0, 1.0))
        self.class_batches = AugmentedBatches(data.base, whole, seed=seed, features=no_features)
        self.class_images: list[Example] = []
        self._class_pixels: Tensor | None = None
        self._preservation = None
        if config.lambda_kv_preservation:
            self._preservation = KeyValuePreservation(other_words(data.base, data.class_noun), self.base.student)

    def draw(self, step: Step) -> Inputs:
        inputs = self._drawn(step, self.batches.batch(self.data.examples, "photos", step.number), "references")
        if self.config.class_images and self.config.lambda_prior:
            if not self.class_images:
                with step.part("class images"):
                    self._use(self._generated_class_images())
            batch = self.class_batches.batch(self.class_images, "class-images", step.number)
            inputs |= self._drawn(step, batch, "class-images")
        return inputs

    def learn(self, inputs: Inputs, part: Hook) -> dict[str, Tensor]:
        """Learn to denoise references and class images (eq. 1), each at its own random timesteps."""
        losses = {"rec": self._reconstruction(inputs, "references")}
        total = losses["rec"]
        if "class-images.t" in inputs:
            losses["prior"] = self._reconstruction(inputs, "class-images")
            total = total + self.config.lambda_prior * losses["prior"]
        if self._preservation is not None:
            # The reconstruction loss is a sum over latent channels, this one a mean.
            weight = self.base.latent_shape[0] * self.config.lambda_kv_preservation
            total = total + weight * self._preservation.loss(self.student.projections)
        with part("student"):
            self.optimizers["student"].step(total)
        return {name: loss.detach() for name, loss in losses.items()}

    def _drawn(self, step: Step, batch: Batch, name: str) -> Inputs:
        noise = self.base.posterior_noise(len(batch.prompts), step.stream(f"{name}-noise"))
        return {f"{name}.eps": noise} | batch_inputs(
            self.data, name, batch,
            timestep_range=self.config.timestep_range,
            posterior=step.stream(f"{name}-vae"), times=step.stream(f"{name}-time"),
        )  # fmt: skip

    def _reconstruction(self, inputs: Inputs, name: str) -> Tensor:
        base = self.base
        text_states = self.student.token_states(base.text, tokens_of(inputs, name))
        keys_values = self.student.keys_values(text_states, base.student)
        return reconstruction(
            base.student, latents_of(base, inputs, name), inputs[f"{name}.eps"], inputs[f"{name}.t"],
            keys_values, inputs[f"{name}.mask"],
        ).mean()  # fmt: skip

    def _generated_class_images(self) -> Tensor:
        """Generate images [n, r, r, 3] uint8 of the class with the untouched student."""
        generator, prompt = OneStepGenerator(self.data.base), self.config.class_prompt.format(self.data.class_noun)
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
