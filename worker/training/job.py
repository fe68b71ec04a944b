"""The training of one job: read its references, run the method, report progress, store previews and checkpoints."""

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
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
    override,
    precision_for,
    preset,
    read_bundle,
    report_card,
    train,
)
from worker.training.checkpoints import newest_valid_checkpoint, save_checkpoint
from worker.training.clock import TrainingClock
from worker.training.lease import Lease
from worker.training.storage_retry import retry_storage
from worker.training.wall_time import WallTime

log = structlog.get_logger()


@dataclass(frozen=True)
class Claim:
    job_id: UUID
    fence: int


@dataclass(frozen=True)
class Exported:
    """The bundle in the format of another tool."""

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

    Raises what `opad_core.train` and the storage raise. Before TrainingStopped is raised, the last state is committed.
    """
    with sessions.begin() as db:
        job = db.scalars(
            select(Job)
            .where(Job.id == claim.job_id)
            .options(selectinload(Job.concept).selectinload(Concept.references))
        ).one()
        past = db.execute(past_timings(base=job.concept.base, preset=job.preset)).all()
        wall_time.claimed(seconds_ago=db.execute(_age_of_attempt(claim)).scalar_one())
    wall_time.begin("load")
    device = device_named(settings.device)
    precision = precision_for("training", settings.precision, device=device, preset=job.preset)
    base = load_base(settings.base, bases=settings.bases, device=settings.device, precision=precision)
    if base.manifest.name != job.concept.base:
        raise OpadError(
            f"the job needs the base {job.concept.base!r}, but this trainer has {base.manifest.name!r}; set OPAD_BASE"
        )
    config = override(preset(job.preset, base.manifest.presets), job.overrides)
    log.info(
        "training.began",
        base=base.manifest.name,
        device=str(base.device),
        precision=str(base.dtype),
        preset=job.preset,
        references=len(job.concept.references),
        steps=config.total_iterations,
    )
    base.load("training")
    wall_time.begin("references")
    patience = settings.storage_retry_seconds
    references = [
        _read_image(
            reference,
            retry_storage(partial(storage.get, reference.key, reference.sha256), lease, stop, seconds=patience),
        )
        for reference in job.concept.references
    ]
    expected = typical_time(past, base=job.concept.base, preset=job.preset, device=device.type, worker=job.worker)
    plan = stage_iterations(dataclasses.asdict(config))
    clock = TrainingClock(plan, expected, device=device.type, started_at=wall_time.started_at)
    reporter = _ProgressReporter(claim, settings, sessions, storage, lease, clock, wall_time, plan)

    def run(resume: bytes | None) -> bytes:
        return train(
            base,
            references,
            job.concept.class_noun,
            config,
            seed=job.seed,
            report=reporter.report,
            should_stop=lambda: stop() or lease.cancel_wished,
            resume=resume,
        )

    try:
        try:
            wall_time.begin("checkpoints")
            newest = partial(newest_valid_checkpoint, storage, sessions, claim.job_id)
            state = retry_storage(newest, lease, stop, seconds=patience)
            wall_time.begin("caches")
            bundle = run(state)
        except OtherTrainingError as error:  # the base or its preset changed between two attempts
            log.warning("checkpoint.ignored", error=str(error))
            wall_time.begin("caches")
            bundle = run(None)
    except TrainingStopped as stopped:
        wall_time.begin("checkpoints")
        reporter.save_final_state(stopped.state)
        raise
    wall_time.begin("exports")
    exports = _exports(bundle, base)
    wall_time.begin("report_card")
    report = _report(bundle, base, references)
    return TrainingResult(
        bundle, base.manifest.sha256, exports, report, reporter.ended_early, reporter.step, clock
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


class _ProgressReporter:
    """Turns the method's reports into progress in the database, previews in the store, and checkpoints."""

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
    ) -> None:
        self._claim, self._settings, self._clock = claim, settings, clock
        self._wall_time, self._plan = wall_time, plan
        self._sessions, self._storage, self._lease = sessions, storage, lease
        self.step: int | None = None
        self.ended_early: str | None = None
        self._stage: str | None = None
        self._checkpoint_at = time.monotonic()
        self._preview_key: str | None = None

    def report(self, progress: Progress) -> None:
        self.step = progress.step
        self._clock.iteration_ended(progress.stage, progress.step, at=time.monotonic())
        if progress.ended_early is not None:
            self.ended_early = progress.ended_early
            self._clock.training_ended()
            log.info("training.ended_early", step=progress.step, reason=progress.ended_early)
        eta_seconds, eta_source = self._clock.left()
        if progress.stage != self._stage:
            log.info("training.stage", stage=progress.stage, step=progress.step)
            self._stage = progress.stage
        if progress.preview is not None:
            with self._wall_time.part("previews"):
                self._store_preview(progress.preview)
        self._lease.report(
            JobProgress(
                stage=progress.stage,
                step=progress.step,
                total_steps=progress.total_steps,
                eta_seconds=eta_seconds,
                losses=progress.losses,
                preview_key=self._preview_key,
                eta_source=eta_source,
            ),
            seconds_per_step=progress.seconds_per_step,
        )
        if time.monotonic() - self._checkpoint_at >= self._settings.checkpoint_seconds:
            with self._wall_time.part("checkpoints"):
                self._save(progress.save())
        if (stage := stage_after(self._plan, progress.step)) is not None:
            self._wall_time.begin(stage)
        failpoints.reach("training.step")

    def save_final_state(self, state: bytes) -> None:
        if self.step is not None:
            self._save(state)

    def _save(self, state: bytes) -> None:
        assert self.step is not None
        claim = self._claim
        save_checkpoint(self._storage, self._sessions, claim.job_id, claim.fence, step=self.step, state=state)
        self._checkpoint_at = time.monotonic()

    def _store_preview(self, preview: Image.Image) -> None:
        """Store a preview. An outage loses it; an earlier attempt may already have stored it."""
        png = io.BytesIO()
        preview.save(png, "PNG")
        key = preview_key(self._claim.job_id, self.step or 0)
        try:
            self._storage.put_once(key, png.getvalue(), hashlib.sha256(png.getvalue()).hexdigest())
        except ObjectDiffers:
            log.info("preview.kept", key=key)  # an attempt on another device gave slightly different pixels
        except StorageUnavailable as error:
            log.warning("preview.failed", key=key, error=str(error))
            return
        self._preview_key = key
