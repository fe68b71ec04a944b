"""Fixtures for the bad inputs of docs/security.md, against the real service, its database and its object store."""

import psutil
import pytest

from tests.api.conftest import (  # noqa: F401  pytest finds fixtures by their names here
    anonymous,
    api_settings,
    base,
    client,
    concept,
    new_key,
    served,
    server,
    sessions,
    set_job,
    stored,
    upload,
)
from tests.api.engine.conftest import base_folder, bundle  # noqa: F401

NOTHING = {"concept": 0, "job": 0, "reference": 0, "objects": 0}


@pytest.fixture
def resident_growth():
    """Return by how many bytes this process, which runs the api, has grown during the test."""
    before = psutil.Process().memory_info().rss
    return lambda: psutil.Process().memory_info().rss - before
