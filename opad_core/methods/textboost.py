"""TextBoost (Park et al. 2024, arXiv 2409.08248) on the one-step student.

Low-rank updates of the text encoder, and V*, learn to denoise the references; the UNet stays as it is. The paper learns
from a single photo, and adds three parts against learning it by heart:

- augmentation tokens: an augmented photo's prompt begins with a learned token of its augmentation. No prompt for
  generation has these tokens, so what they explain is not taken for the concept.
- the knowledge-preservation loss: text states of other prompts stay those of the frozen encoder.
- SNR-weighted sampling: noisy timesteps, which depend on the text most, come up more often.

    paper           here                   shape             where
    lambda L_kp     `preservation_loss`    [b]               knowledge-preservation loss
    p(t)            `timestep_weights`     [steps]           SNR-weighted sampling
    A*              `augmentation_rows`    [kinds, d]        augmentation tokens

The paper's sections have no numbers. Of its augmentations we have those that are in `AUGMENTATIONS`, one per photo and
with one token each; its code combines up to three, with one to three tokens each.
"""

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opad_core.adapters.low_rank import LowRankAdapter, text_layers
from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.methods.denoising import DenoisingMethod, LowRankConfig
from opad_core.methods.reconstruction import tokens_of
from opad_core.networks.resampling import resize
from opad_core.networks.text_encoder import Tokens
from opad_core.random_streams import stream
from opad_core.training.augmentation import Batch
from opad_core.training.config import constant
from opad_core.training.data import TrainingData
from opad_core.training.method import Inputs, Step

AUGMENTATIONS = {
    "flip": "flipped",
    "far": "far away",
    "near": "close up",
    "left": "on the left",
    "right": "on the right",
    "gray": "grayscale",
}
"""The augmentations, and the words where their tokens start."""
FAR, NEAR, SHIFT = (0.34, 0.6), (1.2, 1.4), (0.15, 0.3)
"""Scales of a smaller and a larger photo, and shares of the side by which one is moved, as in the paper's code."""
NOUNS = ("person", "dog", "car", "house", "tree", "flower", "bird", "table", "city", "mountain", "cup", "shoe")
"""What preserved prompts name on a base that knows every noun. The paper uses the captions of InstructPix2Pix."""
UNAUGMENTED = -1


@dataclass(frozen=True)
class TextBoostConfig(LowRankConfig):
    """The published settings. "inferred" numbers without a reason beside them are those of the paper's code."""

    iterations: int = constant(250, "inferred")
    batch_size: int = constant(8, "inferred")
    rank: int = constant(4, "Park et al., experiments")
    lr: float = constant(5e-5, "inferred")  # of the updates
    lr_token: float = constant(1e-3, "inferred")  # of V* and the augmentations' tokens
    augmentation_probability: float = constant(0.5, "inferred")
    lambda_knowledge: float = constant(0.1, "Park et al., experiments")
    null_probability: float = constant(0.1, "inferred")  # how often a preserved prompt is empty
    # Augmentation is paired instead.
    flip_probability: float = constant(0.0, "Park et al., augmentation tokens")
    canvas_probability: float = constant(0.0, "Park et al., augmentation tokens")
    crop_scale: tuple[float, float] = constant((1.0, 1.0), "Park et al., augmentation tokens")
    size_words: bool = constant(False, "Park et al., augmentation tokens")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augmentation_cache:
            raise OpadError("TextBoost augments each photo anew; leave augmentation_cache at 0")


