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
from opad_core.generation.bundle import Bundle, Network, read_bundle, write_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.training.config import TrainingConfig
from opad_core.training.data import TrainingData, fingerprint
from opad_core.training.divergence import DivergenceCheck
from opad_core.training.method import Hook, Inputs, Method, Step, no_hook
from opad_core.training.selection import MIN_SCENES, HeldOutEvaluation, is_learned
from opad_core.training.state import Snapshot, copied, named, part_of, read_state

PREVIEW_EVERY = 25
"""Iterations between two previews. A preview costs about a tenth of an iteration."""
GOOD_STATE_EVERY = 50
"""Iterations between two states that a divergence can roll back to."""
ROLLBACK_LR_SCALE = 0.5
"""Factor on every learning rate after a rollback."""
PREVIEW_SEED = 7
PREVIEW_IMAGES = 4
REPORT_EVERY = {"cuda": 10}
"""Iterations between two reports on a device; 1 on others. A report waits until the device has finished."""
MAX_REPORT_SECONDS = 3.0
"""Longest planned time between two reports, because only then a training can be stopped."""


@dataclass(frozen=True)
class Progress:
    """The iterations since the last report. All of them belong to one stage."""

    step: int
    """Number of finished iterations in all stages."""
    total_steps: int
    """Number of iterations that the training will have; `step` if it ends early."""
    ended_early: str | None
    """Why the training ends with this iteration although more were planned; None if it does not."""
    stage: str
    """The method's name for the stage: OPAD's are "distillation" and "collaborative"."""
    losses: list[dict[str, float]]
    """Mean losses by name of each of these iterations, the newest last."""
    seconds_per_step: float
    preview: Image.Image | None
    """Images of the averaged adapter at fixed seeds, side by side; None between previews."""
    snapshot: Callable[[], Snapshot]
    """Returns a copy of the state, whose bytes are for `train(resume=...)`. Call it only inside `report`."""


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
    report_every: int | None = None,
    keep_teacher: Callable[[bytes], None] | None = None,
) -> bytes:
    """Run a training to its end and return the bundle as bytes.

    `report` is called after every `report_every` iterations or earlier: at the end of a stage, with each preview, and
    at least every three seconds. `should_stop` is called before the first iteration and after each report. The default
    of `report_every` is 10 on CUDA, else 1. The result depends only on the training. On the CPU, a training that was
    stopped and resumed gives the same bytes as an uninterrupted one. With `config.eval_every` the bundle holds the
    averaged adapter with the best score, else the last one. At the end `keep_teacher` gets the teacher's bundle.

    Raises OtherTrainingError for the state of another training, DivergedError at the second divergence (the first is
    rolled back), TrainingStopped when `should_stop` returns True.
    """
    config, method = training.config, training.method
    limit = report_every or REPORT_EVERY.get(training.data.base.device.type, 1)
    if keep_teacher is not None:
        training.teacher_bundle()  # refuses at once if there is no teacher
    if resume is not None:
        training.load(training.read(resume))
    with training.part("caches"):
        method.prepare()
    check, last_good_state = DivergenceCheck(), training.snapshot()
    started, first_step = time.monotonic(), training.step
    pace = math.inf
    while training.step < config.total_iterations and not training.is_learned:
        if should_stop():
            raise TrainingStopped(training.snapshot().to_bytes())
        began = time.monotonic()
        losses = training.iterate_until_report(max(1, min(limit, int(MAX_REPORT_SECONDS / pace))))
        pace = (time.monotonic() - began) / len(losses)
        if trouble := check.trouble(losses) or training.overflow_trouble():
            diverged = f"the training diverged by iteration {training.step}: {trouble}"
            if training.lr_scale < 1:
                raise DivergedError(
                    f"{diverged}, also at lower learning rates; try other photos or lower learning rates"
                )
            training.load(last_good_state)
            training.lr_scale, check = ROLLBACK_LR_SCALE, DivergenceCheck()
            started, first_step = time.monotonic(), training.step
            continue
        if training.evaluation_is_due:
            with training.part("evaluation"):
                training.evaluate()
        if training.step % GOOD_STATE_EVERY == 0:
            with training.part("state"):
                last_good_state = training.snapshot()
        preview = None
        if training.preview_is_due:
            with training.part("preview"):
                preview = training.preview()
        report(
            Progress(
                step=training.step,
                total_steps=training.step if training.is_learned else config.total_iterations,
                ended_early=training.ended_early,
                stage=method.stage(training.step - 1),
                losses=losses,
                seconds_per_step=(time.monotonic() - started) / (training.step - first_step),
                preview=preview,
                snapshot=training.snapshot,
            )
        )
    if keep_teacher is not None:
        keep_teacher(training.teacher_bundle())
    return training.bundle(training.best)


