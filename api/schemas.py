"""Request and response bodies. Requests refuse unknown fields; responses list what a client may rely on."""

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, Self, get_args
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    ValidationInfo,
    field_validator,
)

from api.domain.settings import Method, Preset
from api.domain.tables import Bundle, Job, JobState
from api.domain.text_rules import name_as_read, noun_as_read, prompt_as_read
from api.job_times import JobTimes
from api.public_address import link

MAX_SEED = 2**63 - 1
MAX_ITERATIONS = 20_000
MAX_VERSION = 2**31 - 1
"""The largest number that a column of versions holds."""
PLACEHOLDER = "<concept>"
COMMAND_LINE_METHODS = ("textual_inversion", "dreambooth", "lora", "textboost", "disenbooth", "cones2")
"""Methods of `opad_core` whose concepts are not key/value concepts."""

ImageFormat = Literal["png", "jpeg", "webp"]
JobStateName = Literal["queued", "running", "succeeded", "failed", "cancelled"]


def _takes_int(annotation: Any) -> bool:
    return annotation is int or any(map(_takes_int, get_args(annotation)))


class In(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_have_digits_alone(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true for 1 and "1_0" for 10, which Python takes for numbers."""
        is_odd = isinstance(value, bool) or (isinstance(value, str) and "_" in value)
        if is_odd and _takes_int(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("must be a whole number, written in digits alone")
        return value


class Out(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


def _one_placeholder(value: str) -> str:
    found = value.count(PLACEHOLDER)
    if found != 1:
        raise ValueError(
            f"contains {PLACEHOLDER} {found} times; write it exactly once, in the place of the thing, "
            f'for instance "a photo of {PLACEHOLDER} on a beach"'
        )
    return value


def read_by(read: Callable[[str], str]) -> BeforeValidator:
    """Return the validator that reads a text before its length is checked; other types are refused by pydantic."""
    return BeforeValidator(lambda value: read(value) if isinstance(value, str) else value)


def seed_or_random(value: object) -> object:
    """Return a random seed of 32 bits if none was sent: short enough to read in a log or a URL."""
    return secrets.randbelow(2**32) if value is None or value == "" else value


def _learned_by_the_service(value: object) -> object:
    if value in COMMAND_LINE_METHODS:
        raise ValueError(
            f"the service learns key/value concepts alone, which it generates in mixed batches; {value} makes another "
            f"kind: learn it with `python -m opad_core train --method {value}`"
        )
    return value


MethodName = Annotated[Method, BeforeValidator(_learned_by_the_service)]
Name = Annotated[str, Field(min_length=1, max_length=80), read_by(name_as_read)]
ClassNoun = Annotated[str, Field(min_length=1, max_length=40), read_by(noun_as_read)]
Prompt = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_one_placeholder), read_by(prompt_as_read)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), BeforeValidator(seed_or_random)]


Iterations = Annotated[int, Field(ge=1, le=MAX_ITERATIONS)]
CollaborativeIterations = Annotated[int, Field(ge=0, le=MAX_ITERATIONS)]
Count = Annotated[int, Field(ge=0, le=MAX_ITERATIONS)]
Gain = Annotated[float, Field(ge=0, le=4, strict=True, allow_inf_nan=False)]  # scores are in [-2, 2]


class Overrides(In):
    """The settings that a request may change: they set the length of the training."""

    iterations: Iterations | None = None
    collaborative_iterations: CollaborativeIterations | None = Field(None, description="of opad")
    eval_every: Count | None = Field(
        None, description="iterations between two evaluations on held-out scenes; the best adapter is kept; 0: never"
    )
    patience: Count | None = Field(
        None, description="the training ends when this many evaluations raised the best score too little; 0: never"
    )
    min_gain: Gain | None = Field(None, description="a rise of the score that is too little")


class _Learning(BaseModel):
    """How a concept is learned. The fields after `method` are checked with it."""

    method: MethodName = "opad"
    preset: Preset = Field("default", description="of opad")

    @field_validator("preset")
    @classmethod
    def _check_preset(cls, preset: Preset, info: ValidationInfo) -> Preset:
        method = _method(info)
        if method != "opad" and preset != "default":
            raise ValueError(f"{preset!r} belongs to the method opad; {method} has only the preset default")
        return preset


class EstimateIn(_Learning):
    """The query of `GET /v1/estimate`."""

    iterations: Iterations | None = None
    collaborative_iterations: CollaborativeIterations | None = Field(None, description="of opad")

    @field_validator("collaborative_iterations")
    @classmethod
    def _check_collaborative_iterations(cls, value: int | None, info: ValidationInfo) -> int | None:
        return _of_opad(value, _method(info))


class _TrainingIn(_Learning, In):
    seed: Seed = Field(default_factory=lambda: secrets.randbelow(2**32))
    keep_teacher: bool = Field(
        False, description="of opad: also store the teacher, which generates images in many steps"
    )

    @field_validator("keep_teacher")
    @classmethod
    def _check_keep_teacher(cls, keep_teacher: bool, info: ValidationInfo) -> bool:
        method = _method(info)
        if method != "opad" and keep_teacher:
            raise ValueError(f"{method} trains no teacher that could be kept; leave keep_teacher out")
        return keep_teacher

    @field_validator("overrides", check_fields=False)
    @classmethod
    def _check_overrides(cls, overrides: Overrides | None, info: ValidationInfo) -> Overrides | None:
        if overrides is not None:
            _of_opad(overrides.collaborative_iterations, _method(info))
        return overrides


class ConceptIn(_TrainingIn):
    """The form fields of `POST /v1/concepts` beside `images`."""

    name: Name
    class_noun: ClassNoun
    overrides: Json[Overrides] | None = None
    consent: bool = False


class VersionIn(_TrainingIn):
    """The body of `POST /v1/concepts/{id}/versions`. The photos stay the same."""

    overrides: Overrides | None = None


def _method(info: ValidationInfo) -> str:
    """Return the method of the request; "opad" if it was refused already."""
    return str(info.data.get("method", "opad"))


def _of_opad(collaborative_iterations: int | None, method: str) -> int | None:
    if method != "opad" and collaborative_iterations is not None:
        raise ValueError(f"{method} has no collaborative stage; leave collaborative_iterations out")
    return collaborative_iterations


class JobError(Out):
    code: str
    detail: str


class VerdictOut(Out):
    """What the report card says of a concept."""

    name: str = Field(description="`learned_well`, `likeness_did_not_rise`, `scenes_lost` or `images_nearly_alike`")
    color: Literal["green", "amber", "red"]
    sentence: str


class JobOut(Out, JobTimes):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "0198c0de-7e57-7000-8000-000000000002",
                    "concept_id": "0198c0de-7e57-7000-8000-000000000001",
                    "concept_name": "my mug",
                    "version": 1,
                    "method": "opad",
                    "preset": "default",
                    "overrides": {"iterations": 1200},
                    "seed": 7,
                    "keep_teacher": False,
                    "state": "running",
                    "cancel_requested": False,
                    "stage": "distillation",
                    "step": 300,
                    "total_steps": 1200,
                    "progress": 0.25,
                    "eta_seconds": 181.5,
                    "eta_source": "measured",
                    "starts_in_seconds": None,
                    "queued_seconds": 2.0,
                    "worked_seconds": 62.5,
                    "between_attempts_seconds": 0.0,
                    "wall_time": [
                        {"part": "start", "seconds": 2.5},
                        {"part": "load", "seconds": 4.1},
                        {"part": "references", "seconds": 0.3},
                        {"part": "caches", "seconds": 3.0},
                        {"part": "distillation", "seconds": 50.2},
                        {"part": "previews", "seconds": 1.6},
                        {"part": "checkpoints", "seconds": 0.3},
                    ],
                    "losses": {"rec": 0.041, "id": 0.23},
                    "attempt": 1,
                    "queue_position": None,
                    "preview_url": "/v1/jobs/0198c0de-7e57-7000-8000-000000000002/preview",
                    "verdict": None,
                    "image_urls": [],
                    "ended_early": None,
                    "error": None,
                    "created_at": "2026-11-22T21:00:00Z",
                    "started_at": "2026-11-22T21:00:02Z",
                    "finished_at": None,
                }
            ]
        }
    )

    id: UUID
    concept_id: UUID
    concept_name: str
    version: int
    method: str = Field(description="`opad` or `custom_diffusion`")
    preset: str = Field(description="of opad")
    overrides: dict[str, Any] = Field(description="the settings that differ from the preset")
    seed: int
    keep_teacher: bool = Field(description="whether the teacher is stored, too, as the layout `teacher`")
    state: JobStateName
    cancel_requested: bool
    stage: str | None
    step: int
    total_steps: int | None
    progress: float = Field(ge=0, le=1)
    losses: dict[str, float]
    attempt: int
    queue_position: int | None = Field(description="1 is next; null if the job is not queued")
    preview_url: str | None
    verdict: VerdictOut | None
    image_urls: list[str] = Field(description="URLs of images from the report card of what was learned")
    ended_early: str | None = Field(
        description="why the training ended before its last iteration, in a sentence; null if it did not"
    )
    error: JobError | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(
        cls, job: Job, concept_name: str, queue_position: int | None, times: JobTimes, bundle: Bundle | None
    ) -> Self:
        error = JobError(code=job.error_code, detail=job.error_detail or "") if job.error_code else None
        return cls(
            id=job.id,
            concept_id=job.concept_id,
            concept_name=concept_name,
            version=job.version,
            method=job.method,
            preset=job.preset,
            overrides=job.overrides,
            seed=job.seed,
            keep_teacher=job.keep_teacher,
            state=job.state.value,
            cancel_requested=job.cancel_requested_at is not None,
            stage=job.stage,
            step=job.step,
            total_steps=job.total_steps,
            progress=_progress(job),
            **times.model_dump(),
            losses=job.losses,
            attempt=job.attempt,
            queue_position=queue_position,
            preview_url=link(f"/v1/jobs/{job.id}/preview") if job.preview_key else None,
            **shown_of_report(bundle),
            ended_early=bundle.report.get("ended_early") if bundle is not None and bundle.report is not None else None,
            error=error,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


def shown_of_report(bundle: Bundle | None) -> dict[str, Any]:
    """Return the verdict and the image URLs of the bundle's report, which older bundles do not have."""
    if bundle is None or bundle.report is None:
        return {"verdict": None, "image_urls": []}
    positions = range(1, len(bundle.report.get("images", [])) + 1)
    return {
        "verdict": bundle.report.get("verdict"),
        "image_urls": [link(f"/v1/jobs/{bundle.job_id}/images/{position}") for position in positions],
    }


def _progress(job: Job) -> float:
    if job.state is JobState.succeeded:
        return 1.0
    return min(1.0, job.step / job.total_steps) if job.total_steps else 0.0


class AttemptOut(Out):
    worker: str = Field(description="host and slot of the attempt")
    started_at: datetime
    ended_at: datetime | None
    cause: str | None = Field(
        description="null while it runs; succeeded, shutdown, cancelled, or why it failed: oom, bad_image, invalid, "
        "lost_worker, storage, diverged, internal"
    )
    detail: str | None


class AttemptList(Out):
    items: list[AttemptOut]


class JobPage(Out):
    items: list[JobOut]
    next: str | None


class Problem(Out):
    """An error by RFC 9457. `code` is stable and made for programs, `detail` for people."""

    model_config = ConfigDict(
        json_schema_serialization_defaults_required=False,
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Unprocessable Content",
                    "status": 422,
                    "code": "image_too_small",
                    "detail": 'image 2 ("mug.jpg") is 20x18; send one of at least 32x32 pixels',
                    "request_id": "9f2c4e6a1b3d5f70",
                    "errors": [
                        {
                            "field": "images[1]",
                            "message": 'image 2 ("mug.jpg") is 20x18; send one of at least 32x32 pixels',
                            "code": "too_small",
                        }
                    ],
                }
            ]
        },
    )

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    errors: list[dict[str, Any]] = Field([], description="one entry per wrong field or file")
