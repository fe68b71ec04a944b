"""The batches of each stage of OPAD: what the teacher learns from, and what the discriminators see as real."""

import torch
from PIL import Image
from torch import Tensor

from opad_core.generation.bundle import Bundle
from opad_core.methods.opad.collaboration import generate_samples
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.opad.discriminator import Discriminator
from opad_core.networks.resampling import cropped, random_crop
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.training.augmentation import Batch, Example, indices_at
from opad_core.training.augmentation_cache import AugmentedBatches
from opad_core.training.data import TrainingData
from opad_core.training.method import Inputs, Step


class OpadBatches:
    """Batches of references and, in the collaborative stage, of the student's own images (samples)."""

    def __init__(
        self, data: TrainingData, config: OpadConfig, discriminators: list[Discriminator], *, seed: int
    ) -> None:
        def features(pixels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
            crop = self._crop(pixels, generator)
            return {discriminator.name: discriminator.network(crop) for discriminator in discriminators}

        self._data, self._config, self._seed = data, config, seed
        self._batches = AugmentedBatches(data.base, config, seed=seed, features=features)
        self.samples: list[Example] = []
        """The samples of the collaborative stage; empty before it."""
        self._state: dict[str, Tensor] = {}

    def prepare(self) -> None:
        """Fill the augmentation caches of the distillation stage, if the config has any."""
        if self._config.augmentation_cache:
            self.of("photos", 0)
            self.of("real", 0, canvas=False)

    def distillation(self, step: Step) -> tuple[Batch, Batch]:
        """Return the teacher's batch and the discriminators' real batch."""
        references = self.of("photos", step.number)
        if self._config.canvas_for_discriminators:
            return references, references
        return references, self.of("real", step.number, canvas=False)

    def collaborative(self, step: Step) -> tuple[Batch, Batch]:
        """Return the teacher's batch and the real batch. The first call generates the samples."""
        config = self._config
        if not self.samples:
            with step.part("samples"):
                self._generate_samples(step.average(), step)
        canvas = config.canvas_for_discriminators
        samples = self.of("samples", step.number)
        if config.collaboration == "strict":
            return samples, samples if canvas else self.of("real-samples", step.number, canvas=False)
        own = torch.rand(config.batch_size, generator=step.stream("mix")) < config.reference_share
        learned = self.of("photos", step.number).mixed(samples, own.tolist())
        return learned, self.of("real", step.number, canvas=canvas)

    def with_scenes(self, prompts: list[str], step: Step) -> list[str]:
        """Replace the first prompts of a batch, `config.scene_prompts` of them, by prompts that name a scene."""
        count = self._config.scene_prompts
        if not count:
            return prompts
        scenes = self._data.base.manifest.training_scenes
        chosen = torch.randint(len(scenes), (count,), generator=step.stream("scenes")).tolist()
        return [scenes[k].format(PLACEHOLDER) for k in chosen] + prompts[count:]

    def real(self, batch: Batch, step: Step) -> Inputs:
        """Return the features of a batch by discriminator, or a random crop of its pixels under "pixels"."""
        if batch.pixels is None:
            return dict(batch.features)
        return {"pixels": self._crop(batch.pixels, step.stream("real-window"))}

    def _crop(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        rows, columns = random_crop(pixels.shape[-1], self._config.decode_crop, generator)
        return cropped(pixels, rows.to(pixels.device), columns.to(pixels.device))

    def of(self, name: str, number: int, *, canvas: bool = True) -> Batch:
        """Return a batch by its random stream: of samples if the name contains "samples", else of references."""
        examples = self.samples if "samples" in name else self._data.examples
        return self._batches.batch(examples, name, number, canvas=canvas)

    def state(self) -> dict[str, Tensor]:
        """Return the samples, and the indices of the examples that gave their prompts."""
        return self._state

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self._state = tensors
        self._batches.forget("samples", "real-samples")
        self.samples = (
            [
                Example(Image.fromarray(pixels.numpy()), self._data.examples[example].prompt)
                for pixels, example in zip(*(tensors[k] for k in ("samples", "examples")), strict=True)
            ]
            if tensors
            else []
        )

    def _generate_samples(self, average: Bundle, step: Step) -> None:
        count, examples = self._config.samples, self._data.examples
        chosen = indices_at(len(examples), 0, batch_size=count, seed=self._seed)
        images, kept = generate_samples(
            self._data.base,
            average,
            self._config,
            prompts=[examples[i].prompt for i in chosen],
            seeds=torch.randint(2**62, (count,), generator=step.stream("samples")).tolist(),
            references=self._data.pixels,
        )
        self.load_state({"samples": images, "examples": torch.tensor([chosen[i] for i in kept])})
