"""Take screenshots of every dashboard page: `make screenshots` (needs a browser), light and dark, desktop and phone.

The service is real and has the nano base. One example is trained and generates images. Older jobs, messages and engines
are seeded demo data (bench/demo_data.py).
"""

import argparse
import io
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from sqlalchemy import select

from api.domain.database import make_sessions
from api.domain.settings import Settings
from api.domain.storage import Storage
from api.domain.tables import Job, JobState, Study, Webhook
from bench.demo_data import EXAMPLES, seed_demo_data
from worker.stack.home import published_environment
from worker.stack.launcher import local_stack

OUT = Path(__file__).parents[1] / "docs" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
SCREENS = {"desktop": (1280, 860), "phone": (390, 844)}
TRAINED, IN_TRAINING = "Grandma's teapot", "Robbie"
COLORS = 160
"""Colors of the palette; all screenshots together stay below 4 MB."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=200, help="length of the distillation stage")
    parser.add_argument(
        "--home", type=Path, help="data folder to keep; concepts that are trained there are not trained again"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the screenshots")
    arguments = parser.parse_args()
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        print(f"no browser is installed: none of {', '.join(BROWSERS)} is on PATH", file=sys.stderr)
        return 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="opad-shots-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)  # as root, PostgreSQL's account must pass through
        home = arguments.home or Path(folder) / "home"
        settings = Settings(home=home, port=0, poll_seconds=1, generate_timeout_seconds=60)
        with local_stack(settings, say=print) as running:
            headers = {"Authorization": f"Bearer {running.admin_key}"}
            with httpx.Client(base_url=running.api_url, headers=headers, timeout=120, trust_env=False) as client:
                pages = prepare(client, settings, iterations=arguments.iterations)
            with sync_playwright() as driver:
                chromium = driver.chromium.launch(executable_path=browser, args=FLAGS)
                for scheme in ("light", "dark"):
                    for screen in SCREENS:
                        shoot(chromium, running.api_url, running.admin_key, pages, scheme, screen, arguments.out)
    total = sum(path.stat().st_size for path in arguments.out.glob("*.png"))
    print(f"{len(list(arguments.out.glob('*.png')))} screenshots, {total / 1e6:.1f} MB")
    return 0


def prepare(client: httpx.Client, settings: Settings, *, iterations: int) -> dict[str, str]:
    """Train, generate, vote and seed demo data. Return the addresses of the pages by name."""
    found = published_environment(settings.home)
    own = Settings.model_validate(
        {name.removeprefix("OPAD_").lower(): _value(value) for name, value in found.items() if name.startswith("OPAD_")}
    )
    sessions = make_sessions(own)
    known = {concept["name"]: concept["id"] for concept in client.get("/v1/concepts").json()["items"]}
    if TRAINED not in known:
        seed_demo_data(sessions, Storage(own), owner_name="admin", concepts=6, jobs=15)
        upload(client, TRAINED, "blue_teapot", iterations)
    trained = newest_job(client, TRAINED)
    wait(client, trained["id"])
    for prompt in ("a <concept> on the beach", "a <concept> in the snow", "a photo of a <concept>"):
        body = {"concept_id": trained["concept_id"], "prompt": prompt, "seed": 7, "count": 2, "store": True}
        client.post("/v1/generate", json=body).raise_for_status()
    for n in range(9):
        votes = {"preferred": 1 if n % 4 else 0, "other": 0 if n % 4 else 1, "prompt": "a <concept>", "seed": n}
        client.post(f"/v1/concepts/{trained['concept_id']}/preferences", json=votes).raise_for_status()
    if IN_TRAINING not in known:  # trains while the screenshots are taken
        upload(client, IN_TRAINING, "orange_robot", iterations)
    with sessions() as db:
        newest_oom = ((Job.error_code == "oom").desc(), Job.id.desc())
        failed = db.scalars(select(Job.id).where(Job.state == JobState.failed).order_by(*newest_oom)).first()
        hook = db.scalars(select(Webhook.id)).first()
        study = db.scalars(select(Study.id)).first()
    time.sleep(6)  # the latency histogram is written every five seconds
    query = f"concept={trained['concept_id']}&prompt=a+%3Cconcept%3E+on+the+beach&seed=7&count=4&compare=1"
    return {
        "sign-in": "/dashboard/sign-in",
        "overview": "/dashboard",
        "jobs": "/dashboard/jobs",
        "job": f"/dashboard/jobs/{trained['id']}",
        "failed-job": f"/dashboard/jobs/{failed}",
        "concepts": "/dashboard/concepts",
        "concept": f"/dashboard/concepts/{trained['concept_id']}",
        "new-concept": "/dashboard/concepts/new",
        "playground": f"/dashboard/playground?{query}",
        "gallery": f"/dashboard/gallery?concept={trained['concept_id']}",
        "preference": f"/dashboard/preference?concept={trained['concept_id']}",
        "study": f"/dashboard/studies/{study}?voter=Dana",
        "study-results": f"/dashboard/studies/{study}/results",
        "access": "/dashboard/access",
        "webhooks": "/dashboard/webhooks",
        "webhook": f"/dashboard/webhooks/{hook}",
        "storage": "/dashboard/storage",
        "system": "/dashboard/system",
    }


def _value(text: str) -> Any:
    return json.loads(text) if text.startswith("[") else text


def _overrides(iterations: int) -> dict[str, int]:
    return {"iterations": iterations, "collaborative_iterations": min(iterations, 10)}


def upload(client: httpx.Client, name: str, folder: str, iterations: int) -> None:
    files = [("images", (path.name, path.read_bytes())) for path in sorted((EXAMPLES / folder).glob("*.png"))]
    noun = (EXAMPLES / folder / "class.txt").read_text().strip()
    form = {"name": name, "class_noun": noun, "consent": "true", "overrides": json.dumps(_overrides(iterations))}
    client.post("/v1/concepts", data=form, files=files).raise_for_status()


def newest_job(client: httpx.Client, name: str) -> dict[str, Any]:
    (job, *_) = client.get("/v1/jobs", params={"name": name}).raise_for_status().json()["items"]
    return dict(job)


def wait(client: httpx.Client, job_id: str) -> dict[str, Any]:
    while (job := client.get(f"/v1/jobs/{job_id}").json())["state"] in ("queued", "running"):
        time.sleep(1)
    assert job["state"] == "succeeded", job
    return dict(job)


def shoot(chromium: Any, address: str, key: str, pages: dict[str, str], scheme: str, screen: str, out: Path) -> None:
    width, height = SCREENS[screen]
    context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
    page = context.new_page()
    for name, path in pages.items():
        if name == "overview":
            page.goto(f"{address}/dashboard/sign-in")
            page.get_by_label("API key").fill(key)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/dashboard")
        page.goto(address + path)
        if name == "playground":
            page.get_by_role("button", name="Generate").click()
            expect(page.locator("#results img")).to_have_count(8, timeout=90_000)
        if name == "preference":
            page.get_by_role("button", name="Show a pair").click()
            expect(page.locator("#right")).not_to_have_js_property("naturalWidth", 0, timeout=90_000)
        if name == "job":
            page.locator("[data-chart=teacher] canvas").wait_for(timeout=90_000)
            expect(page.locator("#film")).not_to_have_js_property("naturalWidth", 0, timeout=90_000)
        page.wait_for_function("[...document.images].every((one) => one.complete || one.loading === 'lazy')")
        page.wait_for_timeout(800)
        keep(page.screenshot(full_page=True, clip=_top(page, width)), out / f"{name}-{scheme}-{screen}.png")
    context.close()


def _top(page: Any, width: int) -> dict[str, int]:
    """Return the clip of a page; a long one is cut."""
    height = min(page.evaluate("document.documentElement.scrollHeight"), 2200)
    return {"x": 0, "y": 0, "width": width, "height": height}


def keep(png: bytes, path: Path) -> None:
    screenshot = Image.open(io.BytesIO(png)).convert("RGB")
    screenshot.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
