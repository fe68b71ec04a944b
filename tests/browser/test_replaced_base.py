"""Pages: what they say after the base was replaced, and before a training about what the base cannot learn."""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect
from sqlalchemy import delete, select, update

from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.storage import Storage, bundle_key
from api.domain.tables import Bundle, Job, JobState, Reference, ServedBase
from tests.browser.conftest import running_api, sign_in

LIMITS = "The base was trained on drawings, so photographs come out blurred."


@pytest.fixture
def replaced(demo_pages: dict[str, str], sessions: Sessions) -> dict[str, str]:
    """The pages after the base of every bundle was replaced by one with limits."""
    with sessions.begin() as db:
        db.execute(update(Bundle).values(base_sha256="0" * 64))
        db.execute(update(ServedBase).values(manifest_sha256="1" * 64, limits=LIMITS))
    return demo_pages


@pytest.mark.parametrize("width", [1400, 390])
def test_all_are_trained_again_from_the_overview(
    served: str, replaced: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any], width: int
) -> None:
    with sessions() as db:
        count = len(set(db.scalars(select(Bundle.concept_id))))
    page = new_page(viewport={"width": width, "height": 900})
    sign_in(page, served, admin_key, at="/dashboard")
    sentence = f"{count} concepts generate no images since the base was replaced"
    item = page.get_by_role("listitem").filter(has_text=sentence)
    expect(item).to_be_visible()

    item.get_by_role("button", name="Train all again").click()
    page.get_by_role("button", name="Yes").click()

    expect(item).to_have_count(0)
    with sessions() as db:
        queued = db.scalars(select(Job.concept_id).where(Job.state == JobState.queued)).all()
    assert len(set(queued)) == len(queued) == count


@pytest.mark.parametrize("width", [1400, 390])
def test_one_is_found_in_the_list_and_trained_again(
    served: str, replaced: dict[str, str], admin_key: str, new_page: Callable[..., Any], width: int
) -> None:
    page = new_page(viewport={"width": width, "height": 900})
    sign_in(page, served, admin_key, at="/dashboard/concepts")
    page.get_by_label("State").select_option("base changed")
    page.wait_for_url("**state=base_changed")
    page.locator(".card").filter(has_text="base changed").first.click()
    page.wait_for_url(re.compile("/dashboard/concepts/[0-9a-f-]{36}"))  # and its script
    expect(page.get_by_text("it generates no images until you train it again")).to_be_visible()
    expect(page.get_by_role("link", name="Try a prompt")).to_have_count(0)

    page.get_by_role("button", name="Train again").click()
    page.get_by_role("button", name="Yes").click()

    page.wait_for_url(re.compile("/dashboard/jobs/"))


def test_a_concept_without_photos_says_why_it_cannot_be_trained_again(
    served: str, replaced: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    with sessions.begin() as db:
        db.execute(delete(Reference))
    page = new_page(forgiven="404")  # the photos are gone
    sign_in(page, served, admin_key, at=replaced["concept"])
    expect(page.get_by_text("cannot be trained again, because its photos were deleted")).to_be_visible()
    expect(page.get_by_role("button", name="Train again")).to_have_count(0)


@pytest.fixture
def served_with_engine(settings: Settings, engine_url: str) -> Iterator[str]:
    with running_api(settings.model_copy(update={"engine_urls": [engine_url], "generate_timeout_seconds": 60})) as url:
        yield url


def test_an_older_version_of_another_base_does_not_stop_the_comparison(
    served_with_engine: str,
    demo_pages: dict[str, str],
    sessions: Sessions,
    settings: Settings,
    bundle: bytes,
    admin_key: str,
    new_page: Callable[..., Any],
) -> None:
    sha256 = hashlib.sha256(bundle).hexdigest()
    Storage(settings).put_once(bundle_key(sha256), bundle, sha256)
    with sessions.begin() as db:
        newest = db.scalars(select(Bundle).order_by(Bundle.version.desc())).first()
        concept_id, version = newest.concept_id, newest.version
        newest.key, newest.sha256 = bundle_key(sha256), sha256
        older = (Bundle.concept_id == concept_id) & (Bundle.version < version)
        assert db.execute(update(Bundle).where(older).values(base_sha256="1" * 64)).rowcount
    page = new_page(forgiven="409")
    sign_in(page, served_with_engine, admin_key, at=f"/dashboard/concepts/{concept_id}")

    page.get_by_role("button", name="Generate").click()

    compared = page.locator("#compared")
    expect(compared.get_by_text("trained on another base").first).to_be_visible(timeout=60_000)
    expect(compared.get_by_role("heading", name=f"v{version}")).to_be_visible()
    expect(compared.get_by_alt_text("a photo of a <concept>, seed 7")).to_have_count(2)  # untouched, and the newest


@pytest.mark.parametrize("name", ["new concept", "concept"])
def test_the_limits_of_the_base_stand_on_the_page(
    served: str, replaced: dict[str, str], admin_key: str, new_page: Callable[..., Any], name: str
) -> None:
    page = new_page()
    sign_in(page, served, admin_key, at=replaced[name])
    expect(page.get_by_text(LIMITS)).to_be_visible()
