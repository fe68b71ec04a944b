"""Check of the method: does a short training learn?"""

import torch

from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.generation.bundle import Bundle
from opad_core.known_answers.answer import Answer, answer, skipped
from opad_core.known_answers.photos import NO_PHOTOS, Photos
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.opad.method import Opad
from opad_core.methods.train import new_training
from opad_core.training.config import override
from opad_core.training.divergence import DivergenceCheck
from opad_core.training.loop import Training
from opad_core.training.method import Step
from opad_core.training.tf32 import tf32_products

LEARNING = "learning"
"""Name of the check."""
ITERATIONS = 50
DRAWS = 8
"""Batches whose L_rec is compared before and after. They are the same ones, because L_rec of other batches, noise and
timesteps varies more than 50 iterations improve it."""


def short_training(base: Base, photos: list[Photos], config: OpadConfig) -> Answer:
    """Learn one object for 50 iterations: the first whose noun the base knows, else the first under another noun.

    `config` is a preset of the base, which is loaded for training. Raises OpadError for a training that diverges.
    """
    if not photos:
        return skipped(LEARNING, NO_PHOTOS)
    nouns = base.manifest.nouns
    chosen = next((photo for photo in photos if photo.noun and (nouns is None or photo.noun in nouns)), None)
    noun = (nouns or ["dog"])[0] if chosen is None else str(chosen.noun)
    images = (chosen or photos[0]).images
    short = override(config, {"iterations": ITERATIONS, "collaborative_iterations": 0, "lr_decay": 0.0})
    with tf32_products(base):
        training = new_training(base, images, noun, short, seed=0)
        training.method.prepare()
        before = _reconstruction_loss(training)
        losses = [training.iterate_until_report(1)[0] for _ in range(ITERATIONS)]
        after = _reconstruction_loss(training)
    if trouble := DivergenceCheck().trouble(losses):
        raise OpadError(f"the training diverged: {trouble}")
    return answer(
        LEARNING,
        after < before,
        f"in {ITERATIONS} iterations the teacher's error on the same batches moved from {before:.3g} to {after:.3g}; "
        f"all {len(losses[-1])} losses are finite",
        wrong="it should have fallen. A training will not learn the concept; if all other checks passed, send us this "
        "list",
    )


@torch.no_grad()
def _reconstruction_loss(training: Training) -> float:
    """Return the teacher's mean L_rec on the first batches of a training."""
    method = training.method
    assert isinstance(method, Opad)
    total = 0.0
    for number in range(DRAWS):
        inputs = method.draw(Step(number, training.seed, _no_average))
        on_device = {name: x.to(training.data.base.device) for name, x in inputs.items()}
        total += float(method.teacher_loss(on_device)[0])
    return total / DRAWS


def _no_average() -> Bundle:
    raise AssertionError("only the collaborative stage reads the average")
