"""A real browser, or a skip. A message in a page's console fails the test."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from sqlalchemy import select

from api.__main__ import make_server
from api.domain.database import Sessions, make_sessions
from api.domain.keys import create
from api.domain.settings import Settings
from api.domain.storage import Storage
from api.domain.tables import Job, JobState, Study, Webhook
from bench.demo_data import seed_demo_data
from tests.api.engine.conftest import base_folder, bundle, engine_url  # noqa: F401  pytest finds fixtures by name
from tests.job_life import wait_until
from worker.stack.launcher import RunningStack, local_stack

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]

EXAMPLES = Path(__file__).parents[2] / "examples"
LONG = '{"iterations": 5000, "collaborative_iterations": 0}'


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """Run Playwright only this long: its event loop blocks the thread for tests with their own."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    missing = None
    if path is None:
        missing = f"no browser is installed: none of {', '.join(NAMES)} is on PATH"
    elif find_spec("playwright") is None:
        missing = "playwright is not installed: pip install playwright"
    if missing:
        pytest.fail(missing) if os.environ.get("OPAD_BROWSER_TESTS") == "must" else pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Open a page with these options. An error in its console fails the test unless `forgiven` is in its text."""
    contexts: list[Any] = []
    said: list[str] = []

    def make(*, forgiven: str = "\0", **options: Any) -> Any:
        context = chromium.new_context(**options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()

        def hear(message: Any) -> None:
            if message.type in ("error", "warning") and forgiven not in message.text:
                said.append(f"{page.url}: {message.text}")

        page.on("console", hear)
        page.on("pageerror", lambda error: said.append(f"{page.url}: {error}"))
        return page

    yield make
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture
def sessions(settings: Settings) -> Sessions:
    return make_sessions(settings)


@pytest.fixture
def admin_key(sessions: Sessions) -> str:
    with sessions.begin() as db:
        return create(db, owner_name="admin", label="first admin key", scopes=["admin"])[1].text


@contextmanager
def running_api(settings: Settings) -> Iterator[str]:
    """Run the api; yield its address."""
    server: uvicorn.Server = make_server(settings.model_copy(update={"port": 0}))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, seconds=60, what="the server's start")
    yield f"http://localhost:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def served(settings: Settings) -> Iterator[str]:
    """Run the api alone, without engine or trainer."""
    with running_api(settings) as address:
        yield address


@pytest.fixture
def demo_pages(settings: Settings, sessions: Sessions, admin_key: str) -> dict[str, str]:
    """Seed demo data and return the addresses of all pages by name."""
    seed_demo_data(sessions, Storage(settings), owner_name="admin", concepts=4, jobs=14)
    with sessions() as db:
        failed = db.scalars(select(Job.id).where(Job.state == JobState.failed)).first()
        ended = db.scalars(select(Job).where(Job.state == JobState.succeeded).order_by(Job.id.desc())).first()
        hook = db.scalars(select(Webhook.id)).first()
        study = db.scalars(select(Study.id)).one()
    assert ended is not None
    return {
        "overview": "/dashboard",
        "jobs": "/dashboard/jobs",
        "no jobs": "/dashboard/jobs?name=nothing",
        "job": f"/dashboard/jobs/{ended.id}",
        "failed job": f"/dashboard/jobs/{failed}",
        "concepts": "/dashboard/concepts",
        "concept": f"/dashboard/concepts/{ended.concept_id}",
        "new concept": "/dashboard/concepts/new",
        "playground": "/dashboard/playground",
        "gallery": "/dashboard/gallery",
        "preference": "/dashboard/preference",
        "verify": "/dashboard/verify",
        "studies": "/dashboard/studies",
        "study's voter": f"/dashboard/studies/{study}",
        "study": f"/dashboard/studies/{study}?voter=Dana",
        "study's results": f"/dashboard/studies/{study}/results",
        "access": "/dashboard/access",
        "webhooks": "/dashboard/webhooks",
        "webhook": f"/dashboard/webhooks/{hook}",
        "storage": "/dashboard/storage",
        "system": "/dashboard/system",
        "reference": "/docs",
    }


@pytest.fixture(scope="package")
def own_settings(short_folder: Path) -> Settings:
    return Settings(
        home=short_folder / "browser",
        database_url=None,
        redis_url=None,
        s3_endpoint=None,
        port=0,
        device="cpu",
        lease_seconds=20,
        heartbeat_seconds=1,
        poll_seconds=1,
        generate_timeout_seconds=60,
    )


@pytest.fixture(scope="package")
def running(own_settings: Settings) -> Iterator[RunningStack]:
    with local_stack(own_settings, say=lambda line: None) as started:
        yield started


@pytest.fixture
def client(running: RunningStack) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {running.admin_key}"}
    with httpx.Client(base_url=running.api_url, headers=headers, timeout=60) as opened:
        yield opened


def hand_in(client: httpx.Client, name: str, folder: str) -> dict[str, Any]:
    files = [("images", (path.name, path.read_bytes())) for path in sorted((EXAMPLES / folder).glob("*.png"))]
    noun = (EXAMPLES / folder / "class.txt").read_text().strip()
    data = {"name": name, "class_noun": noun, "overrides": LONG, "consent": "true"}
    answer = client.post("/v1/concepts", data=data, files=files)
    assert answer.status_code == 202, answer.text
    return answer.json()


def sign_in(page: Any, address: str, key: str, *, at: str = "/dashboard") -> None:
    page.goto(f"{address}/dashboard/sign-in?next={quote(at)}")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"**{at}")


def act_on_all_jobs(page: Any, action: str, *, meant: int) -> None:
    """Select all 14 jobs and run `action`, which applies to `meant` of them."""
    page.get_by_label("Select all shown jobs").check()
    page.get_by_text("14 selected").wait_for()
    page.locator(f"[data-bulk-call={action}]").click()
    page.get_by_text(f"{action.capitalize()} {meant} of 14 selected jobs?").wait_for()
    page.get_by_role("button", name="Yes").click()
    page.get_by_text(f"{meant} of {meant} done").wait_for()
