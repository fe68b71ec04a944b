"""Every page over demo data: it opens, logs nothing to the console, is accessible, and shows text as text."""

import re
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import expect
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from api.domain import audit
from api.domain.database import Sessions
from api.domain.job_log import KIND
from api.domain.tables import (
    ApiKey,
    Attempt,
    BaseCheck,
    Bundle,
    Concept,
    Heartbeat,
    Image,
    Job,
    JobEvent,
    JobState,
    ServedBase,
    Study,
    StudyGroup,
    Webhook,
    WebhookDelivery,
)
from tests.browser.conftest import act_on_all_jobs, sign_in

AXE = Path(__file__).with_name("axe.min.js")
ATTACK = '<img src=x onerror="window.attacked=1"><script>window.attacked=1</script>'


def serious(page: Any) -> list[str]:
    """Return what axe finds in light colors, and what its rules about color find in dark ones."""
    page.evaluate(AXE.read_text())
    colors = {"runOnly": ["color-contrast", "link-in-text-block"]}
    found = []
    for scheme, options in (("dark", colors), ("light", {})):
        page.emulate_media(color_scheme=scheme)
        violations = page.evaluate("options => axe.run(document, options)", options | {"resultTypes": ["violations"]})[
            "violations"
        ]
        found += [
            f"{scheme}: {one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
            for one in violations
            if one["impact"] in ("serious", "critical")
        ]
    return found


