"""The training loop for any method: report, stop, resume, roll back, average, evaluate, preview."""

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from opad_core.adapters.adapter import Adapter
from opad_core.errors import DivergedError, OpadError
from opad_core.generation.bundle import Bundle, read_bundle, write_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.training.config import TrainingConfig
from opad_core.training.data import TrainingData, fingerprint
from opad_core.training.divergence import DivergenceCheck
from opad_core.training.method import Hook, Method, Step, no_hook
from opad_core.training.selection import MIN_SCENES, HeldOutEvaluation, is_learned
from opad_core.training.state import named, part_of, read_checkpoint, write_checkpoint

PREVIEW_EVERY = 25
"""Iterations between two previews. A preview costs about a tenth of an iteration."""
GOOD_STATE_EVERY = 50
"""Iterations between two states that a divergence can roll back to."""
ROLLBACK_LR_SCALE = 0.5
"""Factor on every learning rate after a rollback."""
PREVIEW_SEED = 7
PREVIEW_IMAGES = 4


@dataclass(frozen=True)
class Progress:
    """One finished iteration."""

    step: int
    """Number of finished iterations in all stages."""
    total_steps: int
    """Number of iterations that the training will have; `step` if it ends early."""
    ended_early: str | None
    """Why the training ends with this iteration although more were planned; None if it does not."""
    stage: str
    """The method's name for the stage: OPAD's are "distillation" and "collaborative"."""
    losses: dict[str, float]
    seconds_per_step: float
    preview: Image.Image | None
    """Images of the averaged adapter at fixed seeds, side by side; None between previews."""
    save: Callable[[], bytes]
    """Returns the state after this iteration, for `train(resume=...)`. Call it only inside `report`."""


class TrainingStopped(Exception):
    """`should_stop` returned True; carries the state to resume from."""

    def __init__(self, state: bytes) -> None:
        super().__init__("the training was stopped")
        self.state = state


def run(
    training: "Training",
    *,
    report: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    resume: bytes | None = None,
) -> bytes:
    """Run a training to its end and return the bundle as bytes.

    `report` is called after every iteration, `should_stop` before each. The result depends only on the training. On the
    CPU, a training that was stopped and resumed gives the same bytes as an uninterrupted one. With `config.eval_every`
    the bundle holds the averaged adapter with the best score, else the last one.

    Raises OtherTrainingError for the state of another training, DivergedError at the second divergence (the first is
    rolled back), TrainingStopped when `should_stop` returns True.
    """
    config, method = training.config, training.method
    if resume is not None:
        training.load(resume)
    method.prepare()
    check, last_good_state = DivergenceCheck(), training.save()
    started, first_step = time.monotonic(), training.step
    while training.step < config.total_iterations and not training.is_learned:
        if should_stop():
            raise TrainingStopped(training.save())
        losses = training.iterate()
        if trouble := check.trouble(losses) or training.overflow_trouble():
            diverged = f"the training diverged at iteration {training.step}: {trouble}"
            if training.lr_scale < 1:
                raise DivergedError(
                    f"{diverged}, also at lower learning rates; try other photos or lower learning rates"
                )
            training.load(last_good_state)
            training.lr_scale, check = ROLLBACK_LR_SCALE, DivergenceCheck()
            continue
        if training.evaluation_is_due:
            training.evaluate()
        if training.step % GOOD_STATE_EVERY == 0:
            last_good_state = training.save()
        total_steps = training.step if training.is_learned else config.total_iterations
        show = training.step % PREVIEW_EVERY == 0 or training.step == total_steps
        report(
            Progress(
                step=training.step,
                total_steps=total_steps,
                ended_early=training.ended_early,
                stage=method.stage(training.step - 1),
                losses={name: float(value) for name, value in losses.items()},
                seconds_per_step=(time.monotonic() - started) / max(1, training.step - first_step),
                preview=training.preview() if show else None,
                save=training.save,
            )
        )
    return training.bundle(training.best)


