"""The whole way from photos to an image in a browser, on the real service with the nano base."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config
from playwright.sync_api import expect

from api.domain.settings import Settings
from tests.browser.conftest import sign_in
from worker.stack.home import published_environment
from worker.stack.launcher import RunningStack, local_stack

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTOS = sorted((EXAMPLES / "blue_teapot").glob("*.png"))
LONG = '{"iterations": 5000, "collaborative_iterations": 0}'


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


@pytest.mark.timeout(600)
def test_a_newcomer_gets_from_photos_to_an_image(running: RunningStack, new_page: Callable[..., Any]) -> None:
    page = new_page()
    sign_in(page, running.api_url, running.admin_key)
    page.get_by_role("link", name="New concept").first.click()

    page.get_by_label("Drop photos here").set_input_files(PHOTOS[:2])
    page.locator("#count").filter(has_text="2 of at least 3 photos.").wait_for()
    page.get_by_role("button", name="Create concept").click()
    page.get_by_role("alert").filter(has_text="2 of at least 3 photos.").wait_for()
    page.get_by_label("Drop photos here").set_input_files([PHOTOS[0], *PHOTOS[2:]])
    page.get_by_text("is a duplicate").wait_for()
    page.get_by_role("button", name=f"Remove {PHOTOS[0].name}").last.click()
    page.locator("#count").filter(has_text="4 photos, all good.").wait_for()

    page.get_by_label("Name", exact=True).fill("my teapot")
    page.get_by_label("Class noun").fill("teapot")
    page.get_by_text("Iterations and seed").click()
    assert page.get_by_label("Iterations", exact=True).get_attribute("placeholder").isdigit()
    page.get_by_label("Iterations", exact=True).fill("8")
    page.get_by_label("Collaborative iterations").fill("0")
    page.get_by_role("button", name="Create concept").click()
    page.get_by_role("alert").filter(has_text="Confirm that you may use these photos.").wait_for()
    page.get_by_role("checkbox", name="I took these photos").check()
    page.get_by_role("button", name="Create concept").click()

    page.wait_for_url("**/dashboard/jobs/*")
    page.evaluate("window.neverReloaded = true")
    expect(page.locator("[data-field=steps]")).to_have_text(re.compile("/ 8$"), timeout=180_000)
    page.locator("[data-chart=teacher] canvas").wait_for(timeout=120_000)
    page.locator("[data-field=state] [data-state=succeeded]").wait_for(timeout=300_000)
    expect(page.locator("#film")).to_have_js_property("naturalWidth", 256)
    expect(page.locator("#log-lines")).to_have_text(re.compile("training.began .*job.succeeded", re.DOTALL))
    assert page.evaluate("window.neverReloaded")

    page.get_by_role("link", name="Try a prompt").click()
    page.get_by_label("Prompts, one per line").fill("a photo of a <concept> on the beach")
    page.get_by_label("Images per prompt").select_option("2")
    page.get_by_label("compare with the untouched student").check()
    page.get_by_role("button", name="Generate").click()
    images = page.locator("#results img")
    expect(images).to_have_count(4, timeout=90_000)
    for image in images.all():
        expect(image).to_have_js_property("naturalWidth", 64)
    shown = page.locator("#results").inner_text()
    page.reload()
    assert page.get_by_label("Prompts, one per line").input_value() == "a photo of a <concept> on the beach"
    seed = page.get_by_label("Seed", exact=True).input_value()
    assert f"seed {seed}" in shown
    page.get_by_role("button", name="Generate").click()  # the images of the address again
    expect(page.locator("#results figcaption").first).to_have_text(f"seed {seed}", timeout=90_000)


@pytest.mark.timeout(600)
def test_a_training_is_cancelled_and_a_failed_one_says_why(
    running: RunningStack, own_settings: Settings, client: httpx.Client, new_page: Callable[..., Any]
) -> None:
    endless = hand_in(client, "endless", "taxi")["job"]
    doomed = hand_in(client, "doomed", "poodle")
    lose_references(own_settings, client, doomed["concept"])
    page = new_page(forgiven="the server responded with a status of 500")  # the lost photos
    sign_in(page, running.api_url, running.admin_key, at=f"/dashboard/jobs/{endless['id']}")
    page.locator("[data-field=state] [data-state=running]").wait_for(timeout=60_000)

    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Yes").click()

    page.locator("[data-field=state] [data-state=cancelled]").wait_for(timeout=120_000)
    page.goto(f"{running.api_url}/dashboard/jobs/{doomed['job']['id']}")
    page.get_by_role("heading", name="Why it failed: storage").wait_for(timeout=180_000)
    page.get_by_role("button", name="Retry").wait_for()
    page.goto(f"{running.api_url}/dashboard")
    page.get_by_role("link", name="training doomed v1 failed").wait_for()
    for kind in ("trainer", "engine"):
        page.locator("article h3").filter(has_text=f"{kind} ").wait_for()


def lose_references(settings: Settings, client: httpx.Client, concept: dict[str, Any]) -> None:
    """Remove the photos, like a store that was restored from an old copy."""
    found = published_environment(settings.home)
    store = boto3.client(
        "s3",
        endpoint_url=found["OPAD_S3_ENDPOINT"],
        region_name="us-east-1",
        aws_access_key_id=found["OPAD_S3_ACCESS_KEY"],
        aws_secret_access_key=found["OPAD_S3_SECRET_KEY"],
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    for reference in concept["references"]:
        sha256 = client.get(reference["url"]).headers["etag"].strip('"')
        store.delete_object(Bucket=found["OPAD_S3_BUCKET"], Key=f"references/{sha256}.png")
