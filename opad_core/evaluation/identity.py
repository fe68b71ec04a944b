"""The identity score: how much generated images show the same object as the references."""

import numpy as np
from PIL import Image

from opad_core.evaluation.embedding import embed, load_embedding
from opad_core.pixels import squared


def identity_score(images: list[Image.Image], references: list[Image.Image]) -> float:
    """Return the mean cosine between the embeddings of all images and all references, in [-1, 1].

    The embedding is EfficientNet-Lite0, trained on ImageNet. Unlike the CLIP and DINO networks of the usual scores, it
    is not one of the discriminators. References are first resized to the size of the images, because finer detail is
    not part of the identity.
    """
    network = load_embedding()
    size = images[0].size
    reduced = [squared(r, keep_aspect=True).resize(size, Image.Resampling.LANCZOS) for r in references]
    of_images, of_references = (
        embed(np.stack([np.asarray(p.convert("RGB")) for p in group]), network) for group in (images, reduced)
    )
    return float((of_images @ of_references.T).mean())
