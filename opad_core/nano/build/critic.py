"""What judges pictures during the build: the three frozen feature networks with small trained heads."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModelWithProjection, Dinov2Model, ViTModel

from opad_core.nano.build.architecture import FEATURE_WIDTH, TEXT_WIDTH, build_clip, build_dino, build_dinov2
from opad_core.nano.build.stage import Build

_LAYERS = (2, 4)


class Critic:
    """Frozen networks and, on every token of a middle and the last layer, a trained head that reads the caption too."""

    def __init__(self, build: Build) -> None:
        self._networks = load_backbones(build)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(FEATURE_WIDTH + TEXT_WIDTH, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1))
            for _ in range(len(_LAYERS) * len(self._networks))
        )

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Normalised tokens [b, 65, 128] per network and layer; gradients reach the pictures only."""
        tokens: list[Tensor] = []
        for network in self._networks:
            states = network(pictures, output_hidden_states=True).hidden_states
            tokens += [F.layer_norm(states[layer], (FEATURE_WIDTH,)) for layer in _LAYERS]
        return tokens

    def judge(self, features: list[Tensor], summary: Tensor, *, is_real: bool) -> Tensor:
        """Hinge loss of the heads, a scalar; `summary` [b, 128] is the caption's embedding."""
        sign = -1.0 if is_real else 1.0
        return torch.stack([F.relu(1 + sign * score).mean() for score in self._scores(features, summary)]).mean()

    def fool(self, features: list[Tensor], summary: Tensor) -> Tensor:
        """The generator's side of the game, a scalar."""
        return -torch.stack([score.mean() for score in self._scores(features, summary)]).mean()

    def _scores(self, features: list[Tensor], summary: Tensor) -> list[Tensor]:
        scores = []
        for head, tokens in zip(self.heads, features, strict=True):
            words = summary[:, None].expand(-1, tokens.shape[1], -1)
            scores.append(head(torch.cat([tokens, words], -1)))
        return scores


def load_backbones(build: Build) -> list[ViTModel | Dinov2Model | CLIPVisionModelWithProjection]:
    """The three feature networks, frozen, in the order dino, dinov2, clip."""
    networks = {"dino": build_dino(), "dinov2": build_dinov2(), "clip": build_clip()}
    for name, network in networks.items():
        build.load(name, name, network)
        network.requires_grad_(False).eval()
    return list(networks.values())