class TextBoost(DenoisingMethod):
    name = "textboost"

    def __init__(self, data: TrainingData, config: TextBoostConfig, *, seed: int, networks: Base | None = None) -> None:
        text = data.base.text
        adapter = LowRankAdapter.initial(
            data.base.student, text, text_layers(text), data.start_row,
            rank=config.rank, generator=stream(seed, 0, "low-rank"),
        )  # fmt: skip
        rows = [text.embedding_of(words) for words in AUGMENTATIONS.values()]
        self.augmentation_rows = nn.Parameter(torch.stack(rows).to(data.start_row))
        updates = ([*adapter.down, *adapter.up], config.lr, config.weight_decay)
        tokens = ([adapter.token_row, self.augmentation_rows], config.lr_token, config.token_weight_decay)
        super().__init__(data, config, adapter, [updates, tokens], seed=seed, networks=networks)
        self.low_rank, self.settings = adapter, config
        self.preserved = preserved_prompts(data)
        self._weights = timestep_weights(data.base.student.abar, config.timestep_range)

    def draw(self, step: Step) -> Inputs:
        generator, count = step.stream("knowledge"), self.config.batch_size
        chosen = torch.randint(len(self.preserved), (count,), generator=generator).tolist()
        empty = (torch.rand(count, generator=generator) < self.settings.null_probability).tolist()
        prompts = ["" if nothing else self.preserved[i] for i, nothing in zip(chosen, empty, strict=True)]
        return super().draw(step) | {"knowledge.ids": self.base.text.tokens(prompts, [""] * count).ids}

    def _drawn(self, step: Step, batch: Batch, name: str) -> Inputs:
        if name != "references":
            return super()._drawn(step, batch, name)
        assert batch.pixels is not None
        random = torch.rand(len(batch.prompts), 3, generator=step.stream("augmentation"))
        kinds = (random[:, 1] * len(AUGMENTATIONS)).long()
        kinds = torch.where(random[:, 0] < self.settings.augmentation_probability, kinds, UNAUGMENTED)
        names = list(AUGMENTATIONS)
        pixels = [
            image if kind == UNAUGMENTED else augmented(image, names[kind], amount)
            for image, kind, amount in zip(batch.pixels, kinds.tolist(), random[:, 2].tolist(), strict=True)
        ]
        inputs = super()._drawn(step, dataclasses.replace(batch, pixels=torch.stack(pixels)), name)
        tokens = with_first_token(tokens_of(inputs, name), kinds != UNAUGMENTED)
        inputs |= {f"{name}.ids": tokens.ids, f"{name}.is_concept": tokens.is_concept, f"{name}.augmentation": kinds}
        if not self.config.timesteps:
            weights, generator = self._weights, step.stream(f"{name}-time")
            inputs[f"{name}.t"] = torch.multinomial(weights, len(kinds), replacement=True, generator=generator)
        return inputs

    def _losses(self, inputs: Inputs) -> dict[str, tuple[float, Tensor]]:
        ids = inputs["knowledge.ids"]
        tokens, row = Tokens(ids, torch.zeros_like(ids, dtype=torch.bool)), self.low_rank.token_row[None]
        with torch.no_grad():
            frozen = self.base.text.encode_tokens(tokens, row)
        states = self.low_rank.text_encoder(self.base.text).encode_tokens(tokens, row)
        weight = self._as_sum(self.settings.lambda_knowledge)
        return super()._losses(inputs) | {"knowledge": (weight, preservation_loss(states, frozen).mean())}

    def _text_states(self, inputs: Inputs, name: str) -> Tensor:
        """Encode prompts, in which an augmentation's token may follow the start token."""
        if name != "references":
            return super()._text_states(inputs, name)
        tokens, kinds = tokens_of(inputs, name), inputs[f"{name}.augmentation"]
        first = torch.arange(tokens.ids.shape[1], device=kinds.device) == 1
        is_augmentation = first & (kinds != UNAUGMENTED)[:, None]
        # A product, because the gradient of an index on CUDA adds in no fixed order.
        is_kind = kinds[:, None] == torch.arange(len(AUGMENTATIONS), device=kinds.device)
        own = is_kind.to(self.augmentation_rows) @ self.augmentation_rows
        rows = torch.where(is_augmentation[..., None], own[:, None], self.low_rank.token_row)
        learned = Tokens(tokens.ids, tokens.is_concept | is_augmentation)
        return self.low_rank.text_encoder(self.base.text).encode_tokens(learned, rows)


def preservation_loss(states: Tensor, frozen: Tensor) -> Tensor:
    """L_kp (knowledge-preservation loss): 1 - cos between text states [b, tokens, d], mean over tokens, [b]."""
    return (1 - F.cosine_similarity(states, frozen, dim=-1)).mean(1)


def timestep_weights(abar: Tensor, share: tuple[float, float]) -> Tensor:
    """Return weights [steps] of timesteps on the CPU: max log SNR - log SNR(t) (SNR-weighted sampling).

    SNR is abar / (1 - abar). Timesteps outside of `share` of the schedule have weight 0.
    """
    log_snr = torch.logit(abar.cpu().double(), eps=1e-6)  # a schedule may end in pure noise
    weights = log_snr.max() - log_snr
    low, high = (round(edge * len(abar)) for edge in share)
    place = torch.arange(len(abar))
    return torch.where((low <= place) & (place < high), weights, 0)


def preserved_prompts(data: TrainingData) -> list[str]:
    """Return prompts without the concept: the base's templates with other nouns, and its training scenes."""
    manifest = data.base.manifest
    nouns = dict.fromkeys([data.class_noun, *(manifest.nouns or NOUNS)])
    return [text.format(noun) for text in (*manifest.templates, *manifest.training_scenes) for noun in nouns]


def with_first_token(tokens: Tokens, insert: Tensor) -> Tokens:
    """Insert a second start token behind the first, where `insert` [b] is True. A learned row replaces it."""

    def later(x: Tensor) -> Tensor:
        return torch.where(insert[:, None], torch.cat([x[:, :1], x[:, :-1]], 1), x)

    return Tokens(later(tokens.ids), later(tokens.is_concept))


def augmented(pixels: Tensor, kind: str, amount: float) -> Tensor:
    """Augment pixels [3, r, r] in [-1, 1]; `amount` in [0, 1) chooses a scale or a shift. Edges are repeated."""
    if kind == "flip":
        return pixels.flip(-1)
    if kind == "gray":
        return (
            (torch.tensor([0.299, 0.587, 0.114]).to(pixels) @ pixels.flatten(1))
            .view(1, *pixels.shape[1:])
            .expand(3, -1, -1)
        )
    if kind in ("far", "near"):
        low, high = FAR if kind == "far" else NEAR
        return _scaled(pixels, low + (high - low) * amount)
    side = pixels.shape[-1]
    shift = round((SHIFT[0] + (SHIFT[1] - SHIFT[0]) * amount) * side)
    if kind == "left":
        return F.pad(pixels, (0, shift, 0, 0), mode="replicate")[..., shift:]
    return F.pad(pixels, (shift, 0, 0, 0), mode="replicate")[..., :side]


def _scaled(pixels: Tensor, scale: float) -> Tensor:
    """Scale about the middle and keep the size: crop what is larger, repeat the edges of what is smaller."""
    side = pixels.shape[-1]
    size = max(1, round(scale * side))
    scaled = resize(pixels[None], size, "bicubic")[0].clamp(-1, 1)
    if size > side:
        start = (size - side) // 2
        return scaled[:, start : start + side, start : start + side]
    first = (side - size) // 2
    last = side - size - first
    return F.pad(scaled, (first, last, first, last), mode="replicate")
