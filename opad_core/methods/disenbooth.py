"""DisenBooth (Chen et al. 2023, arXiv 2305.03374) on the one-step student.

What a prompt says of every photo, and what one photo has beside it, are two embeddings. The identity-preserved one is
the text's: it names the concept by a rare word, which does not learn, as in DreamBooth. The identity-irrelevant one
comes from the photo: the frozen image encoder's embedding, masked, and changed by a small network. Low-rank updates of
the UNet's attentions learn to denoise the photo from their sum, and with a small weight from the text alone. Mask and
small network are for the training alone; generation uses the text.

    paper                     here                              shape            where
    f_s                       `_text_states`                    [b, tokens, d]   section 3.2
    f_i = M f + MLP(M f)      `IrrelevantBranch`                [b, d]           section 3.2
    L_1, from f_s + f_i       "rec"                             mean             section 3.3
    L_2, from f_s             "weak"                            mean             section 3.3
    L_3, cos(f_s, f_i)        `contrastive_loss`                [b]              section 3.3
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opad_core.adapters.low_rank import LowRankAdapter, attention_layers
from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.methods.denoising import DenoisingMethod, LowRankConfig
from opad_core.methods.dreambooth import rare_row
from opad_core.methods.reconstruction import latents_of
from opad_core.random_streams import stream
from opad_core.training.augmentation import Batch
from opad_core.training.augmentation_cache import AugmentedBatches
from opad_core.training.config import constant
from opad_core.training.data import TrainingData
from opad_core.training.method import Inputs, Step


@dataclass(frozen=True)
class DisenBoothConfig(LowRankConfig):
    """The published settings. Photos are shown whole and not augmented."""

    iterations: int = constant(3000, "Chen et al., section 4.1")
    batch_size: int = constant(1, "Chen et al., section 4.1")
    templates: tuple[str, ...] = constant(("a {}",), "Chen et al., section 3.2")
    rank: int = constant(4, "Chen et al., section 4.1")
    lr: float = constant(1e-4, "Chen et al., section 4.1")  # of the updates, the mask and the small network
    weight_decay: float = constant(1e-2, "inferred")  # PyTorch's default of AdamW
    lambda_weak: float = constant(0.01, "Chen et al., section 3.3")
    lambda_contrastive: float = constant(0.001, "Chen et al., section 3.3")
    flip_probability: float = constant(0.0, "inferred")
    canvas_probability: float = constant(0.0, "inferred")
    crop_scale: tuple[float, float] = constant((1.0, 1.0), "inferred")
    size_words: bool = constant(False, "inferred")


class DisenBooth(DenoisingMethod):
    name = "disenbooth"

    def __init__(
        self, data: TrainingData, config: DisenBoothConfig, *, seed: int, networks: Base | None = None
    ) -> None:
        student, text = (networks or data.base).student, data.base.text
        width, (states,) = data.base.embedded_images(data.pixels[:1]).shape[1], text.row_shape
        check_widths(data.base.manifest.name, images=width, states=states)
        adapter = LowRankAdapter.initial(
            student, text, attention_layers(student), rare_row(data.base, data.start_row, seed=seed),
            rank=config.rank, generator=stream(seed, 0, "low-rank"),
        )  # fmt: skip
        adapter.token_row.requires_grad_(False)
        self.branch = IrrelevantBranch(width, generator=stream(seed, 0, "irrelevant")).to(data.base.device)
        updates = ([*adapter.down, *adapter.up], config.lr, config.weight_decay)
        branch = (self.branch.parameters(), config.lr, config.weight_decay)
        super().__init__(data, config, adapter, [updates, branch], seed=seed, networks=networks)
        self.settings = config
        self.batches = AugmentedBatches(
            data.base, config, seed=seed,
            features=lambda pixels, generator: {"embedding": data.base.identity.embedding(pixels)},
        )  # fmt: skip

    def _drawn(self, step: Step, batch: Batch, name: str) -> Inputs:
        features = {f"{name}.{kind}": feature for kind, feature in batch.features.items()}
        return super()._drawn(step, batch, name) | features

    def _losses(self, inputs: Inputs) -> dict[str, tuple[float, Tensor]]:
        name, config = "references", self.settings
        inputs = inputs | {f"{name}.latents": latents_of(self.base, inputs, name)}  # encoded once
        losses = super()._losses(inputs)
        _, weak = losses["rec"]
        text_states, irrelevant = self._text_states(inputs, name), self.branch(self._image_embedding(inputs, name))
        contrastive = contrastive_loss(text_states, irrelevant).mean()
        return losses | {
            "rec": (1.0, self._denoising(inputs, name, text_states + irrelevant[:, None])),
            "weak": (config.lambda_weak, weak),
            "contrastive": (self._as_sum(config.lambda_contrastive), contrastive),
        }

    @torch.no_grad()
    def _image_embedding(self, inputs: Inputs, name: str) -> Tensor:
        """Return CLIP's embeddings [b, d] of a batch, from the cache or computed."""
        embedding = inputs.get(f"{name}.embedding")
        return self.base.identity.embedding(inputs[f"{name}.pixels"]) if embedding is None else embedding


def check_widths(base: str, *, images: int, states: int) -> None:
    """Raise OpadError unless image embeddings and text states have equal dimensions."""
    if images != states:
        raise OpadError(
            f"DisenBooth adds image embeddings to text states, but on the base {base!r} they have {images} and "
            f"{states} dimensions; use another method"
        )


class IrrelevantBranch(nn.Module):
    """Maps image embeddings f [b, d] to identity-irrelevant ones (section 3.2): M f + MLP(M f), with M in (0, 1).

    M starts at 1/2 as in the paper's code.
    """

    def __init__(self, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(width))
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        for parameter in self.mlp.parameters():  # PyTorch's default initialization
            parameter.data.uniform_(-(width**-0.5), width**-0.5, generator=generator)

    def forward(self, embedding: Tensor) -> Tensor:
        masked = self.mask.sigmoid() * embedding
        irrelevant: Tensor = masked + self.mlp(masked)
        return irrelevant


def contrastive_loss(text_states: Tensor, irrelevant: Tensor) -> Tensor:
    """L_3 (section 3.3): the cosine of f_s and f_i, [b]; the mean of the text states [b, tokens, d] stands for f_s."""
    return F.cosine_similarity(text_states.mean(1), irrelevant, dim=-1)
