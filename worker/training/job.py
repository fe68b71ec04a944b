"""The training of one job: read its references, run the method, report progress, store previews and checkpoints."""

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from types import TracebackType
from typing import Self
from uuid import UUID

import structlog
from PIL import Image
from sqlalchemy import Float, Select, func, select
from sqlalchemy.orm import selectinload

from api.domain import failpoints
from api.domain.database import Sessions
from api.domain.job_reports import JobProgress
from api.domain.settings import Settings
from api.domain.storage import ObjectDiffers, Storage, StorageUnavailable, preview_key
from api.domain.tables import Attempt, Concept, Job, Reference
from api.domain.training_times import past_timings, stage_after, stage_iterations, typical_time
from opad_core import (
    Base,
    OpadError,
    OtherTrainingError,
    Progress,
    ReportCard,
    TrainingStopped,
    device_named,
    export_bundle,
    load_base,
    method_config,
    override,
    read_bundle,
    report_card,
    rung_for,
    save_memory,
    train,
)
from worker.training.checkpoints import newest_valid_checkpoint, save_checkpoint
from worker.training.clock import TrainingClock
from worker.training.lease import Lease
from worker.training.marking import png_of
from worker.training.storage_retry import retry_storage
from worker.training.uploads import Uploads
from worker.training.wall_time import WallTime

log = structlog.get_logger()


@dataclass(frozen=True)
class Claim:
    job_id: UUID
    fence: int


@dataclass(frozen=True)
class Exported:
    """The bundle in the format of another tool, or the teacher's bundle."""

    layout: str
    data: bytes
    relative_error: float | None


@dataclass(frozen=True)
class TrainingResult:
    bundle: bytes
    base_sha256: str
    exports: list[Exported]
    report: ReportCard | None
    ended_early: str | None
    """Why the training ended before its last iteration, in a sentence; None if it did not."""
    steps: int | None
    """Iterations of the training; None if an earlier attempt had done all of them."""
    clock: TrainingClock


class BadImageError(OpadError):
    """A reference cannot be read as an image."""


def train_job(
    claim: Claim,
    settings: Settings,
    sessions: Sessions,
    storage: Storage,
    lease: Lease,
    stop: Callable[[], bool],
    wall_time: WallTime,
) -> TrainingResult:
    """Train and return the bundle, its exports and its report card.

    Raises what `opad_core.train` and the storage raise. Before TrainingStopped is raised, the last state is committed,
    unless the store is away or, after a request to cancel, hangs.
    """
    with sessions.begin() as db:
        job = db.scalars(
            select(Job)
            .where(Job.id == claim.job_id)
            .options(selectinload(Job.concept).selectinload(Concept.references))
        ).one()
        past = db.execute(past_timings(base=job.concept.base, method=job.method, preset=job.preset)).all()
        wall_time.claimed(seconds_ago=db.execute(_age_of_attempt(claim)).scalar_one())
    wall_time.begin("load")
    device = device_named(settings.device)
    load = partial(load_base, settings.base, bases=settings.bases, device=settings.device)
    base = load()
    if base.manifest.name != job.concept.base:
        raise OpadError(
            f"the job needs the base {job.concept.base!r}, but this trainer has {base.manifest.name!r}; set OPAD_BASE"
        )
    config = override(method_config(job.method, base.manifest, preset=job.preset), job.overrides)
    rung = rung_for(
        resolution=base.manifest.resolution,
        batch_size=config.batch_size,
        preset=job.preset,
        setting=settings.precision,
        device=device,
    )
    base = load(precision=rung.precision)
    log.info(
        "training.began",
        base=base.manifest.name,
        device=str(base.device),
        precision=str(base.dtype),
        memory=rung.summary,
        method=job.method,
        preset=job.preset,
        references=len(job.concept.references),
        steps=config.total_iterations,
    )
    base.load("training")
    save_memory(base, rung)
    wall_time.begin("references")
    patience = settings.storage_retry_seconds
    references = [
        _read_image(
            reference,
            retry_storage(partial(storage.get, reference.key, reference.sha256), lease, stop, seconds=patience),
        )
        for reference in job.concept.references
    ]
    expected = typical_time(
        past,
        base=job.concept.base,
        method=job.method,
        preset=job.preset,
        device=device.type,
        worker=job.worker,
    )
    plan = stage_iterations(job.method, dataclasses.asdict(config))
    clock = TrainingClock(plan, expected, device=device.type, started_at=wall_time.started_at)

    teachers: list[Exported] = []

    def keep_teacher(bundle: bytes) -> None:
        teachers.append(Exported("teacher", bundle, None))

    def run(reporter: _ProgressReporter, resume: bytes | None) -> bytes:
        return train(
            base,
            references,
            job.concept.class_noun,
            config,
            seed=job.seed,
            report=reporter.report,
            should_stop=lambda: stop() or lease.cancel_wished,
            resume=resume,
            compile_cache=settings.home / "cache" / "compiled" / "training" if settings.compile else None,
            hook=partial(reporter.part, first_step=job.step if resume is not None else 0),
            keep_teacher=keep_teacher if job.keep_teacher else None,
        )

    with _ProgressReporter(
        claim, settings, sessions, storage, lease, clock, wall_time, plan, model=base.manifest.name
    ) as reporter:
        try:
            try:
                wall_time.begin("checkpoints")
                newest = partial(newest_valid_checkpoint, storage, sessions, claim.job_id)
                state = retry_storage(newest, lease, stop, seconds=patience)
                wall_time.begin("caches")
                bundle = run(reporter, state)
            except OtherTrainingError as error:  # the base or its preset changed between two attempts
                log.warning("checkpoint.ignored", error=str(error))
                wall_time.begin("caches")
                bundle = run(reporter, None)
        except TrainingStopped as stopped:
            wall_time.begin("checkpoints")
            reporter.store_final_state(stopped.state)
            raise
        with ThreadPoolExecutor(1) as thread:  # exports compute on the CPU, the report card on the device
            exporting = thread.submit(_exports, bundle, base)
            wall_time.begin("report_card")
            report = _report(bundle, base, references)
            wall_time.begin("exports")
            exports = exporting.result()
    return TrainingResult(
        bundle, base.manifest.sha256, exports + teachers, report, reporter.ended_early, reporter.step, clock
    )  # fmt: skip


