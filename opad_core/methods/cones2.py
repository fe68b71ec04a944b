"""Cones 2 (Liu et al. 2023, arXiv 2305.19327) on the one-step student.

The text encoder learns to denoise the references under the class noun, there is no V*. Then the concept is the mean of
what learning changed at the noun's position, and it is added to the frozen encoder's output there. So the learned
encoder is for the training alone. The paper's layout guidance, for several concepts in one image, is left out.

    paper                                    here                     shape      where
    Delta = mean of E'(y)_s - E(y)_s over y  `mean_residual`          [n, d]     section 3.2
    L_reg                                    `preservation_loss`      [b]        section 3.2

The paper lets a language model write 1,000 sentences y with the noun. Here they are the base's templates and scenes.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opad_core.adapters.copies import replace_parameter, sharing_copy
from opad_core.adapters.residual import ResidualAdapter, noun_places, plain_states
from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.methods.denoising import DenoisingConfig, DenoisingMethod
from opad_core.methods.reconstruction import token_inputs, tokens_of
from opad_core.networks.text_encoder import PLACEHOLDER, TextEncoder
from opad_core.training.config import constant
from opad_core.training.data import TrainingData
from opad_core.training.loop import PREVIEW_EVERY
from opad_core.training.method import Hook, Inputs, Step


@dataclass(frozen=True)
class Cones2Config(DenoisingConfig):
    """The settings of the paper's code, marked "inferred". Photos are shown whole and not augmented."""

    iterations: int = constant(3000, "inferred")
    batch_size: int = constant(1, "inferred")
    templates: tuple[str, ...] = constant(("{}",), "inferred")
    lr: float = constant(5e-6, "inferred")  # of the text encoder
    weight_decay: float = constant(1e-2, "inferred")
    lambda_preservation: float = constant(1e-3, "inferred")  # the code has 1e-2 for the start token
    # Iterations between two computations of the residual, for which all prompts are encoded twice. A preview or
    # evaluation shows the last one; the end of the training has its own.
    residual_every: int = constant(PREVIEW_EVERY, "ours")
    flip_probability: float = constant(0.0, "inferred")
    canvas_probability: float = constant(0.0, "inferred")
    crop_scale: tuple[float, float] = constant((1.0, 1.0), "inferred")
    size_words: bool = constant(False, "inferred")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.residual_every < 1:
            raise OpadError(f"residual_every must be at least 1, got {self.residual_every}")


class Cones2(DenoisingMethod):
    name = "cones2"

    def __init__(self, data: TrainingData, config: Cones2Config, *, seed: int, networks: Base | None = None) -> None:
        adapter = ResidualAdapter.initial(data.base.text, data.class_noun)
        adapter.requires_grad_(False)  # it is computed
        self.learned_text = trainable_copy(data.base.text)
        encoder = (self.learned_text.encoder.parameters(), config.lr, config.weight_decay)
        super().__init__(data, config, adapter, [encoder], seed=seed, networks=networks)
        self.residual, self.settings = adapter.residual, config
        manifest = data.base.manifest
        texts = dict.fromkeys([*manifest.templates, *manifest.training_scenes, *manifest.caption_scenes])
        self.sentences = [text.format(PLACEHOLDER) for text in texts]

    def draw(self, step: Step) -> Inputs:
        generator, count = step.stream("sentences"), self.config.batch_size
        chosen = torch.randint(len(self.sentences), (count,), generator=generator).tolist()
        inputs = super().draw(step) | token_inputs(self.data, "sentences", [self.sentences[i] for i in chosen])
        if self._residual_is_due(step.number + 1):
            inputs |= token_inputs(self.data, "residual", self.sentences)
        return inputs

    def learn(self, inputs: Inputs, part: Hook) -> dict[str, Tensor]:
        losses = super().learn(inputs, part)
        if "residual.ids" in inputs:
            with torch.no_grad():
                tokens = tokens_of(inputs, "residual")
                change = plain_states(self.learned_text, tokens) - plain_states(self.base.text, tokens)
                self.residual.copy_(mean_residual(change, noun_places(tokens, len(self.residual))))
        return losses

    def _residual_is_due(self, finished: int) -> bool:
        """Whether the residual is needed after so many iterations."""
        config = self.settings
        is_evaluated = bool(config.eval_every) and finished % config.eval_every == 0
        return is_evaluated or finished % config.residual_every == 0 or finished == config.total_iterations

    def _losses(self, inputs: Inputs) -> dict[str, tuple[float, Tensor]]:
        tokens = tokens_of(inputs, "sentences")
        with torch.no_grad():
            frozen = plain_states(self.base.text, tokens)
        places = noun_places(tokens, len(self.residual))
        preservation = preservation_loss(plain_states(self.learned_text, tokens), frozen, places).mean()
        weight = self._as_sum(self.settings.lambda_preservation)
        return super()._losses(inputs) | {"preservation": (weight, preservation)}

    def _text_states(self, inputs: Inputs, name: str) -> Tensor:
        return plain_states(self.learned_text, tokens_of(inputs, name))

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"residual": self.residual}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        super().load_state(tensors)
        self.residual.copy_(tensors["residual"])


def mean_residual(change: Tensor, places: Tensor) -> Tensor:
    """Return Delta (section 3.2), [n, d]: the change [b, tokens, d] at each of the noun's n tokens, mean over prompts.

    `places` [b, n, tokens] are those of `noun_places`.
    """
    return torch.einsum("bnt,btd->nd", places, change) / places.sum((0, 2))[:, None]


def preservation_loss(states: Tensor, frozen: Tensor, places: Tensor) -> Tensor:
    """L_reg (section 3.2): distance of text states [b, tokens, d] from the frozen encoder's, except at the noun, [b].

    The distance is the norm of the whole difference, as in the paper's code. `places` are those of `noun_places`.
    """
    elsewhere = 1 - places.sum(1)
    return torch.linalg.vector_norm((states - frozen) * elsewhere[..., None], dim=(1, 2))


def trainable_copy(text: TextEncoder) -> TextEncoder:
    """Return a text encoder whose weights are float32 copies that learn."""
    encoder = sharing_copy(text.encoder)
    for name, weight in text.encoder.named_parameters():
        replace_parameter(encoder, name, nn.Parameter(weight.detach().float().clone()))
    return dataclasses.replace(text, encoder=encoder)
