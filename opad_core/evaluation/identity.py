"""How much generated pictures show the very thing of the references, judged by a network that trained nothing here."""

from PIL import Image
from torch import Tensor

from opad_core.evaluation.embedding import embed


def identity_score(pictures: list[Image.Image], references: list[Image.Image]) -> float:
    """Mean cosine of every picture's embedding with every reference's, in [-1, 1].

    EfficientNet-Lite0, trained on ImageNet by others, took no part in any training here, unlike the CLIP and DINO
    networks that the usual scores share with the discriminators.
    """
    return float((_embedded(pictures) @ _embedded(references).T).mean())


def _embedded(pictures: list[Image.Image]) -> Tensor:
    return embed([picture.convert("RGB") for picture in pictures])
