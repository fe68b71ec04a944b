"""The newcomer's way on the real service with the nano base: from the sign-in to a downloaded and a kept image."""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import hand_in, sign_in
from tests.browser.test_pages import serious
from worker.stack.launcher import RunningStack

PHOTOS = sorted((Path(__file__).parents[2] / "examples" / "blue_teapot").glob("*.png"))
BEACH = "a photo of a <concept> on the beach"


@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 390])
def test_a_newcomer_gets_from_the_sign_in_to_a_downloaded_image(
    width: int, running: RunningStack, new_page: Callable[..., Any]
) -> None:
    without_concept = "the server responded with a status of 422"
    page = new_page(viewport={"width": width, "height": 900}, forgiven=without_concept)
    name = f"My Teapot {width}"
    sign_in(page, running.api_url, running.admin_key)
    if width < 800:
        page.get_by_role("button", name="Menu").click()
    page.locator("#menu").get_by_role("link", name="New concept").click()
    page.wait_for_url("**/concepts/new")  # and its script
    fill_in_the_form(page, name)
    watch_the_training(page)

    page.get_by_role("link", name="Try a prompt").click()
    page.wait_for_url("**/playground?*")
    images = generate(page, BEACH)
    wide = images.first.bounding_box()["width"]
    assert wide >= 256
    assert serious(page) == []
    take(page, f"playground-{width}")
    seed = int(page.get_by_label("Seed", exact=True).input_value())

    images.nth(2).click()
    viewer = page.get_by_role("dialog")
    large = viewer.locator("img")
    expect(large).to_have_class("crisp")
    assert large.bounding_box()["width"] % 64 == 0, "each pixel of the image is a square"
    assert large.bounding_box()["width"] >= 256
    expect(viewer).to_contain_text(BEACH)
    expect(viewer).to_contain_text("v1")
    assert serious(page) == []
    take(page, f"viewer-{width}")
    page.keyboard.press("ArrowLeft")
    expect(viewer.get_by_role("heading")).to_have_text(f"{name}, seed {seed + 1}")

    seen = download(page, f"my-teapot-{width}-{seed + 1}.png")
    viewer.get_by_role("button", name="Keep this one").click()
    viewer.get_by_role("status").filter(has_text="Kept in the gallery").wait_for()
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page.locator("#results figcaption").nth(1)).to_have_text(f"seed {seed + 1} · kept")
    assert page.evaluate("document.activeElement.className") == "tile"

    page.reload()  # the address has the form
    expect(page.get_by_label("Prompts, one per line")).to_have_value(BEACH)
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(seed))

    page.goto(f"{running.api_url}/dashboard/gallery")
    page.locator("figure").filter(has_text=name).locator(".tile").click()
    take(page, f"gallery-{width}")
    assert download(page, f"my-teapot-{width}-{seed + 1}.png") == seen, "what is kept is what was seen"
    viewer.get_by_role("button", name="Erase").click()
    page.get_by_role("button", name="Yes").click()
    expect(page.locator("figure").filter(has_text=name)).to_have_count(0, timeout=20_000)


@pytest.mark.timeout(600)
def test_what_the_service_refuses_is_shown_beside_its_field(
    running: RunningStack, client: httpx.Client, new_page: Callable[..., Any], tmp_path: Path
) -> None:
    """A browser shows the animation as a photo, and does not know the names that are taken."""
    animation = tmp_path / "waving.png"
    frames = [Image.open(photo) for photo in PHOTOS[:2]]
    frames[0].save(animation, save_all=True, append_images=frames[1:], duration=100)
    taken = hand_in(client, "taken", "taxi")
    client.post(f"/v1/jobs/{taken['job']['id']}/cancel").raise_for_status()
    page = new_page(forgiven="the server responded with a status of 4")
    sign_in(page, running.api_url, running.admin_key, at="/dashboard/concepts/new")
    photos, name = page.get_by_label("Drop photos here"), page.get_by_label("Name", exact=True)
    photos.set_input_files([*PHOTOS[:2], animation])
    page.locator("#count").filter(has_text="3 photos, all good.").wait_for()
    name.fill("taken")
    page.get_by_role("combobox", name="Class noun").fill("car")
    page.get_by_role("checkbox", name="I took these photos").check()

    page.get_by_role("button", name="Learn it").click()
    expect(name).to_have_accessible_description(
        "you already have a concept named 'taken'; choose another name", timeout=60_000
    )
    expect(name).to_be_focused()
    name.fill("not taken")
    expect(name).to_have_accessible_description("")
    page.get_by_role("button", name="Learn it").click()

    expect(photos).to_have_accessible_description(re.compile('image 3 \\("waving.png"\\)'), timeout=60_000)
    expect(page.locator("#files .wrong")).to_contain_text("waving.png")
    expect(page.locator(".field-error")).to_be_in_viewport()


