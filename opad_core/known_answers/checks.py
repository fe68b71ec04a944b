"""All checks of a base, in the order in which a failure explains the next ones."""

import gc
from collections.abc import Callable
from functools import partial

import psutil
import torch

from opad_core.bases.loading import Base
from opad_core.bases.precision import Precision
from opad_core.errors import NotEnoughMemoryError, OpadError
from opad_core.known_answers import features, images, learning, schedules, teacher, text
from opad_core.known_answers.answer import Answer, Outcome, skipped
from opad_core.known_answers.expected import EXPECTED
from opad_core.known_answers.learning import LEARNING
from opad_core.known_answers.photos import Photos
from opad_core.methods.opad.config import OpadConfig
from opad_core.training.memory import Rung, save_memory

GIB = 2**30
ROOM = 1.25
"""Memory that the checks need, by the size of the networks' files: activations of four images are the rest."""


def known_answers(base: Base, photos: list[Photos], *, report: Callable[[Answer], None]) -> list[Answer]:
    """Check a base's files and networks, and report each answer when it is known.

    Base and photos are those of `load_base` and `read_photos`. Without photos the checks that need some are skipped, as
    are those whose networks do not fit into the device's free memory. Raises nothing for a failed check.
    """
    expected = EXPECTED.get(base.manifest.name)
    named: dict[str, Callable[[], Answer]] = {
        "one text encoder for teacher and student": lambda: text.student_text_encoder(base.manifest),
        "noise schedule": lambda: schedules.noise_schedule(base),
    }
    if expected is not None:
        named |= {
            "prediction types": lambda: schedules.prediction_types(base, expected),
            "tokens of the prompts": lambda: text.prompt_tokens(base, expected),
            "padding": lambda: text.padding(base, expected),
        }
    networks: dict[str, Callable[[], Answer]] = {
        "autoencoder": lambda: images.autoencoder(base, photos),
        "one-step images": lambda: images.one_step_images(base),
        "same images as diffusers": lambda: images.stock_images(base),
        "images show what the prompt asks for": lambda: images.text_fit(base),
        "the teacher denoises photos": lambda: teacher.denoised_photo(base, photos),
        **{name: partial(features.same_object, base, photos, part) for part, name in features.CHECKS.items()},
    }
    if (lacking := _lacking_memory(base)) is not None:
        networks = {name: partial(skipped, name, lacking) for name in networks}
    answers = []
    for name, check in (named | networks).items():
        answers.append(_asked(name, check))
        report(answers[-1])
    return answers


def check_weights(
    load: Callable[[Precision], Base],
    fit: Callable[[], Rung],
    photos: list[Photos],
    config: OpadConfig,
    *,
    precision: Precision = "float32",
    report: Callable[[Answer], None],
) -> list[Answer]:
    """Run every check of a base: `known_answers` in `precision`, then a short training with a preset of the base.

    `load` returns the base in a precision, `fit` how a training fits into the device's memory (`rung_for`). Each answer
    is reported when it is known.
    """
    answers = known_answers(load(precision), photos, report=report)
    gc.collect()  # the networks that were checked make room for those that learn
    try:
        rung = fit()
        base = load(rung.precision)
        save_memory(base, rung)
        answers.append(_learning_answer(base, photos, config))
    except NotEnoughMemoryError as error:
        answers.append(skipped(LEARNING, str(error)))
    report(answers[-1])
    return answers


def _learning_answer(base: Base, photos: list[Photos], config: OpadConfig) -> Answer:
    """Check that a short training learns; see `short_training`. On a CPU only nano is small enough."""
    if base.device.type == "cpu" and base.manifest.name != "nano":
        return skipped(LEARNING, "50 iterations take hours on a CPU; run it on a machine with a GPU")
    return _asked(LEARNING, lambda: learning.short_training(base, photos, config))


def _asked(name: str, check: Callable[[], Answer]) -> Answer:
    try:
        return check()
    except OpadError as error:
        return Answer(name, Outcome.FAILED, str(error))


def _lacking_memory(base: Base) -> str | None:
    """Return why the networks do not fit into the device's free memory; None if they do."""
    folders = tuple(f"{part}/" for part in ("teacher", "student", "text_encoder", "vae", "discriminators"))
    files = [base.folder / path for path in base.manifest.files if path.startswith(folders)]
    stored = sum(file.stat().st_size for file in files if file.is_file())  # loading tells which are missing
    needed = ROOM * stored
    on_gpu = base.device.type == "cuda"
    free = torch.cuda.mem_get_info(base.device)[0] if on_gpu else psutil.virtual_memory().available
    if needed <= free:
        return None
    return f"its networks need {needed / GIB:.0f} GiB of free memory in float32, {base.device} has {free / GIB:.1f}"
