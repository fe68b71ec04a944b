"""Requests and images per minute of one key."""

import math
from typing import Annotated, Literal

from fastapi import Depends, Request

from api.auth import Caller, caller
from api.domain.errors import TooManyRequests
from api.domain.settings import Settings
from api.rate_limiter import WINDOW_SECONDS, Window
from api.services import Services, ServicesDep

LimitName = Literal["requests_per_minute", "images_per_minute", "max_concepts", "training_minutes_per_day"]


def allowance(settings: Settings, who: Caller, name: LimitName) -> int | None:
    """Return the key's own limit, else the installation's; None if there is no limit."""
    own = who.limits.get(name)
    return (getattr(settings, name) if own is None else own) or None


def report_limit(request: Request, name: str, window: Window) -> None:
    """Add the RateLimit fields to the answer, whatever it will be."""
    request.scope["state"].setdefault("rate_limits", {})[name] = window


def header_fields(windows: dict[str, Window]) -> dict[str, str]:
    """Return the headers of draft-ietf-httpapi-ratelimit-headers-10: quota and window, remaining and reset seconds."""
    return {
        "RateLimit-Policy": ", ".join(f'"{name}";q={w.quota};w={w.seconds}' for name, w in windows.items()),
        "RateLimit": ", ".join(f'"{name}";r={w.remaining};t={w.reset_seconds}' for name, w in windows.items()),
    }


async def count_request(request: Request, services: ServicesDep, who: Annotated[Caller, Depends(caller)]) -> None:
    await _count(request, services, who, "requests", "requests_per_minute", cost=1)


async def count_images(request: Request, services: Services, who: Caller, count: int) -> None:
    await _count(request, services, who, "images", "images_per_minute", cost=count)


async def _count(request: Request, services: Services, who: Caller, what: str, limit: LimitName, *, cost: int) -> None:
    quota = allowance(services.settings, who, limit)
    if quota is None:
        return
    taken = await services.limiter.take(what, who.api_key_id, quota=quota, cost=cost)
    if taken is None:
        return
    fitted, window = taken
    report_limit(request, what, window)
    if fitted:
        return
    if cost > quota:
        raise TooManyRequests(
            f"{cost} {what} at once are more than this key's {quota} per minute; ask for fewer",
            "rate_limited",
            retry_after=WINDOW_SECONDS,
        )
    missing = cost - window.remaining - 1  # after the first, units become free at the pace at which the window empties
    retry_after = max(1, window.reset_seconds + math.ceil(missing * WINDOW_SECONDS / quota))
    raise TooManyRequests(
        f"this key may ask for {quota} {what} per minute; try again in {retry_after} s",
        "rate_limited",
        retry_after=retry_after,
    )
