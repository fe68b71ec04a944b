"""Pages of a job that changes: what is live equals what the server renders, at a desk and on a phone."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import expect
from sqlalchemy import func, select, update

from api.domain import jobs
from api.domain.database import Sessions
from api.domain.job_reports import JobProgress
from api.domain.tables import Attempt, Heartbeat, Job, JobState
from tests.browser.conftest import sign_in

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
PROGRESS = JobProgress("distillation", 100, 400, 150.0, {"rec": 0.04}, None, "measured")
TICKING = ("waited", "worked", "between", "started")
"""Fields whose text changes by itself."""


@pytest.fixture
def job_id(sessions: Sessions, demo_pages: dict[str, str]) -> UUID:
    """Return a failed job that is queued again, as if it had never run."""
    with sessions.begin() as db:
        found = db.scalars(select(Job.id).where(Job.state == JobState.failed)).first()
        assert found is not None
        db.execute(jobs.retry(found)).one()
        db.query(Attempt).where(Attempt.job_id == found).delete()
        fresh = {"started_at": None, "stage": None, "step": 0, "total_steps": None, "created_at": func.now()}
        db.execute(update(Job).where(Job.id == found).values(**fresh))
    return found


@pytest.fixture
def change(sessions: Sessions) -> Callable[[Any], None]:
    def apply(statement: Any) -> None:
        with sessions.begin() as db:
            db.execute(statement).one()

    return apply


def facts(page: Any) -> dict[str, str]:
    """Return every field of the progress, its time left as it ticks, and the state in the heading."""
    shown = {
        field.get_attribute("data-field"): field.inner_text()
        for field in page.locator("#progress [data-field]:not(progress)").all()
    }
    bar = page.locator("#progress progress")
    shown |= {"bar": bar.get_attribute("value"), "bar state": bar.get_attribute("data-state")}
    shown |= {name: "ticks" for name in TICKING if name in shown}
    return shown | {"state": page.locator("#state").inner_text(), "tools": page.locator("#tools").inner_text()}


def test_no_field_of_a_jobs_page_needs_a_reload(
    served: str, job_id: UUID, change: Callable[[Any], None], admin_key: str, new_page: Callable[..., Any]
) -> None:
    live, fresh = new_page(), new_page()
    address = f"/dashboard/jobs/{job_id}"
    for page in (live, fresh):
        sign_in(page, served, admin_key, at=address)
    live.evaluate("window.neverReloaded = true")

    def is_live(state: str, **fields: str) -> None:
        expect(live.locator("#state")).to_have_text(state)
        for name, text in fields.items():
            expect(live.locator(f"#progress [data-field={name}]")).to_have_text(text)
        fresh.goto(served + address)
        assert facts(live) == facts(fresh), state

    is_live("queued", queue="next", starts="now", stage="waiting for a trainer", attempt="0")
    change(jobs.claim("w", lease_seconds=600, job_id=job_id))
    is_live("running", attempt="1")
    expect(live.locator("[data-field=queue]")).to_have_count(0)
    expect(live.locator("[data-field=started]")).to_have_text("just now")
    change(jobs.heartbeat(job_id, 2, lease_seconds=600, progress=PROGRESS))
    is_live("running", percent="25 %", stage="distillation", steps="100 / 400", eta="2 min")
    with live.expect_response(lambda answer: answer.status == 204):  # the stream of events ends
        change(jobs.fail(job_id, 2, code="oom", detail="too little memory"))
    is_live("failed", stage="distillation")
    expect(live.get_by_role("heading", name="Why it failed: oom")).to_be_visible()

    live.get_by_role("button", name="Retry").click()
    is_live("queued", queue="next")
    change(jobs.claim("w", lease_seconds=600, job_id=job_id))
    is_live("running", attempt="1")
    change(jobs.finish(job_id, 3, key="k", sha256="00", size=1))
    is_live("succeeded", percent="100 %")
    assert live.evaluate("window.neverReloaded")


def test_where_the_time_goes_is_drawn_and_follows_each_heartbeat(
    served: str, job_id: UUID, change: Callable[[Any], None], admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page()
    sign_in(page, served, admin_key, at=f"/dashboard/jobs/{job_id}")
    panel = page.locator("#wall-time")
    expect(panel).to_be_hidden()
    change(jobs.claim("w", lease_seconds=600, job_id=job_id))
    change(jobs.heartbeat(job_id, 2, lease_seconds=600, wall_time={"start": 2.0, "load": 6.0}))
    expect(panel.get_by_role("row")).to_have_text(
        ["PartWhat it isTimeShare", *map(re.compile, ("Start.*2.0 s25%", "Load.*6.0 s75%"))]
    )

    half = {"start": 2.0, "load": 6.0, "distillation": 8.0}
    change(jobs.heartbeat(job_id, 2, lease_seconds=600, progress=PROGRESS, wall_time=half))

    expect(panel.get_by_role("row").last).to_have_text(re.compile("Distillation.*8.0 s50%"))
    expect(panel.get_by_role("img")).to_have_accessible_name("Start 12%, Load 38%, Distillation 50%")
    drawn = [(part.get_attribute("x"), part.get_attribute("width")) for part in panel.locator("svg.bar rect").all()]
    assert drawn == [("0.000%", "12.500%"), ("12.500%", "37.500%"), ("50.000%", "50.000%")]


def test_a_curve_has_every_iteration_of_a_heartbeat(
    served: str, job_id: UUID, change: Callable[[Any], None], admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page()
    change(jobs.claim("w", lease_seconds=600, job_id=job_id))
    sign_in(page, served, admin_key, at=f"/dashboard/jobs/{job_id}")
    # The newest iteration has no loss of the teacher, so the key shows that of the one before.
    both = replace(PROGRESS, losses={}, iterations={99: {"rec": 0.125}, 100: {}})
    change(jobs.heartbeat(job_id, 2, lease_seconds=600, progress=both))
    expect(page.locator("[data-chart=teacher] .keys")).to_contain_text("reconstruction 0.125")


@pytest.mark.parametrize("address", ["/dashboard", "/dashboard/jobs", "/dashboard/concepts"])
def test_a_phones_lists_show_progress_and_time_left(
    address: str,
    served: str,
    job_id: UUID,
    change: Callable[[Any], None],
    admin_key: str,
    new_page: Callable[..., Any],
) -> None:
    page = new_page(**PHONE)
    sign_in(page, served, admin_key, at=address)
    expect(page.get_by_text("starts now").locator("visible=true")).to_be_visible()

    change(jobs.claim("w", lease_seconds=600, job_id=job_id))
    change(jobs.heartbeat(job_id, 2, lease_seconds=600, progress=PROGRESS))

    expect(page.get_by_text("25 % · 2 min left").locator("visible=true")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_concepts_page_shows_the_end_of_its_training(
    served: str,
    job_id: UUID,
    sessions: Sessions,
    change: Callable[[Any], None],
    admin_key: str,
    new_page: Callable[..., Any],
) -> None:
    with sessions() as db:
        concept_id = db.get_one(Job, job_id).concept_id
    change(jobs.claim("w", lease_seconds=600, job_id=job_id))
    page = new_page()
    sign_in(page, served, admin_key, at=f"/dashboard/concepts/{concept_id}")
    row = page.locator(f"#row-{job_id}")
    expect(row).to_contain_text("running")
    page.evaluate("window.neverReloaded = true")

    change(jobs.finish(job_id, 2, key="k", sha256="00", size=1))

    expect(row).to_contain_text("succeeded")
    expect(page.get_by_role("button", name="Train again")).to_be_visible()
    assert page.evaluate("window.neverReloaded")


def test_the_form_says_how_long_the_training_takes_and_when_it_starts(
    served: str,
    job_id: UUID,
    sessions: Sessions,
    change: Callable[[Any], None],
    admin_key: str,
    new_page: Callable[..., Any],
) -> None:
    with sessions.begin() as db:
        db.execute(update(Heartbeat).values(facts={"device": "cpu"}))
    page = new_page()
    sign_in(page, served, admin_key, at="/dashboard/concepts/new")
    sentence = page.locator("#estimate")
    expect(sentence).to_contain_text("(estimate), starts after 1 job, in about")
    change(jobs.claim("w", lease_seconds=600, job_id=job_id))
    change(jobs.cancel(job_id, 2))

    page.get_by_text("Iterations, seed and teacher").click()
    page.get_by_label("Iterations", exact=True).fill("100")
    page.get_by_label("Collaborative iterations").fill("0")
    page.get_by_label("Seed").focus()

    # 15 + 100 x 0.85 + 10
    expect(sentence).to_have_text("Takes about 2 min (estimate), starts now.")

    page.get_by_role("radio", name="Custom Diffusion").check()
    # 11 + 100 x 0.45 + 10
    expect(sentence).to_have_text("Takes about 66 s (estimate), starts now.")
    expect(page.get_by_role("radio", name="paper")).to_be_hidden()
    expect(page.get_by_label("Collaborative iterations")).to_be_disabled()
    page.get_by_role("radio", name="OPAD").check()
    expect(sentence).to_have_text("Takes about 2 min (estimate), starts now.")
    expect(page.get_by_role("radio", name="paper")).to_be_visible()
