"""The bad inputs that docs/security.md lists, each against the real service, its database and its object store."""

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
    """How many bytes this process, and with it the api, has grown since the test began."""
    before = psutil.Process().memory_info().rss
    return lambda: psutil.Process().memory_info().rss - before
