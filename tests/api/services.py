"""Change the services of a running app."""

from dataclasses import replace
from typing import Any

from fastapi.testclient import TestClient


def replace_services(client: TestClient, **changed: Any) -> None:
    """Use these services for the client's next requests, in place of the ones that the settings name."""
    state = client.app.state  # type: ignore[attr-defined]  # TestClient.app is any ASGI
    state.services = replace(state.services, **changed)