class Training:
    """The state of one training: a method on one concept. `iterate` runs one iteration."""

    def __init__(
        self, method: Method, data: TrainingData, config: TrainingConfig, *, seed: int, hook: Hook = no_hook
    ) -> None:
        self.method, self.data, self.config, self.seed = method, data, config, seed
        self._hook = hook
        self.step = 0
        """Number of finished iterations."""
        self.lr_scale = 1.0
        """Factor on every learning rate; below 1 after a rollback."""
        self.average: Adapter = copy.deepcopy(method.adapter).requires_grad_(False)
        """Exponential moving average of the adapter."""
        self.best: Adapter | None = None
        """The average with the best score so far."""
        self.scores: list[float] = []
        """The score of each evaluation so far."""
        scenes = data.evaluation_scenes
        self._evaluation = (
            HeldOutEvaluation(data.base, data.pixels, data.class_noun, scenes) if len(scenes) >= MIN_SCENES else None
        )
        self._fingerprint = fingerprint(method.name, data, config, seed=seed)

    def iterate(self) -> dict[str, Tensor]:
        """Run one iteration in place and return its mean losses by name. Losses of weight 0 are omitted."""
        losses = self.method.step(
            Step(self.step, self.seed, self._scheduled_lr_scale(), lambda: self._read(self.bundle()), self._hook)
        )
        self._update_average()
        self.step += 1
        return losses

    def bundle(self, adapter: Adapter | None = None) -> bytes:
        """Return the bundle of an adapter, by default the current average, as bytes."""
        manifest = self.data.base.manifest
        return write_bundle(
            adapter or self.average,
            method=self.method.name,
            class_noun=self.data.class_noun,
            base=manifest.name,
            base_sha256=manifest.sha256,
            config=dataclasses.asdict(self.config),
            seed=self.seed,
        )

    def preview(self) -> Image.Image:
        """Generate images for the base's first scene prompts at fixed seeds, side by side."""
        base, bundle = self.data.base, self._read(self.bundle())
        prompts = [p.format(PLACEHOLDER) for p in base.manifest.scene_prompts[:PREVIEW_IMAGES]]
        requests = [ImageRequest(bundle, prompt, PREVIEW_SEED + i) for i, prompt in enumerate(prompts)]
        images = torch.from_numpy(OneStepGenerator(base).generate(requests))
        return Image.fromarray(images.permute(1, 0, 2, 3).flatten(1, 2).numpy())

    @property
    def evaluation_is_due(self) -> bool:
        due = self.config.eval_every and self.step % self.config.eval_every == 0
        return self._evaluation is not None and (bool(due) or self.step == self.config.total_iterations)

    @property
    def is_learned(self) -> bool:
        """Whether the held-out score no longer rises."""
        return is_learned(self.scores, patience=self.config.patience, min_gain=self.config.min_gain)

    @property
    def ended_early(self) -> str | None:
        """Why the training ends before its last iteration, in a sentence; None if it does not."""
        if not self.is_learned or self.step >= self.config.total_iterations:
            return None
        gain = max(self.scores) - max(self.scores[: -self.config.patience])
        return (
            f"Learned after {self.step} of at most {self.config.total_iterations} iterations: the score on held-out "
            f"scenes rose by {gain:.4f} in the last {self.config.patience * self.config.eval_every}."
        )

    def evaluate(self) -> None:
        """Score the average on held-out scenes, and keep it if the score is the best so far."""
        assert self._evaluation is not None
        score = self._evaluation.score(self._read(self.bundle()))
        if score > max(self.scores, default=-math.inf):
            self.best = copy.deepcopy(self.average)
        self.scores.append(score)

    def overflow_trouble(self) -> str | None:
        """Describe repeated overflows of half precision; None if there are none."""
        return next(filter(None, (optimizer.trouble() for optimizer in self.method.optimizers.values())), None)

    def save(self) -> bytes:
        """Return the whole state as bytes."""
        header = {
            "step": self.step,
            "lr_scale": self.lr_scale,
            "scores": self.scores,
        }
        tensors = named("average", self.average.state_dict()) | named("method", self.method.state())
        if self.best is not None:
            tensors |= named("best", self.best.state_dict())
        for name, optimizer in self.method.optimizers.items():
            tensors |= named(f"optimizer.{name}", optimizer.tensors())
        return write_checkpoint(header, tensors, fingerprint=self._fingerprint)

    def load(self, state: bytes) -> None:
        """Restore a state. Raises OpadError for damaged bytes, OtherTrainingError for the state of another training."""
        header, tensors = read_checkpoint(state, fingerprint=self._fingerprint)
        try:
            for name, optimizer in self.method.optimizers.items():
                optimizer.load(part_of(tensors, f"optimizer.{name}"))
            self.average.load_state_dict(part_of(tensors, "average"))
            best = part_of(tensors, "best")
            self.best = copy.deepcopy(self.average) if best else None
            if self.best is not None:
                self.best.load_state_dict(best)
        except (KeyError, RuntimeError) as error:
            raise OpadError("the checkpoint lacks a part of the state; start the training again") from error
        self.method.load_state(part_of(tensors, "method"))
        self.step, self.lr_scale = header["step"], header["lr_scale"]
        self.scores = header["scores"]

    def _read(self, bundle: bytes) -> Bundle:
        adapter = self.method.adapter
        return read_bundle(bundle, adapters={adapter.kind: type(adapter)})

    def _scheduled_lr_scale(self) -> float:
        if not self.config.lr_decay:
            return self.lr_scale
        left = (self.config.total_iterations - self.step) / self.config.total_iterations
        return self.lr_scale * min(1.0, left / self.config.lr_decay)

    @torch.no_grad()
    def _update_average(self) -> None:
        """Update the EMA, with a warm-up so that the average leaves the pretrained weights quickly."""
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for average, parameter in zip(self.average.parameters(), self.method.adapter.parameters(), strict=True):
            average.lerp_(parameter, 1 - decay)
