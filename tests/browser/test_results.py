"""What was learned comes first: the verdict, generated images, and only then operations."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import expect
from sqlalchemy import select, update

from api.domain.database import Sessions
from api.domain.tables import Job, JobEvent, JobState
from tests.browser.conftest import sign_in

SENTENCE = "Learned well: the likeness rose from 0.39 to 0.51."


def top(page: Any, selector: str) -> float:
    return float(page.locator(selector).first.bounding_box()["y"])


@pytest.mark.parametrize(("width", "columns"), [(1400, 4), (390, 2)])
def test_job_and_concept_begin_with_the_verdict_and_four_images(
    served: str, demo_pages: dict[str, str], admin_key: str, new_page: Callable[..., Any], width: int, columns: int
) -> None:
    page = new_page(viewport={"width": width, "height": 900})
    sign_in(page, served, admin_key)
    for name, later in (("job", "progress"), ("concept", "#photos")):
        page.goto(served + demo_pages[name])
        expect(page.get_by_text(SENTENCE)).to_be_visible()
        images = page.locator("[aria-label=Result] img")
        expect(images).to_have_count(4)
        expect(images.last).to_have_js_property("naturalWidth", 64)
        expect(images.last).to_have_class("crisp")
        boxes = [image.bounding_box() for image in images.all()]
        assert len({box["x"] for box in boxes}) == columns
        assert boxes[0]["width"] > 140
        assert boxes[-1]["y"] < top(page, later)


def test_a_concepts_card_shows_a_generated_image_beside_a_photo(
    served: str, demo_pages: dict[str, str], admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page()
    sign_in(page, served, admin_key, at="/dashboard/concepts")
    card = page.locator(f"a[href='{demo_pages['concept']}']")
    photo, image = card.locator("img").all()
    assert "/references/1" in photo.get_attribute("src")
    assert image.get_attribute("src") == demo_pages["job"].replace("/dashboard", "/v1") + "/images/1"
    expect(card.get_by_text("Learned well")).to_be_visible()


def test_overview_leads_with_images_and_one_action(
    served: str, demo_pages: dict[str, str], admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page()
    sign_in(page, served, admin_key)
    expect(page.locator(".newest img")).to_have_count(4)
    newest = page.locator(".newest a").first.get_attribute("href")
    assert newest == demo_pages["concept"]
    action = page.locator("main .primary")
    expect(action).to_have_text("Try a prompt")
    assert action.get_attribute("href") == f"/dashboard/playground?concept={newest.rsplit('/', 1)[1]}"
    page.locator("#speed").wait_for()
    order = [top(page, selector) for selector in (".newest", "#attention", "#work", ".figures", "#workers", "#speed")]
    assert order == sorted(order)


def test_the_first_day_has_words_and_one_action(served: str, admin_key: str, new_page: Callable[..., Any]) -> None:
    page = new_page()
    sign_in(page, served, admin_key)
    expect(page.locator(".figures")).to_contain_text("No requests")
    assert "–" not in page.locator("main").inner_text()
    expect(page.locator("main .primary")).to_have_text("New concept")
    expect(page.locator("#hours")).to_be_hidden()


@pytest.mark.parametrize("width", [1400, 390])
def test_the_labels_of_the_hours_do_not_collide(
    served: str, demo_pages: dict[str, str], admin_key: str, new_page: Callable[..., Any], width: int
) -> None:
    """The labels are drawn on a canvas, so the drawing itself is recorded."""
    page = new_page(viewport={"width": width, "height": 900})
    page.add_init_script(
        """window.labels = new Map();
        const fillText = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
          const wide = this.measureText(text).width / 2;
          if (String(text).includes(":")) {
            if (!window.labels.has(this)) window.labels.set(this, new Map());
            window.labels.get(this).set(text, [x - wide, x + wide]);
          }
          return fillText.apply(this, arguments);
        };"""
    )
    sign_in(page, served, admin_key)
    page.locator("[data-hours=requests] canvas").wait_for()
    page.wait_for_function("window.labels.size === 2")
    for labels in page.evaluate("[...window.labels.values()].map((labels) => [...labels.values()])"):
        assert len(labels) >= 2
        assert all(left[1] + 4 < right[0] for left, right in pairwise(sorted(labels))), labels


def test_machine_figures_stand_once_and_the_queue_is_in_order(
    served: str, demo_pages: dict[str, str], admin_key: str, sessions: Sessions, new_page: Callable[..., Any]
) -> None:
    with sessions.begin() as db:
        ids = db.scalars(select(Job.id).where(Job.state != JobState.succeeded).order_by(Job.id)).all()
        waiting = {"state": JobState.queued, "error_code": None, "error_detail": None, "finished_at": None}
        db.execute(update(Job).where(Job.id.in_(ids)).values(**waiting))
        db.execute(update(Job).where(Job.id == ids[-1]).values(state=JobState.running, started_at=datetime.now(UTC)))
    page = new_page()
    sign_in(page, served, admin_key)

    shown = [row.get_attribute("id") for row in page.locator("tbody tr").all()]
    assert shown == [f"row-{job_id}" for job_id in [ids[-1], *ids[:-1]]][:8]
    machine = page.locator(".machine")
    expect(machine).to_have_count(1)
    names = machine.locator("h3").all_inner_texts()
    assert names == ["gpu-1", "engine gpu-1:0.0.0.0:8100", "trainer gpu-1:/var/lib/opad"]
    assert machine.locator("dt").all_inner_texts().count("disk") == 1
    assert machine.locator("dt").all_inner_texts().count("CPU") == 1


def test_losses_have_names_and_a_logarithmic_scale_if_they_are_ten_times_apart(
    served: str, demo_pages: dict[str, str], admin_key: str, sessions: Sessions, new_page: Callable[..., Any]
) -> None:
    with sessions.begin() as db:  # identity falls from 0.5 to 0.1 and swd from 5 to 1
        for event in db.scalars(select(JobEvent).where(JobEvent.kind == "progress")):
            losses = event.data["losses"]
            event.data = {**event.data, "losses": {**losses, "swd": 50 * losses["swd"]}}
    page = new_page()
    sign_in(page, served, admin_key, at=demo_pages["job"])
    page.locator("[data-chart=alignment] canvas").wait_for()

    keys = page.locator("[data-chart=alignment] .keys")
    for text in ("identity", "squared error", "sliced Wasserstein", "logarithmic scale"):
        expect(keys).to_contain_text(text)
    expect(page.locator("[data-chart=adversarial] .keys")).not_to_contain_text("logarithmic scale")
