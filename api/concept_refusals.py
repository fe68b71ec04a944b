"""Errors for a concept, or a version of it, that cannot be used."""

from uuid import UUID

from api.domain.errors import Conflict
from api.domain.replaced_bases import BASE_CHANGED
from api.domain.tables import Concept, JobState


def not_ready(name: str, job_id: UUID, state: JobState, error_code: str | None, error_detail: str | None) -> Conflict:
    """Return the error for a job without a bundle: one in any state but succeeded."""
    context = {"state": state.value, "job_id": str(job_id)}
    if state is JobState.failed:
        return Conflict(
            f"the training of {name!r} failed ({error_code}: {error_detail}); train it again",
            "concept_failed",
            **context,
        )
    if state is JobState.cancelled:
        return Conflict(f"the training of {name!r} was cancelled; train it again", "concept_cancelled", **context)
    return Conflict(
        f"{name!r} is still in training (its job is {state}); GET /v1/jobs/{job_id} returns its progress",
        "concept_in_training",
        **context,
    )


def base_changed(concept: Concept, obstacle: str | None) -> Conflict:
    """Return the error for a concept of another base. `obstacle` keeps it from being trained again on this one."""
    start = f"{concept.name!r} was trained on another base than the one that runs now"
    if obstacle == "concept_in_training":
        return Conflict(
            f"{start}, and is being trained again; GET /v1/concepts/{concept.id} lists its jobs", "concept_in_training"
        )
    rest = {
        None: f"; train it again with POST /v1/concepts/{concept.id}/versions",
        "references_gone": ", and cannot be trained again, because its photos were deleted when their retention time "
        "was over; erase it, and upload them again",
        "unknown_class_noun": f", and cannot be trained again, because this base does not know {concept.class_noun!r}; "
        "upload its photos as a new concept with another class noun",
    }
    return Conflict(start + rest[obstacle], BASE_CHANGED)


def version_of_another_base(name: str, version: int) -> Conflict:
    return Conflict(
        f"version {version} of {name!r} was trained on another base than the one that runs now; leave `version` out",
        BASE_CHANGED,
    )


def references_gone(name: str) -> Conflict:
    return Conflict(
        f"the photos of {name!r} were deleted when their retention time was over; upload them again as a new concept",
        "references_gone",
    )
