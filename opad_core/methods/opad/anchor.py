"""What may not move while a concept is learned: the keys and values of other words."""

import torch
from torch import Tensor

from opad_core.adapters.key_value import KeyValueProjections
from opad_core.bases.loading import Base
from opad_core.networks.denoiser import Denoiser


@torch.no_grad()
def anchor_states(base: Base, class_noun: str) -> Tensor:
    """Text states [n, d] of words that are not the concept: of each word the base knows, else of its prompts."""
    manifest = base.manifest
    prompts = manifest.words or [text.format(class_noun) for text in manifest.templates]
    states = base.text.encode(prompts, [""] * len(prompts), [None] * len(prompts))
    longest = max(len(prompt.split()) for prompt in prompts)
    return states[:, 1 : 2 + longest].flatten(0, 1)  # from the first word to the end mark of the longest


def drift(anchors: Tensor, projections: KeyValueProjections, denoiser: Denoiser) -> Tensor:
    """How far the anchors' keys and values moved, relative to their size; a scalar, mean over layers.

    Custom Diffusion holds captions so when it merges concepts (Kumari et al. 2023, eq. 4); here it keeps a scene asked
    for beside the concept from being forgotten.
    """
    drifts = []
    for layer, to_k, to_v in zip(projections.layers, projections.to_k, projections.to_v, strict=True):
        attention = denoiser.unet.get_submodule(layer)
        for learned, start in ((to_k, attention.to_k.weight), (to_v, attention.to_v.weight)):
            before = anchors @ start.float().T
            drifts.append((anchors @ learned.T - before).square().mean() / before.square().mean())
    return torch.stack(drifts).mean()
