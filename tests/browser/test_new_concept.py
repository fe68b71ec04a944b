"""The upload page of a service that takes 1-8 photos."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.domain.settings import Settings
from tests.browser.conftest import sign_in

PHOTOS = sorted((Path(__file__).parents[2] / "examples").glob("*/0.png"))  # eight
ONE_MORE = PHOTOS[0].with_name("1.png")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"min_references": 1, "max_references": 8})


def test_the_page_counts_photos_as_the_service_will(served: str, admin_key: str, new_page: Callable[..., Any]) -> None:
    page = new_page()
    sign_in(page, served, admin_key, at="/dashboard/concepts/new")
    page.get_by_text("1-8 photos of one thing").wait_for()
    for files, words in (
        (PHOTOS[:1], "1 photo, good."),
        (PHOTOS[1:], "8 photos, all good."),
        ([ONE_MORE], "9 photos are more than 8; remove some."),
    ):
        page.get_by_label("Drop photos here").set_input_files(files)
        page.locator("#count").filter(has_text=words).wait_for()
    page.get_by_role("button", name="Learn it").click()
    page.locator(".field-error").filter(has_text="9 photos are more than 8; remove some.").wait_for()
