"""Prior preservation of keys and values: those of other words should not change while a concept is learned."""

import torch
from torch import Tensor

from opad_core.adapters.adapter import Adapter
from opad_core.adapters.key_value import KeyValueAdapter
from opad_core.bases.loading import Base
from opad_core.networks.denoiser import Denoiser


@torch.no_grad()
def other_words(base: Base, class_noun: str) -> Tensor:
    """Return text states [n, d] of words other than the concept: of all words of the base, or of its prompts.

    If there are more states than dimensions, R [d, d] of their QR decomposition replaces them: products of any matrix
    with R have the same norm as with the states.
    """
    manifest = base.manifest
    prompts = manifest.words or [text.format(class_noun) for text in manifest.templates]
    states = base.text.encode(prompts, [""] * len(prompts), [None] * len(prompts))
    longest = max(len(prompt.split()) for prompt in prompts)
    words = states[:, 1 : 2 + longest].flatten(0, 1)  # from the first word to the end mark of the longest
    return torch.linalg.qr(words.double(), mode="r").R.float() if len(words) > words.shape[1] else words


def projections_of(adapter: Adapter, denoiser: Denoiser) -> list[Tensor]:
    """Return the weights [inner, d] with which a concept makes keys and values: of each layer the keys', the values'.

    `denoiser` is what `adapter.denoiser` returned.
    """
    if isinstance(adapter, KeyValueAdapter):
        pairs = zip(adapter.projections.to_k, adapter.projections.to_v, strict=True)
        return [weight for pair in pairs for weight in pair]
    attentions = [denoiser.unet.get_submodule(layer) for layer in denoiser.layers]
    return [linear.weight for attention in attentions for linear in (attention.to_k, attention.to_v)]


class KeyValuePreservation:
    """The relative squared change of keys and values for text states [n, d], mean over layers.

    Custom Diffusion constrains captions in this way when it merges concepts (Kumari et al. 2023, eq. 4). Here it
    preserves the scenes that prompts name beside the concept.
    """

    @torch.no_grad()
    def __init__(self, states: Tensor, denoiser: Denoiser) -> None:
        self.states = states
        attentions = [denoiser.unet.get_submodule(layer) for layer in denoiser.layers]
        self._starts = [start.weight.float() for attention in attentions for start in (attention.to_k, attention.to_v)]
        self._squares = [(states @ start.T).square().sum() for start in self._starts]

    def loss(self, learned: list[Tensor]) -> Tensor:
        """Return the loss, a scalar, of learned projections in the order of `projections_of`."""
        changes = [
            (self.states @ (now - start).T).square().sum() / square
            for now, start, square in zip(learned, self._starts, self._squares, strict=True)
        ]
        return torch.stack(changes).mean()