def _age_of_attempt(claim: Claim) -> Select[float]:
    """Select the seconds since the claim, by the database's clock."""
    age = func.extract("epoch", func.clock_timestamp() - Attempt.started_at).cast(Float)
    return select(age).where(Attempt.job_id == claim.job_id, Attempt.fence == claim.fence)


def _report(bundle: bytes, base: Base, references: list[Image.Image]) -> ReportCard | None:
    """Return the report card, or None if the concept cannot be evaluated."""
    try:
        return report_card(read_bundle(bundle), base, references)
    except OpadError as error:
        log.info("report.none", reason=str(error))
        return None


def _read_image(reference: Reference, data: bytes) -> Image.Image:
    """Decode a reference. Its hash was verified, so an error means that the upload was bad."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadImageError(
            f"reference {reference.position} cannot be read as an image ({error}); "
            "create the concept again with another photo"
        ) from error
    return image


def _exports(bundle: bytes, base: Base) -> list[Exported]:
    files = export_bundle(read_bundle(bundle), base)
    relative_error = float(json.loads(files["export.json"])["relative_error"])
    return [
        Exported("diffusers", files["unet_lora.safetensors"], relative_error),
        Exported("kohya", files["kohya_lora.safetensors"], relative_error),
        Exported("textual_inversion", files["embedding.safetensors"], None),
    ]


_LOOP_PARTS = {
    "compile": "compile",
    "caches": "caches",
    "samples": "samples",
    "class images": "samples",
    "preview": "previews",
    "evaluation": "evaluations",
    "state": "checkpoints",
}
"""The parts of the wall time by the names that the training loop gives its parts."""


class _ProgressReporter:
    """Turns the method's reports into progress in the database, previews in the store, and checkpoints.

    Previews and checkpoints are stored in threads, which end with the `with` block.
    """

    def __init__(
        self,
        claim: Claim,
        settings: Settings,
        sessions: Sessions,
        storage: Storage,
        lease: Lease,
        clock: TrainingClock,
        wall_time: WallTime,
        plan: Mapping[str, int],
        *,
        model: str,
    ) -> None:
        self._claim, self._settings, self._clock = claim, settings, clock
        self._wall_time, self._plan, self._model = wall_time, plan, model
        self._sessions, self._storage, self._lease = sessions, storage, lease
        self._checkpoints, self._previews = Uploads("checkpoint", lease), Uploads("preview", lease)
        self._checkpoint_at = time.monotonic()
        self.step: int | None = None
        self.ended_early: str | None = None
        self._newest: JobProgress | None = None
        self._seconds_per_step = 0.0
        self._preview_key: str | None = None
        self._lock = Lock()
        """Held while the newest progress or preview changes and is sent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._wall_time.part("checkpoints"), self._checkpoints, self._previews:
            pass  # wait for both, also if one raises

    @contextmanager
    def part(self, name: str, *, first_step: int) -> Iterator[None]:
        """Charge a part of the training loop to the wall time. The iterations begin after its caches are filled."""
        part = _LOOP_PARTS.get(name)
        if part is None:  # the iteration's own
            yield
            return
        with self._wall_time.part(part):
            yield
        if part == "caches" and (stage := stage_after(self._plan, first_step)) is not None:
            self._wall_time.begin(stage)
        self._lease.postpone_stall()

    def report(self, progress: Progress) -> None:
        self.step = progress.step
        self._clock.iterations_ended(progress.stage, progress.step, count=len(progress.losses), at=time.monotonic())
        if progress.ended_early is not None:
            self.ended_early = progress.ended_early
            self._clock.training_ended()
            log.info("training.ended_early", step=progress.step, reason=progress.ended_early)
        if self._newest is None or progress.stage != self._newest.stage:
            log.info("training.stage", stage=progress.stage, step=progress.step)
        eta_seconds, eta_source = self._clock.left()
        with self._lock:
            self._newest = JobProgress(
                stage=progress.stage,
                step=progress.step,
                total_steps=progress.total_steps,
                eta_seconds=eta_seconds,
                losses=progress.losses[-1],
                preview_key=self._preview_key,
                eta_source=eta_source,
                iterations=dict(enumerate(progress.losses, start=progress.step - len(progress.losses) + 1)),
            )
            self._seconds_per_step = progress.seconds_per_step
            self._lease.report(self._newest, seconds_per_step=self._seconds_per_step)
        if progress.preview is not None:
            with self._wall_time.part("previews"):
                self._previews.wait()  # each one is kept, for the film
                self._previews.start(partial(self._store_preview, progress.step, progress.preview))
        # The next checkpoint waits for the end of the last, so an outage of the store does not stop the training.
        is_due = time.monotonic() - self._checkpoint_at >= self._settings.checkpoint_seconds
        if is_due and self._checkpoints.is_idle():
            with self._wall_time.part("checkpoints"):
                self._store_checkpoint(progress.step, progress.snapshot().to_bytes)
        if (stage := stage_after(self._plan, progress.step)) is not None:
            self._wall_time.begin(stage)
        failpoints.reach("training.step")

    def store_final_state(self, state: bytes) -> None:
        """Store the state of a training that was stopped, unless it ran no iteration or the store hangs."""
        if self.step is not None and self._checkpoints.wait():
            self._store_checkpoint(self.step, lambda: state)

    def _store_checkpoint(self, step: int, state: Callable[[], bytes]) -> None:
        claim = self._claim
        self._checkpoints.start(
            lambda: save_checkpoint(self._storage, self._sessions, claim.job_id, claim.fence, step=step, state=state())
        )
        self._checkpoint_at = time.monotonic()

    def _store_preview(self, step: int, preview: Image.Image) -> None:
        """Store a preview and report it. An outage loses it; an earlier attempt may already have stored it."""
        png = png_of(preview, self._settings.provenance, model=self._model)
        key = preview_key(self._claim.job_id, step)
        preview_log = log.bind(job_id=str(self._claim.job_id), fence=self._claim.fence, key=key)
        try:
            self._storage.put_once(key, png, hashlib.sha256(png).hexdigest())
        except ObjectDiffers:
            preview_log.info("preview.kept")  # an attempt on another device gave slightly different pixels
        except StorageUnavailable as error:
            preview_log.warning("preview.failed", error=str(error))
            return
        with self._lock:
            assert self._newest is not None
            self._preview_key = key
            self._newest = dataclasses.replace(self._newest, preview_key=key)
            self._lease.report(self._newest, seconds_per_step=self._seconds_per_step)