class Training:
    """The state of one training: a method on one concept. `iterate` runs one iteration."""

    def __init__(
        self, method: Method, data: TrainingData, config: TrainingConfig, *, seed: int, hook: Hook = no_hook
    ) -> None:
        self.method, self.data, self.config, self.seed = method, data, config, seed
        self.part = hook
        self.learn: Callable[[Inputs, Hook], dict[str, Tensor]] = self._learn_on_device
        """Runs one iteration of the method on inputs from the host; `captured.CapturedLearning` on CUDA."""
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
        method = self.method
        for optimizer in method.optimizers.values():
            optimizer.scale_lr(self._scheduled_lr_scale())
        inputs = method.draw(Step(self.step, self.seed, lambda: self._read(self.bundle()), self.part))
        losses = self.learn(inputs, self.part)
        self._update_average()
        self.step += 1
        return losses

    def iterate_until_report(self, at_most: int) -> list[dict[str, float]]:
        """Run iterations until something has to be reported, and return the losses of each.

        The step is then a multiple of `at_most`, the end of a stage, or one where the loop evaluates, previews or
        copies the state. The losses are read from the device once.
        """
        recent = [self.iterate()]
        while self.step % at_most and not self._is_a_stop:
            recent.append(self.iterate())
        values = iter(torch.stack([loss.float() for losses in recent for loss in losses.values()]).tolist())
        return [self.method.valid({name: next(values) for name in losses}) for losses in recent]

    @property
    def _is_a_stop(self) -> bool:
        ends_stage = self.step == self.config.total_iterations or (
            self.method.stage(self.step) != self.method.stage(self.step - 1)
        )
        return ends_stage or self.preview_is_due or self.evaluation_is_due or self.step % GOOD_STATE_EVERY == 0

    def bundle(self, adapter: Adapter | None = None) -> bytes:
        """Return the bundle of a student's adapter, by default the current average, as bytes."""
        return self._written(adapter or self.average, "student")

    def teacher_bundle(self) -> bytes:
        """Return the bundle of the teacher as it is now. Raises OpadError if the method trains none."""
        teacher = self.method.teacher_adapter
        if teacher is None:
            raise OpadError(f"the method {self.method.name!r} trains no teacher to keep")
        return self._written(teacher, "teacher")

    def _written(self, adapter: Adapter, network: Network) -> bytes:
        manifest = self.data.base.manifest
        return write_bundle(
            adapter,
            method=self.method.name,
            class_noun=self.data.class_noun,
            base=manifest.name,
            base_sha256=manifest.sha256,
            config=dataclasses.asdict(self.config),
            seed=self.seed,
            network=network,
        )

    def preview(self) -> Image.Image:
        """Generate images for the base's first scene prompts at fixed seeds, side by side."""
        base, bundle = self.data.base, self._read(self.bundle())
        prompts = [p.format(PLACEHOLDER) for p in base.manifest.scene_prompts[:PREVIEW_IMAGES]]
        requests = [ImageRequest(bundle, prompt, PREVIEW_SEED + i) for i, prompt in enumerate(prompts)]
        images = torch.from_numpy(OneStepGenerator(base).generate(requests))
        return Image.fromarray(images.permute(1, 0, 2, 3).flatten(1, 2).numpy())

    @property
    def preview_is_due(self) -> bool:
        return self.step % PREVIEW_EVERY == 0 or self.step == self.config.total_iterations or self.is_learned

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

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state."""
        header = {
            "step": self.step,
            "lr_scale": self.lr_scale,
            "scores": [*self.scores],
        }
        tensors = named("average", self.average.state_dict()) | named("method", self.method.state())
        if self.best is not None:
            tensors |= named("best", self.best.state_dict())
        for name, optimizer in self.method.optimizers.items():
            tensors |= named(f"optimizer.{name}", optimizer.tensors())
        return copied(header, tensors, fingerprint=self._fingerprint)

    def read(self, data: bytes) -> Snapshot:
        """Return a state that was saved as bytes.

        Raises OpadError for damaged bytes, OtherTrainingError for the state of another training.
        """
        return read_state(data, fingerprint=self._fingerprint)

    def load(self, state: Snapshot) -> None:
        """Restore a state of this training, in place. Raises OpadError if it lacks a part."""
        header, tensors = state.header, state.tensors
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
        self.scores = [*header["scores"]]

    def _learn_on_device(self, inputs: Inputs, part: Hook) -> dict[str, Tensor]:
        return self.method.learn({name: x.to(self.data.base.device) for name, x in inputs.items()}, part)

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
