"""Jobs that end early, in a browser on the real service with the nano base."""

from collections.abc import Callable
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config

from api.domain.settings import Settings
from tests.browser.conftest import hand_in, sign_in
from worker.stack.home import published_environment
from worker.stack.launcher import RunningStack


@pytest.mark.slow
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
    # other tests' pages would ask for its photos
    client.delete(f"/v1/concepts/{doomed['concept']['id']}").raise_for_status()


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
