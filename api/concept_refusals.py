"""Errors for a concept, or a version of it, that cannot be used."""

from uuid import UUID

from api.domain.errors import Conflict
from api.domain.tables import JobState


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


def base_changed(name: str, concept_id: UUID) -> Conflict:
    return Conflict(
        f"the base of this installation has changed since {name!r} was trained; train it again with "
        f"POST /v1/concepts/{concept_id}/versions",
        "base_changed",
    )


def references_gone(name: str) -> Conflict:
    return Conflict(
        f"the photos of {name!r} were deleted when their retention time was over; upload them again as a new concept",
        "references_gone",
    )
