"""How much generated pictures show the very thing of the references, judged by a network that trained nothing here."""

import numpy as np
from PIL import Image

from opad_core.evaluation.embedding import embed, load_embedding
from opad_core.pixels import squared


def identity_score(images: list[Image.Image], references: list[Image.Image]) -> float:
    """Mean cosine of every picture's embedding with every reference's, in [-1, 1].

    EfficientNet-Lite0, trained on ImageNet by others, took no part in any training here, unlike the CLIP and DINO
    networks that the usual scores share with the discriminators. References are brought to the pictures' size
    first: a photo's finer grain is no part of its identity.
    """
    network = load_embedding()
    size = images[0].size
    reduced = [squared(r, keep_aspect=True).resize(size, Image.Resampling.LANCZOS) for r in references]
    of_images, of_references = (
        embed(np.stack([np.asarray(p.convert("RGB")) for p in group]), network) for group in (images, reduced)
    )
    return float((of_images @ of_references.T).mean())
