"""Learn a concept with the method of a config."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.methods.accelerated import accelerated
from opad_core.methods.cones2 import Cones2, Cones2Config
from opad_core.methods.custom_diffusion import CustomDiffusion, CustomDiffusionConfig
from opad_core.methods.disenbooth import DisenBooth, DisenBoothConfig
from opad_core.methods.dreambooth import DreamBooth, DreamBoothConfig
from opad_core.methods.lora import Lora, LoraConfig
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.opad.method import Opad
from opad_core.methods.textboost import TextBoost, TextBoostConfig
from opad_core.methods.textual_inversion import TextualInversion, TextualInversionConfig
from opad_core.training.config import TrainingConfig
from opad_core.training.data import TrainingData, prepare_data
from opad_core.training.loop import Progress, Training, run
from opad_core.training.method import Hook, Method, no_hook
from opad_core.training.tf32 import tf32_products


def train(
    base: Base,
    references: list[Image.Image],
    class_noun: str,
    config: TrainingConfig,
    *,
    seed: int,
    report: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    resume: bytes | None = None,
    report_every: int | None = None,
    hook: Hook = no_hook,
    compile_cache: Path | None = None,
    keep_teacher: Callable[[bytes], None] | None = None,
) -> bytes:
    """Learn a concept from 1-100 references and return its bundle as bytes. The config's class chooses the method.

    `report` is called after every `report_every` iterations or earlier, and `should_stop` before the first iteration
    and after each report. The default of `report_every` is 10 on CUDA, else 1. `hook` is called for each part of the
    training. `compile_cache` is the folder of networks that are compiled for CUDA, which takes minutes the first time;
    None: they are not compiled. `keep_teacher` gets the teacher's bundle at the end. The result depends only on the
    other arguments, on CUDA up to rounding. On the CPU, a training that was stopped and resumed gives the same bytes as
    an uninterrupted one.

    Raises OpadError for a class noun that the base does not know, OtherTrainingError for the state of another training,
    DivergedError at the second divergence (the first is rolled back), TrainingStopped when `should_stop` returns True.
    """
    with tf32_products(base):
        training = fast_training(
            base, references, class_noun, config, seed=seed, hook=hook, compile_cache=compile_cache
        )  # fmt: skip
        return run(
            training,
            report=report,
            should_stop=should_stop,
            resume=resume,
            report_every=report_every,
            keep_teacher=keep_teacher,
        )


def fast_training(
    base: Base,
    references: list[Image.Image],
    class_noun: str,
    config: TrainingConfig,
    *,
    seed: int,
    hook: Hook = no_hook,
    compile_cache: Path | None = None,
) -> Training:
    """Return a training whose iterations are as fast as `train` runs them: on CUDA they are compiled and captured.

    The arguments are those of `train`. Without compilation and capture it is `new_training`.
    """
    data = prepare_data(base, references, class_noun, config)

    def build(networks: Base | None = None) -> Training:
        return Training(_method(data, config, seed=seed, networks=networks), data, config, seed=seed, hook=hook)

    training = build()
    if base.device.type == "cuda":
        base.use_channels_last()
        with hook("compile"):
            training = accelerated(training, build, cache=compile_cache)
    return training


def new_training(
    base: Base,
    references: list[Image.Image],
    class_noun: str,
    config: TrainingConfig,
    *,
    seed: int,
    hook: Hook = no_hook,
) -> Training:
    """Return a training to run iteration by iteration. `hook` is called for each part of it."""
    data = prepare_data(base, references, class_noun, config)
    return Training(_method(data, config, seed=seed), data, config, seed=seed, hook=hook)


def _method(data: TrainingData, config: TrainingConfig, *, seed: int, networks: Base | None = None) -> Method:
    match config:
        case OpadConfig():
            return Opad(data, config, seed=seed, networks=networks)
        case CustomDiffusionConfig():
            return CustomDiffusion(data, config, seed=seed, networks=networks)
        case TextualInversionConfig():
            return TextualInversion(data, config, seed=seed, networks=networks)
        case DreamBoothConfig():
            return DreamBooth(data, config, seed=seed, networks=networks)
        case LoraConfig():
            return Lora(data, config, seed=seed, networks=networks)
        case TextBoostConfig():
            return TextBoost(data, config, seed=seed, networks=networks)
        case DisenBoothConfig():
            return DisenBooth(data, config, seed=seed, networks=networks)
        case Cones2Config():
            return Cones2(data, config, seed=seed, networks=networks)
    raise OpadError(f"no method takes a {type(config).__name__}")
