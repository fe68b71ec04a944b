"""Prior preservation of keys and values: those of other words should not change while a concept is learned."""

import torch
from torch import Tensor

from opad_core.adapters.key_value import KeyValueProjections
from opad_core.bases.loading import Base
from opad_core.networks.denoiser import Denoiser


@torch.no_grad()
def other_words(base: Base, class_noun: str) -> Tensor:
    """Return text states [n, d] of words other than the concept: of all words of the base, or of its prompts."""
    manifest = base.manifest
    prompts = manifest.words or [text.format(class_noun) for text in manifest.templates]
    states = base.text.encode(prompts, [""] * len(prompts), [None] * len(prompts))
    longest = max(len(prompt.split()) for prompt in prompts)
    return states[:, 1 : 2 + longest].flatten(0, 1)  # from the first word to the end mark of the longest


def kv_preservation_loss(states: Tensor, projections: KeyValueProjections, denoiser: Denoiser) -> Tensor:
    """Return the relative squared change of keys and values for text states [n, d], a scalar, mean over layers.

    Custom Diffusion constrains captions in this way when it merges concepts (Kumari et al. 2023, eq. 4). Here it
    preserves the scenes that prompts name beside the concept.
    """
    changes = []
    for layer, to_k, to_v in zip(projections.layers, projections.to_k, projections.to_v, strict=True):
        attention = denoiser.unet.get_submodule(layer)
        for learned, start in ((to_k, attention.to_k.weight), (to_v, attention.to_v.weight)):
            before = states @ start.float().T
            changes.append((states @ learned.T - before).square().mean() / before.square().mean())
    return torch.stack(changes).mean()
