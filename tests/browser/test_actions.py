"""Actions on the pages, over demo data: watching, erasing, keys, webhooks, the gallery."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from playwright.sync_api import expect
from sqlalchemy import select, update

from api.domain import job_log, jobs
from api.domain.database import Sessions
from api.domain.job_log import LogLine
from api.domain.tables import ApiKey, Concept, Heartbeat, Image, Job, JobState, Reference, WebhookDelivery
from tests.browser.conftest import act_on_all_jobs, sign_in

NOON = "2026-01-31T12:00:00+00:00"


def test_a_jobs_page_grows_its_log_and_shows_the_preset_beside_its_settings(
    served: str, demo_pages: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    with sessions.begin() as db:
        job_id = db.scalars(select(Job.id).where(Job.state == JobState.failed)).first()
        db.execute(update(Job).where(Job.id == job_id).values(overrides={"iterations": 150}, preset="paper"))
    assert job_id is not None
    with sessions.begin() as db:
        db.execute(jobs.retry(job_id))
    with sessions.begin() as db:
        db.execute(jobs.claim("w1", lease_seconds=60, job_id=job_id)).one()
    page = new_page()
    sign_in(page, served, admin_key, at=f"/dashboard/jobs/{job_id}")
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="iterations", exact=True)).first
    expect(row).to_have_text(re.compile(r"iterations\s*150\s*1000"))
    page.get_by_text("All settings").click()
    expect(page.get_by_role("rowheader", name="lambda_swd")).to_be_visible()
    page.evaluate("window.neverReloaded = true")

    with sessions.begin() as db:
        said = [LogLine(NOON, "warning", f"line {n} <b>of text</b>") for n in (1, 2)]
        db.execute(job_log.append(job_id, 2, said))

    expect(page.locator("#log-lines li").last).to_contain_text("line 2 <b>of text</b>")
    assert page.evaluate("window.neverReloaded")
    shown = page.locator("#log-lines").inner_text()
    page.reload()
    expect(page.locator("#log-lines")).to_have_text(re.compile("line 1.*line 2", re.DOTALL))
    assert shown.count("line 1") == 1


def test_times_are_the_readers_and_the_exact_one_is_under_the_pointer(
    served: str, demo_pages: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    with sessions.begin() as db:
        db.execute(update(Job).values(created_at=datetime(2026, 1, 31, 20, 30, tzinfo=UTC)))
    page = new_page(timezone_id="Asia/Tokyo", locale="en-GB")
    sign_in(page, served, admin_key, at="/dashboard/jobs")

    time = page.locator("tbody time").first
    expect(time).to_have_text(re.compile("^1 Feb.*05:30$"))
    assert re.search(r"1 February 2026.* 05:30:00 (GMT\+9|JST)", time.get_attribute("title"))


def test_filters_are_in_the_address_and_survive_a_reload(
    served: str, demo_pages: dict[str, str], admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page()
    sign_in(page, served, admin_key, at="/dashboard/jobs")
    page.get_by_label("State").select_option("failed")
    page.wait_for_url("**/dashboard/jobs?state=failed")
    page.reload()

    assert page.get_by_label("State").input_value() == "failed"
    assert set(page.locator("tbody .state").all_inner_texts()) == {"failed"}


def test_bulk_cancel_stops_the_selected_jobs_that_wait(
    served: str, demo_pages: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    with sessions.begin() as db:
        over = db.scalars(select(Job.id).where(Job.state == JobState.failed)).all()
        db.execute(update(Job).where(Job.id.in_(over)).values(state=JobState.queued))
    page = new_page()
    sign_in(page, served, admin_key, at="/dashboard/jobs")

    act_on_all_jobs(page, "cancel", meant=len(over))

    with sessions() as db:
        assert set(db.scalars(select(Job.state).where(Job.id.in_(over)))) == {JobState.cancelled}


def test_erasing_a_concept_leaves_a_receipt_and_nothing_else(
    served: str, demo_pages: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    concept_id = UUID(demo_pages["concept"].rsplit("/", 1)[1])
    with sessions() as db:
        name = db.get_one(Concept, concept_id).name
    page = new_page()
    sign_in(page, served, admin_key, at=demo_pages["concept"])

    page.get_by_role("button", name=f"Erase {name}").click()
    page.get_by_role("button", name="Keep").click()
    page.get_by_role("button", name=f"Erase {name}").click()
    page.get_by_role("button", name="Yes").click()

    page.get_by_role("heading", name="Erased").wait_for()
    expect(page.locator("#receipt-body")).to_contain_text(name)
    with page.expect_download() as download:
        page.get_by_role("link", name="Save the receipt").click()
    assert download.value.suggested_filename == f"erasure-{concept_id}.json"
    with sessions() as db:
        assert db.get(Concept, concept_id) is None
        assert db.scalars(select(Reference).where(Reference.concept_id == concept_id)).all() == []


def test_a_key_is_shown_once_works_and_is_revoked(
    served: str, demo_pages: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page()
    sign_in(page, served, admin_key, at="/dashboard/access")
    page.get_by_label("Name", exact=True).fill("laptop")
    page.get_by_label("Images per minute").fill("30")
    page.get_by_role("button", name="Create key").click()
    expect(page.locator("#secret-text")).to_have_text(re.compile("^opk_live_"))
    secret = page.locator("#secret-text").inner_text()
    with httpx.Client(base_url=served, headers={"Authorization": f"Bearer {secret}"}) as client:
        assert client.get("/v1/jobs").status_code == 200

        row = page.get_by_role("row").filter(has_text="laptop")
        expect(row).to_contain_text("generate, read")
        expect(row).to_contain_text("images per minute 30")
        row.get_by_role("button", name="Revoke").click()
        page.get_by_role("button", name="Yes").click()
        expect(row).to_contain_text("revoked")

        assert client.get("/v1/jobs").status_code == 401
    page.get_by_role("button", name="Verify the log").click()
    expect(page.locator("#verdict")).to_be_visible()
    expect(page.locator("#verdict")).to_have_class(re.compile("calm"))
    expect(page.locator("#log")).to_contain_text("key.revoke")
    page.reload()
    expect(page.locator("#secret")).to_be_hidden()
    with sessions() as db:
        assert db.scalars(select(ApiKey.limits).where(ApiKey.label == "laptop")).one() == {"images_per_minute": 30}


def test_a_webhook_is_made_tested_and_its_message_sent_again(
    served: str, demo_pages: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page()
    sign_in(page, served, admin_key, at="/dashboard/webhooks")
    page.get_by_label("Address").fill("https://93.184.216.34/opad")
    page.get_by_role("button", name="Create webhook").click()
    expect(page.locator("#secret-text")).to_have_text(re.compile("^whsec_"))
    page.get_by_role("link", name="https://93.184.216.34/opad").click()
    page.get_by_role("button", name="Send a test").click()
    message = page.get_by_role("article")
    expect(message).to_contain_text("pending")

    with sessions.begin() as db:
        newest = db.scalars(select(WebhookDelivery).order_by(WebhookDelivery.number.desc())).first()
        assert newest is not None
        newest.state = "failed"
    message.get_by_text("failed").wait_for()
    message.get_by_role("button", name="Send again").click()
    message.get_by_text("pending").wait_for()


def test_the_playground_takes_the_settings_of_a_stored_image(
    served: str, demo_pages: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    with sessions.begin() as db:
        kept = db.scalars(select(Image).order_by(Image.id.desc())).first()
        assert kept is not None
        prompt, seed, concept_id = kept.prompt, kept.seed, kept.concept_id
        kept.decoder = "fast"
    page = new_page()
    sign_in(page, served, admin_key, at=f"/dashboard/gallery?concept={concept_id}")
    page.get_by_role("link", name="Use its settings").first.click()

    expect(page.get_by_label("Prompts, one per line")).to_have_value(prompt)
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(seed))
    expect(page.locator("select[name=concept]")).to_have_value(str(concept_id))
    expect(page.locator("select[name=version]")).to_have_value("1")
    expect(page.locator("select[name=decoder]")).to_have_value("fast")


def test_storage_shows_what_the_next_sweep_takes(
    served: str, demo_pages: dict[str, str], admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page()
    sign_in(page, served, admin_key, at=demo_pages["storage"])

    row = page.get_by_role("row").filter(has_text="photos of concepts that were never trained")
    expect(row).to_contain_text("30 days")


def test_the_systems_checks_name_what_fails_and_the_remedy(
    served: str, demo_pages: dict[str, str], admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page()
    sign_in(page, served, admin_key, at=demo_pages["system"])

    expect(page.get_by_role("listitem").filter(has_text="reconciler")).to_contain_text("python -m worker.reconcile")
    expect(page.get_by_role("listitem").filter(has_text="broker")).to_contain_text("ok")


def test_an_engine_that_has_compiled_shows_it_without_a_reload(
    served: str, demo_pages: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    reason = "it compiles in the background"
    with sessions.begin() as db:
        db.execute(update(Heartbeat).values(facts={"level": "captured", "level_reason": reason}))
    page = new_page()
    sign_in(page, served, admin_key, at=demo_pages["system"])
    engine = page.locator("#engines").get_by_role("listitem")
    expect(engine).to_contain_text(f"captured as a CUDA graph: {reason}")
    page.evaluate("window.neverReloaded = true")

    with sessions.begin() as db:
        db.execute(update(Heartbeat).values(facts={"level": "compiled", "level_reason": None}))

    expect(engine).not_to_contain_text("captured", timeout=20_000)  # the page asks every 4 s
    expect(engine).to_contain_text("compiled")
    assert page.evaluate("window.neverReloaded")
