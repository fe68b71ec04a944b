import pytest

from api.domain.errors import NotAcceptable
from api.negotiation import wanted_format


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("image/*", "image/png"),
        ("image/webp,*/*;q=0.8", "image/webp"),
        ("image/jpeg;q=0.5, image/webp;q=0.9", "image/webp"),
        ("text/html, application/json;q=0.1", "application/json"),
        ("*/*, image/jpeg", "image/jpeg"),
    ],
)
def test_the_most_wanted_format_wins(accept: str | None, wanted: str) -> None:
    assert wanted_format(accept) == wanted


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "image/png;q=0"])
def test_what_is_not_offered_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="accept one of application/json"):
        wanted_format(accept)
