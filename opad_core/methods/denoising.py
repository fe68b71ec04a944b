"""Methods that learn by the denoising loss alone: of the references and, if they ask for it, of images of the class.

The prior preservation loss on class images keeps the class noun's meaning (DreamBooth, eq. 2; Custom Diffusion, section
3.2). Its images come from the untouched student, in one step, where the papers take photos or many-step samples.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from opad_core.adapters.adapter import Adapter
from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.kv_preservation import KeyValuePreservation, other_words, projections_of
from opad_core.methods.reconstruction import batch_inputs, latents_of, reconstruction, tokens_of
from opad_core.networks.schedule import T_MAX
from opad_core.training.augmentation import Batch, Example
from opad_core.training.augmentation_cache import AugmentedBatches, no_features
from opad_core.training.config import TrainingConfig, check_timestep_range, constant
from opad_core.training.data import TrainingData
from opad_core.training.method import Hook, Inputs, Method, Step
from opad_core.training.optimizer import Optimizer

AT_ONCE = 8
"""Class images generated in one batch."""
Group = tuple[Iterable[nn.Parameter], float, float]
"""Parameters, their learning rate and their weight decay."""


@dataclass(frozen=True)
class DenoisingConfig(TrainingConfig):
    """Settings of these methods. Each has a subclass with its published values."""

    lr: float = constant(0.0, "inferred")  # of the weights
    lr_token: float = constant(0.0, "inferred")  # of V*; 0: it does not learn
    class_images: int = constant(0, "inferred")  # 0: no prior preservation
    class_prompt: str = constant("a photo of a {}", "inferred")
    lambda_prior: float = constant(1.0, "inferred")  # weight of the loss on class images
    timestep_range: tuple[float, float] = constant((0.0, 1.0), "inferred")  # shares of the schedule
    timesteps: tuple[int, ...] = constant((), "ours")  # the only timesteps that are learned; empty: timestep_range
    lambda_kv_preservation: float = constant(0.0, "ours")  # relative squared change of other words' K/V

    def __post_init__(self) -> None:
        super().__post_init__()
        check_timestep_range(self, "timestep_range")
        if self.class_images < 0:
            raise OpadError(f"class_images must be at least 0, got {self.class_images}")
        if not all(0 <= t <= T_MAX for t in self.timesteps):
            raise OpadError(f"timesteps must be in 0..{T_MAX}, got {self.timesteps}")


@dataclass(frozen=True)
class LowRankConfig(DenoisingConfig):
    """Settings of methods that learn low-rank updates."""

    rank: int = constant(4, "Hu et al., section 4.2")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise OpadError(f"rank must be at least 1, got {self.rank}")


class DenoisingMethod(Method):
    """One adapter of the student that learns to denoise. A subclass names the adapter and what of it learns."""

    def __init__(
        self,
        data: TrainingData,
        config: DenoisingConfig,
        adapter: Adapter,
        groups: Iterable[Group],
        *,
        seed: int,
        networks: Base | None = None,
    ) -> None:
        """`networks` are the compiled networks of the base, with which `learn` computes; None: those of the base."""
        self.data, self.base, self.config, self.seed = data, networks or data.base, config, seed
        self.adapter = adapter
        scaled = self.base.loss_scale_device
        self.optimizers = {"student": Optimizer(groups, clip_norm=config.clip_norm, scales_loss_on=scaled)}
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
        """Learn from the losses of the method, each with its weight."""
        losses = self._losses(inputs)
        total = sum(weight * loss for weight, loss in losses.values())
        assert isinstance(total, Tensor)
        if self._preservation is not None:
            weight = self._as_sum(self.config.lambda_kv_preservation)
            learned = projections_of(self.adapter, self.adapter.denoiser(self.base.student))
            total = total + weight * self._preservation.loss(learned)
        with part("student"):
            self.optimizers["student"].step(total)
        return {name: loss.detach() for name, (_, loss) in losses.items()}

    def _losses(self, inputs: Inputs) -> dict[str, tuple[float, Tensor]]:
        """Return weight and mean of each loss: of denoising references and class images at their own random timesteps.

        A subclass adds those of its paper.
        """
        losses = {"rec": (1.0, self._reconstruction(inputs, "references"))}
        if "class-images.t" in inputs:
            losses["prior"] = (self.config.lambda_prior, self._reconstruction(inputs, "class-images"))
        return losses

    def _as_sum(self, weight: float) -> float:
        """Return the weight of a loss whose paper takes the mean over latent channels; reconstruction is their sum."""
        return self.base.latent_shape[0] * weight

    def _drawn(self, step: Step, batch: Batch, name: str) -> Inputs:
        noise = self.base.posterior_noise(len(batch.prompts), step.stream(f"{name}-noise"))
        return {f"{name}.eps": noise} | batch_inputs(
            self.data, name, batch,
            timestep_range=self.config.timestep_range, timesteps=self.config.timesteps,
            posterior=step.stream(f"{name}-vae"), times=step.stream(f"{name}-time"),
        )  # fmt: skip

    def _reconstruction(self, inputs: Inputs, name: str) -> Tensor:
        return self._denoising(inputs, name, self._text_states(inputs, name))

    def _text_states(self, inputs: Inputs, name: str) -> Tensor:
        """Return the text states [b, tokens, d] of the prompts of a batch."""
        return self.adapter.token_states(self.base.text, tokens_of(inputs, name))

    def _denoising(self, inputs: Inputs, name: str, text_states: Tensor) -> Tensor:
        """Return the mean loss of denoising a batch with these text states."""
        denoiser = self.adapter.denoiser(self.base.student)
        return reconstruction(
            denoiser, latents_of(self.base, inputs, name), inputs[f"{name}.eps"], inputs[f"{name}.t"],
            self.adapter.keys_values(text_states, denoiser), inputs[f"{name}.mask"],
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
