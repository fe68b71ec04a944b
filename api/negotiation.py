"""Choose the answer format that an Accept header prefers (RFC 9110, 12.5.1), and put warnings beside any format."""

from collections.abc import Sequence

from api.domain.errors import NotAcceptable

JSON = "application/json"
IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}
_OFFERED = (JSON, *IMAGES)


def wanted_format(accept: str | None) -> str:
    """Return one of the offered media types; JSON if the client has no preference. Raises NotAcceptable."""
    best, best_rank = None, (0.0, 0)
    for part in (accept or "*/*").split(","):
        pattern, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = _quality(parameters)
        match = next((offered for offered in _OFFERED if _matches(pattern, offered)), None)
        specific = 2 - pattern.count("*")
        if match is not None and quality > 0 and (quality, specific) > best_rank:
            best, best_rank = match, (quality, specific)
    if best is None:
        raise NotAcceptable(
            f"cannot answer with {accept!r}; accept one of {', '.join(_OFFERED)}",
            "not_acceptable",
            offered=list(_OFFERED),
        )
    return best


def warning_header(warnings: Sequence[str]) -> dict[str, str]:
    """Return the header `X-Warnings`, in ASCII; none without warnings."""
    return {"X-Warnings": "; ".join(warnings).encode("ascii", "backslashreplace").decode()} if warnings else {}


def _matches(pattern: str, offered: str) -> bool:
    return pattern in ("*/*", offered) or (pattern.endswith("/*") and offered.startswith(pattern[:-1]))


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
