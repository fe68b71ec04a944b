"""Metrics for Prometheus. They need a key, because they count every owner's jobs."""

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.auth import Reader, bearer
from api.domain import keys
from api.domain.errors import Forbidden
from api.metrics import exposition
from api.services import SessionDep

router = APIRouter(tags=["health"], dependencies=[Depends(bearer)])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(who: Reader, session: SessionDep) -> Response:
    """Read the metrics in Prometheus' text format, with a key of the owner `admin` and the scope `read`."""
    if who.owner_name != keys.ADMIN_OWNER:
        raise Forbidden(f"metrics are for keys of the owner {keys.ADMIN_OWNER!r}; use one of those", "foreign_owner")
    return Response(await exposition(session), media_type=CONTENT_TYPE_LATEST)
