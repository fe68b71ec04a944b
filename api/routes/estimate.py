"""How long a training would take, before it is created."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from api.auth import Reader
from api.domain.training_times import EtaSource
from api.forecast import forecast_new_job
from api.schemas import EstimateIn, Out, Overrides
from api.services import ServicesDep, SessionDep
from api.vocabulary import served_base

router = APIRouter(tags=["jobs"])


class EstimateOut(Out):
    training_seconds: float | None = Field(description="null if the base has no documented time and no past training")
    source: EtaSource | None = Field(
        description="`history`: from past trainings of the same method and preset; "
        "`estimate`: from the base's documented times"
    )
    starts_in_seconds: float | None = Field(
        description="0 if a trainer is free; null if none is alive or the time of a job before it is unknown"
    )
    jobs_ahead: int = Field(description="jobs of all owners that have to end before it starts")


@router.get("/estimate", response_model=EstimateOut)
async def read_estimate(
    services: ServicesDep, who: Reader, session: SessionDep, training: Annotated[EstimateIn, Query()]
) -> EstimateOut:
    """Predict when a training that is created now would start, and how long it would take."""
    base = await served_base(session, services.settings.base)
    expected, jobs_ahead = await forecast_new_job(
        session,
        base=base.name,
        method=training.method,
        preset=training.preset,
        overrides=training.model_dump(include=set(Overrides.model_fields), exclude_none=True),
    )
    return EstimateOut(
        training_seconds=expected.seconds,
        source=expected.source,
        starts_in_seconds=expected.starts_in_seconds,
        jobs_ahead=jobs_ahead,
    )
