"""The pages of user studies: the list, the vote and the results. No page before the vote names a method."""

from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.dashboard.page import PageRoute, ViewerDep, page
from api.domain.text_rules import name_as_read
from api.routes import studies
from api.services import SessionDep

VOTER_LENGTH = 80

router = APIRouter(prefix="/dashboard", route_class=PageRoute)


@router.get("/studies")
async def study_list(request: Request, viewer: ViewerDep, session: SessionDep, cursor: UUID | None = None) -> Response:
    found = await studies.list_studies(viewer.who, session, cursor=cursor)
    return page(
        request,
        viewer,
        "studies.html",
        studies=found.items,
        next=f"?cursor={found.next}" if found.next else None,
        is_later=cursor is not None,
    )


@router.get("/studies/{study_id}")
async def study_vote(
    request: Request, viewer: ViewerDep, session: SessionDep, study_id: UUID, voter: str = ""
) -> Response:
    study = await studies.read_study(study_id, viewer.who, session)
    try:
        name = name_as_read(voter[:VOTER_LENGTH])
    except ValueError as error:
        said = f"The name {error}." if voter else None
        return page(request, viewer, "study_voter.html", study=study, length=VOTER_LENGTH, refused=said)
    step = await studies.read_next_group(study_id, viewer.who, session, voter=name)
    return page(request, viewer, "study.html", study=study, voter=name, step=step)


@router.get("/studies/{study_id}/results")
async def study_results(request: Request, viewer: ViewerDep, session: SessionDep, study_id: UUID) -> Response:
    results = await studies.results_of(study_id, viewer.who, session)
    study = await studies.read_study(study_id, viewer.who, session)
    return page(request, viewer, "study_results.html", study=study, results=results)
