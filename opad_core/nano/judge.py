"""A judge of nano's scenes, which no training of the base or of a concept uses: a small convolutional network.

`opad_core.nano.build` trains it on rendered images of its own. Its weights hold the names of the scenes and the scene
of each prompt, because several prompts ask for one scene.
"""

import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from opad_core.pixels import uint8_to_pixels

WEIGHTS = Path(__file__).parent / "judge.safetensors"
SIDE = 64
"""Pixels of an image's side."""
_WIDTHS = (3, 24, 48, 96, 192)


class SceneNetwork(nn.Module):
    """Scores each scene [b, scenes] of images [b, 3, 64, 64] in [-1, 1]."""

    def __init__(self, scenes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside in pairwise(_WIDTHS):
            layers += [nn.Conv2d(inside, outside, 3, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
            layers += [nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.scenes = nn.Linear(4 * _WIDTHS[-1], scenes)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.scenes(self.layers(images))
        return scores


class SceneJudge:
    """Names the scene of an image."""

    def __init__(self, network: SceneNetwork, scene_of: dict[str, str]) -> None:
        """`scene_of` has the scene of each prompt, such as "a {} in the snow"."""
        self.network, self.scene_of = network.eval().requires_grad_(False), scene_of
        self.names = sorted(set(scene_of.values()))

    @torch.no_grad()
    def scenes(self, images: NDArray[np.uint8]) -> list[str]:
        """Return the name of the scene of each image [n, 64, 64, 3]."""
        found = self.network(uint8_to_pixels(torch.from_numpy(images.copy()), torch.device("cpu"))).argmax(1)
        return [self.names[k] for k in found.tolist()]

    def knows(self, prompts: list[str], *, resolution: int) -> bool:
        """Return whether the judge can say which of these prompts' scenes an image of a resolution shows."""
        return resolution == SIDE and all(prompt in self.scene_of for prompt in prompts)

    def accuracy(self, images: NDArray[np.uint8], prompts: list[str]) -> float:
        """Return the share of images [prompts, seeds, 64, 64, 3] that show the scene of their prompt."""
        shown = self.scenes(images.reshape(-1, *images.shape[2:]))
        asked = np.repeat([self.scene_of[prompt] for prompt in prompts], images.shape[1])
        return float((np.array(shown) == asked).mean())

    def save(self, file: Path) -> None:
        """Write the weights, in half precision, with the scenes of the prompts."""
        tensors = {
            name: x.half() if x.is_floating_point() else x for name, x in self.network.state_dict().items()
        }  # fmt: skip
        save_file(tensors, file, metadata={"scene_of": json.dumps(self.scene_of)})


@cache
def load_judge(file: Path = WEIGHTS) -> SceneJudge:
    """Load the judge, by default the one that is shipped."""
    with safe_open(file, framework="pt") as opened:
        scene_of = json.loads(opened.metadata()["scene_of"])
    network = SceneNetwork(len(set(scene_of.values())))
    network.load_state_dict({name: x.float() if x.is_floating_point() else x for name, x in load_file(file).items()})
    return SceneJudge(network, scene_of)
