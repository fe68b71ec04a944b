"""Generate the teacher's samples, from which the student of the ablation "teacher-first" learns (supplement 12)."""

import torch
from torch import Tensor

from opad_core.adapters.adapter import text_states_of
from opad_core.adapters.key_value import KeyValueAdapter
from opad_core.generation.generator import MAX_BATCH, noise_of
from opad_core.generation.many_step import many_step
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.reconstruction import token_inputs
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.random_streams import stream
from opad_core.training.augmentation import indices_at
from opad_core.training.data import TrainingData
from opad_core.training.method import Inputs, Step

STATE = "teacher_samples"


class TeacherSamples:
    """Latents that the trained teacher generated in many steps, each with the noise and the prompt it came from.

    The first `scene_share` of them show the base's training scenes, the others have the prompts of the references.
    """

    def __init__(
        self, data: TrainingData, config: OpadConfig, teacher: KeyValueAdapter, *, null_states: Tensor, seed: int
    ) -> None:
        self._data, self._config, self._teacher, self._null_states, self._seed = (
            data,
            config,
            teacher,
            null_states,
            seed,
        )
        self.latents: Tensor | None = None
        """[n, c, h, w]; None until the student's phase begins."""
        count = config.samples
        self._scenes = round(config.scene_share * count) if config.scene_prompts else 0
        scenes = [scene.format(PLACEHOLDER) for scene in data.base.manifest.training_scenes]
        own = indices_at(len(data.examples), 0, batch_size=count - self._scenes, seed=seed)
        self._prompts = [scenes[i % len(scenes)] for i in range(self._scenes)]
        self._prompts += [data.examples[i].prompt for i in own]
        generator = stream(seed, config.iterations, "teacher-samples")
        self._seeds = torch.randint(2**62, (count,), generator=generator).tolist()

    def inputs(self, step: Step) -> Inputs:
        """Return a batch: the student's prompts and noise, and the latents that it is compared with.

        The first call generates all samples with the teacher as it is, which no longer learns.
        """
        if self.latents is None:
            with step.part("samples"):
                self.latents = self._generated()
        prompts, noise, latents = self.batch(step.number)
        return token_inputs(self._data, "prompts", prompts) | {
            "eps": noise,
            "target.latents": latents,
            "target.compared": torch.ones(len(prompts), dtype=torch.bool),
        }

    def batch(self, number: int) -> tuple[list[str], Tensor, Tensor]:
        """Return prompts, noise [b, c, h, w] and latents [b, c, h, w] of one iteration; the first name a scene."""
        assert self.latents is not None
        config = self._config
        first = config.scene_prompts if self._scenes else 0
        chosen = indices_at(self._scenes, number, batch_size=first, seed=self._seed)
        plain = len(self._prompts) - self._scenes
        others = indices_at(plain, number, batch_size=config.batch_size - first, seed=self._seed)
        chosen += [self._scenes + i for i in others]
        noise = torch.stack([noise_of(self._seeds[i], self._data.base.latent_shape) for i in chosen])
        return [self._prompts[i] for i in chosen], noise, self.latents[chosen]

    def state(self) -> dict[str, Tensor]:
        return {} if self.latents is None else {STATE: self.latents}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.latents = tensors[STATE].to(self._data.base.device) if STATE in tensors else None

    @torch.no_grad()
    def _generated(self) -> Tensor:
        """Return the latents of all samples, eight at a time."""
        base, teacher, parts = self._data.base, self._teacher, []
        for start in range(0, len(self._prompts), MAX_BATCH):
            prompts = self._prompts[start : start + MAX_BATCH]
            noise = [noise_of(seed, base.latent_shape) for seed in self._seeds[start : start + MAX_BATCH]]
            states = text_states_of(teacher, base.text, prompts, self._data.class_noun)
            parts.append(
                many_step(
                    base.teacher,
                    torch.stack(noise).to(base.device),
                    teacher.keys_values(states, base.teacher),
                    teacher.keys_values(self._null_states.expand_as(states), base.teacher),
                    guidance=self._config.guidance,
                )
            )
        return torch.cat(parts)
