"""A notification is a hint: with the broker gone it is lost quickly and quietly, and the job waits in its table."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from api.app import create_app
from api.dispatch import create_notifier, notify_workers
from api.domain.settings import Settings
from tests.api.reference_images import reference


def test_a_dead_broker_costs_at_most_a_second(tmp_path: Path, subtests: pytest.Subtests) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4) as silent:  # accepts and never answers
        addresses = {
            "no socket": f"redis+socket://{tmp_path}/none.sock?virtual_host=0",
            "refused": "redis://127.0.0.1:1/0",
            "silent": f"redis://127.0.0.1:{silent.getsockname()[1]}/0",
        }
        notify_workers(
            create_notifier(Settings(redis_url=addresses["refused"])), uuid4(), "default"
        )  # imports the transport
        for name, address in addresses.items():
            with subtests.test(name):
                notifier = create_notifier(Settings(redis_url=address))
                began = time.monotonic()
                notify_workers(notifier, uuid4(), "default")

                assert time.monotonic() - began < 1.5  # 1 s is the promise; the rest is for a busy machine


def test_a_concept_is_accepted_while_the_broker_is_dead(
    settings: Settings, new_key: Callable[..., str], base: None, tmp_path: Path
) -> None:
    dead = settings.model_copy(update={"redis_url": f"redis+socket://{tmp_path}/none.sock?virtual_host=0"})
    with TestClient(create_app(dead), base_url="http://localhost") as client:
        answer = client.post(
            "/v1/concepts",
            files=[("images", (f"{n}.jpg", reference(n))) for n in range(3)],
            data={"name": "my mug", "class_noun": "mug", "consent": "true"},
            headers={"Authorization": f"Bearer {new_key()}"},
        )

    assert answer.status_code == 202


def test_a_full_broker_refuses_notifications_and_counts_and_nobody_notices(
    settings: Settings, new_key: Callable[..., str], base: None
) -> None:
    address = (settings.redis_url or "").replace("redis+socket://", "unix://").replace("virtual_host=", "db=")
    limited = settings.model_copy(update={"requests_per_minute": 1})
    with (
        redis.Redis.from_url(address) as broker,
        TestClient(create_app(limited), base_url="http://localhost") as client,
    ):
        broker.config_set("maxmemory", 1)
        try:
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                broker.set("more", "than fits")
            with capture_logs() as lines:
                answer = client.post(
                    "/v1/concepts",
                    files=[("images", (f"{n}.jpg", reference(n))) for n in range(3)],
                    data={"name": "my mug", "class_noun": "mug", "consent": "true"},
                    headers={"Authorization": f"Bearer {new_key()}"},
                )
        finally:
            broker.config_set("maxmemory", 0)

    assert answer.status_code == 202
    assert {"job.notify_failed", "limits.uncounted"} <= {line["event"] for line in lines}
