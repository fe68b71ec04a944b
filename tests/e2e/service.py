"""The service as its clients see it."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.api.reference_images import reference
from worker.stack.launcher import RunningStack


@contextmanager
def client_of(running: RunningStack) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {running.admin_key}"}
    with httpx.Client(base_url=running.api_url, headers=headers, timeout=60) as client:
        yield client


def post_concept(client: httpx.Client, name: str, *, iterations: int, keep_teacher: bool = False) -> dict:
    answer = client.post(
        "/concepts",
        data={
            "name": name,
            "class_noun": "dog",
            "consent": "true",
            "seed": "7",
            "keep_teacher": str(keep_teacher).lower(),
            "overrides": f'{{"iterations": {iterations}, "collaborative_iterations": 1}}',
        },
        files=[("images", (f"{number}.jpg", reference(number), "image/jpeg")) for number in range(4)],
    )
    assert answer.status_code == 202, answer.text
    return answer.json()["job"]
