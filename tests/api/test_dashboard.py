"""The dashboard without scripts: signing in and out, sessions, pages, names as text."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from api.app import create_app
from api.dashboard.sign_in import TRIES_PER_MINUTE
from api.domain import base_checks
from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.tables import ApiKey, AuditEvent, Concept, DashboardSession, Heartbeat, Job, JobState, Owner
from tests.api.reference_images import reference
from tests.job_life import insert_job


def sign_in(browser: TestClient, key: str, **headers: str) -> Any:
    return browser.post("/dashboard/sign-in", data={"key": key}, headers=headers)


@pytest.fixture
def browser(anonymous: TestClient, new_key: Callable[..., str], base: None) -> TestClient:
    """A client that is signed in as alice by a cookie."""
    assert sign_in(anonymous, new_key()).status_code == 303
    return anonymous


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf-token" content="([0-9a-f]{64})"', page)
    assert found is not None
    return found[1]


def test_a_stranger_is_sent_to_the_sign_in_page(anonymous: TestClient) -> None:
    answer = anonymous.get("/dashboard")

    assert answer.status_code == 303
    assert answer.headers["location"] == "/dashboard/sign-in"
    assert "API key" in anonymous.get("/dashboard/sign-in").text


def test_a_good_key_opens_the_dashboard(anonymous: TestClient, new_key: Callable[..., str], sessions: Sessions) -> None:
    answer = sign_in(anonymous, new_key())

    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    token = cookie.partition("=")[2].partition(";")[0]
    with sessions() as db:
        assert token.encode() not in db.scalars(select(DashboardSession.token_sha256)).one()
    page = anonymous.get("/dashboard")
    assert page.status_code == 200
    assert page.headers["cache-control"] == "no-store"
    assert "Sign out" in page.text


def test_a_wrong_key_is_refused_in_words(anonymous: TestClient, new_key: Callable[..., str]) -> None:
    wrong = sign_in(anonymous, "hello")
    assert wrong.status_code == 401
    assert "this is not an OPAD key" in wrong.text

    narrow = sign_in(anonymous, new_key(scopes=("generate",)))
    assert narrow.status_code == 403
    assert "this key has the scopes generate; the dashboard needs train and read" in narrow.text


def test_plain_http_beyond_this_machine_is_refused(api_settings: Settings, new_key: Callable[..., str]) -> None:
    with TestClient(create_app(api_settings), base_url="http://opad.example", follow_redirects=False) as browser:
        page = browser.get("/dashboard/sign-in")
        posted = sign_in(browser, new_key())

    for answer in (page, posted):
        assert answer.status_code == 403
        assert "unencrypted" in answer.text
        assert "set-cookie" not in answer.headers
        assert "<form" not in answer.text


def test_over_tls_the_cookie_is_bound_to_the_host(api_settings: Settings, new_key: Callable[..., str]) -> None:
    with TestClient(create_app(api_settings), base_url="https://opad.example", follow_redirects=False) as browser:
        cookie = sign_in(browser, new_key()).headers["set-cookie"]

        assert cookie.startswith("__Host-opad=")
        assert "Secure" in cookie
        assert browser.get("/dashboard").status_code == 200
        assert "strict-transport-security" in browser.get("/dashboard").headers


def test_the_page_names_the_file_with_a_key_while_that_key_works(
    anonymous: TestClient, new_key: Callable[..., str], api_settings: Settings, sessions: Sessions
) -> None:
    named = "An admin key is in the file <code>admin-key</code>"
    file = api_settings.home / "admin-key"
    assert named not in anonymous.get("/dashboard/sign-in").text
    file.write_text(new_key() + "\n")
    assert named in anonymous.get("/dashboard/sign-in").text
    assert named in sign_in(anonymous, "hello").text
    with sessions.begin() as db:
        db.execute(update(ApiKey).values(revoked_at=func.now()))
    assert named not in anonymous.get("/dashboard/sign-in").text


def test_another_sites_form_does_not_sign_in(anonymous: TestClient, new_key: Callable[..., str]) -> None:
    assert sign_in(anonymous, new_key(), Origin="http://evil.example").status_code == 403
    assert sign_in(anonymous, new_key(), **{"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_the_session_reads_the_api_and_writes_with_its_token_only(browser: TestClient) -> None:
    browser_headers = {"Origin": "http://localhost"}
    token = csrf_of(browser.get("/dashboard").text)
    body = {"concept": "my mug", "prompt": "a <concept>"}

    assert browser.get("/v1/jobs").status_code == 200
    without = browser.post("/v1/generate", json=body, headers=browser_headers)
    assert without.status_code == 403
    assert without.json()["code"] == "bad_csrf_token"
    foreign = browser.post("/v1/generate", json=body, headers={"Origin": "http://evil.example", "X-CSRF-Token": token})
    assert foreign.status_code == 403
    right = browser.post("/v1/generate", json=body, headers={**browser_headers, "X-CSRF-Token": token})
    assert right.json()["code"] == "no_such_concept"


def test_signing_out_ends_the_session_on_the_server(browser: TestClient, sessions: Sessions) -> None:
    cookies = dict(browser.cookies)
    token = csrf_of(browser.get("/dashboard").text)

    assert browser.post("/dashboard/sign-out", data={"csrf": "0" * 64}).status_code == 403
    assert browser.post("/dashboard/sign-out", data={"csrf": token}).status_code == 303

    browser.cookies.update(cookies)
    assert browser.get("/v1/jobs").status_code == 401
    with sessions() as db:
        assert db.scalar(select(func.count()).select_from(DashboardSession)) == 0


def test_a_session_ends_by_idleness_age_or_with_its_key(
    browser: TestClient, sessions: Sessions, subtests: pytest.Subtests
) -> None:
    ends: list[tuple[str, Any]] = [
        ("idle", update(DashboardSession).values(seen_at=func.now() - timedelta(minutes=31))),
        ("old", update(DashboardSession).values(created_at=func.now() - timedelta(hours=9))),
        ("revoked", update(ApiKey).values(revoked_at=func.now())),
    ]
    undo = [
        update(DashboardSession).values(seen_at=func.now(), created_at=func.now()),
        update(ApiKey).values(revoked_at=None),
    ]
    for name, change in ends:
        with subtests.test(name):
            with sessions.begin() as db:
                db.execute(change)
            assert browser.get("/v1/jobs").status_code == 401
            with sessions.begin() as db:
                for statement in undo:
                    db.execute(statement)
            assert browser.get("/v1/jobs").status_code == 200


def test_the_page_shows_jobs_and_every_name_as_text(browser: TestClient, new_key: Callable[..., str]) -> None:
    accepted = browser.post(
        "/v1/concepts",
        files=[("images", (f"{n}.jpg", reference(n))) for n in range(3)],
        data={"name": "<svg onload=alert(1)>", "class_noun": "mug", "consent": "true"},
        headers={"Authorization": f"Bearer {new_key()}"},
    )

    concept = accepted.json()["concept"]
    for address in ("/dashboard", "/dashboard/jobs", "/dashboard/concepts", f"/dashboard/concepts/{concept['id']}"):
        page = browser.get(address).text
        assert "<svg onload" not in page
        assert "&lt;svg onload=alert(1)&gt;" in page
        assert 'data-state="queued"' in page
    assert page.count('alt="photo') == 3


def test_pages_carry_no_inline_script_or_style(browser: TestClient) -> None:
    for path in ("/dashboard", "/dashboard/jobs", "/dashboard/concepts/new", "/dashboard/sign-in", "/docs"):
        page = browser.get(path).text

        assert not re.search(r"<script(?![^>]*src=)[^>]*>", page)
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=\"", page)
        assert browser.get(path).headers["referrer-policy"] == "same-origin"  # else our forms have the origin "null"
    for address in ("/static/style.css", "/static/app.js", "/favicon.ico", "/static/favicon.svg"):
        assert browser.get(address).status_code == 200


def test_a_sign_in_is_audited(anonymous: TestClient, new_key: Callable[..., str], sessions: Sessions) -> None:
    sign_in(anonymous, new_key())

    with sessions() as db:
        [event] = db.scalars(select(AuditEvent)).all()
    assert (event.action, event.outcome) == ("sign_in.accept", "signed_in")
    assert event.object_id == event.api_key_id


def test_guessing_keys_is_slowed_down(anonymous: TestClient) -> None:
    answers = [sign_in(anonymous, "guess").status_code for _ in range(TRIES_PER_MINUTE + 1)]

    assert answers == [401] * TRIES_PER_MINUTE + [429]


@pytest.mark.parametrize(
    "wished", ["//evil.example", "https://evil.example", "/dashboardx", "/dashboard/..\\evil", "/v1/jobs"]
)
def test_signing_in_leads_to_a_page_of_ours(anonymous: TestClient, new_key: Callable[..., str], wished: str) -> None:
    answer = anonymous.post("/dashboard/sign-in", data={"key": new_key(), "next": wished})

    assert answer.headers["location"] == "/dashboard"


def test_a_page_comes_back_after_signing_in(anonymous: TestClient, new_key: Callable[..., str]) -> None:
    asked = anonymous.get("/dashboard/jobs?state=failed")
    assert asked.headers["location"] == "/dashboard/sign-in?next=/dashboard/jobs%3Fstate%3Dfailed"

    answer = anonymous.post("/dashboard/sign-in", data={"key": new_key(), "next": "/dashboard/jobs?state=failed"})

    assert answer.headers["location"] == "/dashboard/jobs?state=failed"


def test_a_page_that_is_not_there_says_so_in_words(browser: TestClient) -> None:
    for address in ("/dashboard/jobs/nonsense", "/dashboard/jobs/0198c0de-7e57-7000-8000-000000000002"):
        answer = browser.get(address)

        assert answer.status_code == 404
        assert "That did not work" in answer.text


def test_operators_pages_are_closed_to_other_owners(browser: TestClient) -> None:
    for address in (
        "/dashboard/storage",
        "/dashboard/system",
        "/dashboard/system/engines",
        "/dashboard/system/base-check",
    ):
        assert browser.get(address).status_code == 403
    assert "/dashboard/system" not in browser.get("/dashboard").text


def test_system_shows_the_check_of_the_base_and_asks_for_another(
    anonymous: TestClient, new_key: Callable[..., str], base: None, sessions: Sessions
) -> None:
    key = new_key("admin")
    sign_in(anonymous, key)
    assert "A trainer checks them when it has had no job for a while" in anonymous.get("/dashboard/system").text
    answers = [
        {"check": "padding", "outcome": "passed", "sentence": "prompts are padded with token 0"},
        {"check": "learning", "outcome": "failed", "sentence": "run `python -m opad_core doctor`"},
    ]
    with sessions.begin() as db:
        db.execute(base_checks.claim("w", host="gpu-1", idle_seconds=0))
    assert "gpu-1 checks them now" in anonymous.get("/dashboard/system").text
    with sessions.begin() as db:
        db.execute(base_checks.finish("0" * 64, answers))

    for address in ("/dashboard/system", "/dashboard/system/base-check"):
        text = anonymous.get(address).text
        entries = re.findall(
            r'<b>([\w ]+)</b><span class="state" data-state="(\w+)">\w+</span></p><p class="quiet">(.*?)</p>', text
        )
        assert entries[-2:] == [
            ("learning", "failed", "run <code>.venv/bin/python -m opad_core doctor</code>"),
            ("padding", "ok", "prompts are padded with token 0"),
        ]
        assert "Checked by gpu-1" in text

    operator = {"Authorization": f"Bearer {key}"}
    asked = anonymous.post("/v1/system/base-check", headers=operator)
    assert (asked.status_code, asked.json()["state"], asked.json()["host"]) == (202, "waiting", "gpu-1")
    assert asked.json()["answers"] == answers, "the last ones stay until the next ones come"
    assert anonymous.get("/v1/system", headers=operator).json()["base_check"] == asked.json()


def test_system_and_overview_show_the_level_of_each_engine(
    anonymous: TestClient, new_key: Callable[..., str], base: None, sessions: Sessions
) -> None:
    sign_in(anonymous, new_key("admin"))
    no_compiler = "no C compiler found (CC, gcc or clang); install gcc"
    with sessions.begin() as db:
        for name, facts in (
            ("new:8100", {"level": "compiled", "level_reason": None}),
            ("slow:8100", {"level": "captured", "level_reason": no_compiler}),
            ("old:8100", {"device": "cuda"}),
        ):
            db.add(Heartbeat(name=name, kind="engine", facts=facts))

    for address in ("/dashboard/system", "/dashboard/system/engines"):
        entries = re.findall(
            r'<li class="entry"><p class="card-line"><b>(\w+:8100)</b>.*?</p>(.*?)</li>', anonymous.get(address).text
        )
        assert entries == [
            ("new:8100", "<p>compiled</p>"),
            ("old:8100", ""),
            ("slow:8100", f"<p>captured as a CUDA graph: {no_compiler}</p>"),
        ]
    overview = anonymous.get("/dashboard").text
    assert re.findall("<dt>networks</dt><dd>(.*?)</dd>", overview) == [
        "compiled",
        f"captured as a CUDA graph: {no_compiler}",
    ]


def test_a_job_says_why_it_failed_while_the_store_is_away(
    api_settings: Settings, new_key: Callable[..., str], sessions: Sessions
) -> None:
    key, job_id = new_key(), insert_job(sessions, [], state=JobState.failed, error_code="oom", error_detail="no room")
    with sessions.begin() as db:
        owner_id = db.scalars(select(Owner.id).where(Owner.name == "alice")).one()
        db.execute(update(Job).values(owner_id=owner_id))
        db.execute(update(Concept).values(owner_id=owner_id))
    away = api_settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"})
    with TestClient(create_app(away), base_url="http://localhost", follow_redirects=False) as browser:
        sign_in(browser, key)
        page = browser.get(f"/dashboard/jobs/{job_id}")

    assert page.status_code == 200
    assert "Why it failed: oom" in page.text
    assert "The object store does not answer" in page.text
