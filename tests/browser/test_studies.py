"""A person votes on a user study with keys and clicks."""

from collections.abc import Callable
from typing import Any

from playwright.sync_api import expect
from sqlalchemy import func, select

from api.domain.database import Sessions
from api.domain.tables import Study, StudyVote
from tests.browser.conftest import sign_in


def wait_for_images(page: Any) -> None:
    for image in page.locator("#ballot img").all():
        expect(image).not_to_have_js_property("naturalWidth", 0)


def test_a_person_votes_by_key_and_click_and_sees_the_results(
    served: str, demo_pages: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page()
    sign_in(page, served, admin_key, at=demo_pages["study's voter"])
    page.get_by_label("Your name").fill("Dana & co")
    page.keyboard.press("Enter")

    expect(page.get_by_role("status").filter(has_text="of 6")).to_have_text("1 of 6")
    for number in range(2, 7):
        wait_for_images(page)
        if number % 2:
            page.keyboard.press(str(number - 1))
        else:
            page.locator("[data-image]").nth(number % 4).click()
        expect(page.get_by_role("status").filter(has_text="of 6")).to_have_text(f"{number} of 6")
    page.reload()
    expect(page.get_by_role("status").filter(has_text="of 6")).to_have_text("6 of 6")
    wait_for_images(page)
    page.keyboard.press("9")  # there are four images
    page.keyboard.press("1")
    page.get_by_role("heading", name="Thank you, Dana & co").wait_for()
    with sessions() as db:
        assert db.scalar(select(func.count()).where(StudyVote.voter == "Dana & co")) == 6

    page.get_by_role("link", name="Results").click()
    expect(page.get_by_role("cell", name="OPAD")).to_be_visible()
    expect(page.locator(".figure").first).to_have_text("24votes")
    with page.expect_download() as download:
        page.get_by_role("link", name="Results, CSV").click()
    assert download.value.path().read_text().startswith("method,label,chosen,votes,share,low,high")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Yes").click()
    page.get_by_role("heading", name="No study yet").wait_for()
    with sessions() as db:
        assert db.scalar(select(func.count()).select_from(Study)) == 0