def fill_in_the_form(page: Any, name: str) -> None:
    """Send the form empty, then with a wrong noun and too few photos, then as it should be."""
    learn = page.get_by_role("button", name="Learn it")
    learn.click()
    photos, noun = page.get_by_label("Drop photos here"), page.get_by_role("combobox", name="Class noun")
    expect(photos).to_be_focused()
    for field, sentence in (
        (photos, "Add at least 3 photos."),
        (page.get_by_label("Name", exact=True), "Enter a name."),
        (noun, "Enter a class noun."),
        (page.get_by_role("checkbox", name="I took these photos"), "Confirm that you may use these photos."),
    ):
        expect(field).to_have_accessible_description(re.compile(sentence))
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_role("checkbox", name="I took these photos").check()

    photos.set_input_files(PHOTOS[:2])
    page.locator("#count").filter(has_text="2 of at least 3 photos.").wait_for()
    photos.set_input_files([PHOTOS[0], *PHOTOS[2:]])
    page.get_by_text("is a duplicate").wait_for()
    page.get_by_role("button", name=f"Remove {PHOTOS[0].name}").last.click()
    page.locator("#count").filter(has_text="4 photos, all good.").wait_for()

    noun.fill("zwieback")
    page.get_by_text("nano knows no such noun").wait_for()
    learn.click()
    expect(noun).to_have_accessible_description("nano does not know “zwieback”. Choose a noun from the list.")
    expect(noun).to_be_focused()
    expect(noun).to_be_in_viewport()
    take(page, f"errors-{page.viewport_size['width']}")
    noun.fill("pot")
    take(page, f"nouns-{page.viewport_size['width']}")
    page.get_by_role("option", name="teapot").click()
    expect(noun).to_have_value("teapot")

    page.get_by_text("Iterations, seed and teacher").click()
    assert page.get_by_label("Iterations", exact=True).get_attribute("placeholder").isdigit()
    page.get_by_label("Iterations", exact=True).fill("8")
    page.get_by_label("Collaborative iterations").fill("0")
    assert serious(page) == []
    learn.click()


def watch_the_training(page: Any) -> None:
    page.wait_for_url("**/dashboard/jobs/*")
    page.evaluate("window.neverReloaded = true")
    expect(page.locator("[data-field=steps]")).to_have_text(re.compile("/ 8$"), timeout=180_000)
    page.locator("[data-chart=teacher] canvas").wait_for(timeout=120_000)
    page.locator("[data-field=state] [data-state=succeeded]").wait_for(timeout=300_000)
    expect(page.locator("#film")).to_have_js_property("naturalWidth", 256)
    expect(page.locator("#log-lines")).to_have_text(re.compile("training.began .*job.succeeded", re.DOTALL))
    assert page.evaluate("window.neverReloaded")


def generate(page: Any, prompt: str) -> Any:
    """Generate four images, with the untouched student's. Return the concept's and the student's images."""
    page.get_by_label("Prompts, one per line").fill(prompt.replace("<concept>", "thing"))
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_label("Prompts, one per line")).to_have_accessible_description(
        re.compile("<concept>"), timeout=60_000
    )
    page.get_by_label("Prompts, one per line").fill(f"{prompt} zebra")
    page.get_by_label("compare with the untouched student").check()
    page.get_by_role("button", name="Generate").click()
    images = page.locator("#results img")
    expect(images).to_have_count(8, timeout=90_000)
    page.get_by_text("nano does not know 'zebra' and may ignore it").wait_for()
    page.locator("#results details").first.get_by_text("Details").click()
    page.get_by_text("keys and values:").first.wait_for()
    page.get_by_label("compare with the untouched student").uncheck()
    page.get_by_label("Prompts, one per line").fill(prompt)
    page.get_by_role("button", name="Generate").click()
    expect(images).to_have_count(12, timeout=90_000)
    for image in images.all():
        expect(image).to_have_js_property("naturalWidth", 64)
    return page.locator("#results section").first.locator("img")


def download(page: Any, file_name: str) -> bytes:
    """Download the image that the dialog shows, and return its file."""
    with page.expect_download() as started:
        page.get_by_role("dialog").get_by_role("link", name="Download").click()
    assert started.value.suggested_filename == file_name
    file = Path(started.value.path()).read_bytes()
    assert Image.open(io.BytesIO(file)).convert("RGB").size == (64, 64)
    return file


def take(page: Any, name: str) -> None:
    """Take a screenshot for people who ask for them."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=name.startswith("playground"))