def test_no_page_logs_an_error_and_axe_finds_nothing_serious(
    served: str, demo_pages: dict[str, str], admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page()
    page.goto(f"{served}/dashboard/sign-in")
    found = {"sign-in": serious(page)}
    sign_in(page, served, admin_key)

    for name, address in demo_pages.items():
        answer = page.goto(served + address)
        assert answer.status == 200, name
        page.wait_for_load_state("networkidle") if name not in ("job", "failed job") else page.wait_for_timeout(500)
        found[name] = serious(page)

    assert {name: violations for name, violations in found.items() if violations} == {}


def test_a_phone_scrolls_no_page_sideways(
    served: str, demo_pages: dict[str, str], admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page(viewport={"width": 390, "height": 844}, has_touch=True)
    sign_in(page, served, admin_key)
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Jobs", exact=True).click()
    page.wait_for_url("**/dashboard/jobs")

    wide = []
    for name, address in demo_pages.items():
        page.goto(served + address)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wide.append(name)

    assert wide == []


def store_attacks(db: Session) -> None:
    """Write markup wherever a person, a receiver or a program can have put text that a page shows."""
    for n, concept in enumerate(db.scalars(select(Concept)).all()):
        concept.name = f"{ATTACK}{n}"
        concept.class_noun = ATTACK
    for n, beat in enumerate(db.scalars(select(Heartbeat)).all()):
        beat.name = f"{ATTACK}{n}"
        beat.facts |= {"machine": ATTACK, "device_name": ATTACK, "level_reason": ATTACK, "clock_ahead": 7200}
    for study in db.scalars(select(Study)).all():
        study.title = ATTACK
        study.methods = [method | {"label": ATTACK} for method in study.methods]
    for bundle in db.scalars(select(Bundle)).all():
        bundle.report = bundle.report | {
            "prompts": [ATTACK],
            "verdict": bundle.report["verdict"] | {"sentence": ATTACK},
        }
    answers = [{"check": ATTACK, "outcome": "failed", "sentence": f"{ATTACK} `{ATTACK}`"}]
    db.add(BaseCheck(base_sha256="0" * 64, host=ATTACK, checked_at=func.now(), answers=answers))
    db.execute(update(Job).where(Job.error_code.is_not(None)).values(error_detail=f"{ATTACK}{{{{7*7}}}}"))
    db.execute(update(JobEvent).where(JobEvent.kind == KIND).values(data=JobEvent.data.op("||")({"text": ATTACK})))
    db.execute(update(WebhookDelivery).values(event=ATTACK, log=[{"at": None, "status": 0, "error": ATTACK, "ms": 1}]))
    for column in (
        Image.prompt, ApiKey.label, Attempt.detail, Attempt.worker, Webhook.url, ServedBase.limits,
        ServedBase.no_fast_decoder, StudyGroup.class_noun, StudyGroup.prompt,
    ):  # fmt: skip
        db.execute(update(column.class_).values({column.key: ATTACK}))
    audit.record(db, action=ATTACK, object_id=None, outcome=ATTACK, owner_id=None, request_id=ATTACK)


def test_stored_text_stays_text(
    served: str, demo_pages: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    with sessions.begin() as db:
        store_attacks(db)
    page = new_page()
    sign_in(page, served, admin_key)

    shown = {}
    voted = {"study": f"/dashboard/studies/{demo_pages['study'].split('/')[3].split('?')[0]}?voter={quote(ATTACK)}"}
    for name, address in (demo_pages | voted).items():
        page.goto(served + address)
        page.wait_for_timeout(250)  # the scripts of the page have had their chance
        assert page.evaluate("window.attacked") is None, address
        assert page.locator("img[src=x]").count() == 0, address
        shown[name] = page.locator("body").inner_text().count(ATTACK)

    # the others have none, so this is no test that finds nothing because it looks at nothing
    assert {name for name, count in shown.items() if not count} == {"no jobs", "storage", "verify", "reference"}
    page.goto(served + demo_pages["failed job"])
    assert f"{ATTACK}{{{{7*7}}}}" in page.locator("main").inner_text()


def test_a_signed_out_reader_comes_back_to_the_page(
    served: str, demo_pages: dict[str, str], admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page(forgiven="401 (Unauthorized)")  # images that the page still loads when the session ends
    page.goto(served + demo_pages["concept"])
    assert "/dashboard/sign-in?next=" in page.url
    page.get_by_label("API key").fill(admin_key)
    page.keyboard.press("Enter")
    page.wait_for_url("**" + demo_pages["concept"])

    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/dashboard/sign-in")
    page.goto(served + "/dashboard/jobs?state=failed")
    assert "/dashboard/sign-in?next=" in page.url


class _EvilPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def evil() -> Iterator[str]:
    """A page of another origin, whose policy lets its scripts send requests."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _EvilPage) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_another_sites_page_changes_nothing(
    served: str, evil: str, demo_pages: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page(forgiven="NotSameOrigin")
    sign_in(page, served, admin_key)
    with sessions() as db:
        job_id = db.scalars(select(Job.id).where(Job.state == JobState.failed)).first()
    page.goto(evil)
    page.evaluate(
        f"fetch('{served}/v1/jobs/{job_id}/retry', {{method: 'POST', credentials: 'include', mode: 'no-cors'}})"
        ".catch(() => {})"  # the answer is kept from it: Cross-Origin-Resource-Policy
    )
    with httpx.Client(base_url=served) as outside:
        assert outside.post(f"/v1/jobs/{job_id}/retry").status_code == 401

    with sessions() as db:
        assert db.get_one(Job, job_id).state is JobState.failed


def test_the_film_is_scrubbed_by_keyboard_and_played(
    served: str, demo_pages: dict[str, str], admin_key: str, new_page: Callable[..., Any]
) -> None:
    page = new_page()
    sign_in(page, served, admin_key, at=demo_pages["job"])
    page.get_by_text("step 200", exact=True).wait_for()

    page.get_by_label("step of the training").focus()
    page.keyboard.press("ArrowLeft")
    page.get_by_text("step 150", exact=True).wait_for()
    expect(page.locator("#film")).to_have_attribute("src", re.compile("/previews/150$"))
    page.keyboard.press("Home")
    page.get_by_role("button", name="Play").click()
    page.get_by_text("step 200", exact=True).wait_for()
    assert page.get_by_role("button", name="Play").get_attribute("aria-pressed") == "false"
    page.locator("[data-chart=alignment] canvas").wait_for()


def test_bulk_retry_takes_the_selected_jobs_that_can_be(
    served: str, demo_pages: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    with sessions() as db:
        over = len(db.scalars(select(Job.id).where(Job.state.in_([JobState.failed, JobState.cancelled]))).all())
    page = new_page()
    sign_in(page, served, admin_key, at="/dashboard/jobs")

    act_on_all_jobs(page, "retry", meant=over)

    with sessions() as db:
        assert len(db.scalars(select(Job.id).where(Job.state == JobState.queued)).all()) == over


def test_a_vote_is_counted_with_its_interval(served: str, demo_pages: dict[str, str], admin_key: str) -> None:
    headers = {"Authorization": f"Bearer {admin_key}"}
    with httpx.Client(base_url=served, headers=headers, timeout=60) as client:
        concept_id = demo_pages["concept"].rsplit("/", 1)[1]
        for preferred, other in ((2, 1), (2, 1), (1, 2), (2, 1)):
            body = {"preferred": preferred, "other": other, "prompt": "a <concept>", "seed": 1}
            answer = client.post(f"/v1/concepts/{concept_id}/preferences", json=body)
            assert answer.status_code == 201, answer.text
    (pair,) = answer.json()["pairs"]

    assert (pair["first"], pair["second"], pair["first_share"]) == (1, 3, 0.25)
    assert pair["interval"] == pytest.approx((0.0456, 0.6994), abs=1e-4)  # Wilson, 1 of 4, z = 1.96
