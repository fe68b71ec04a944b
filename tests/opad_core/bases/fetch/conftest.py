import shutil

import pytest

from tests.hub_mirror import write_mirror


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    return write_mirror(tmp_path_factory.mktemp("mirror"))


@pytest.fixture
def mirror(published, tmp_path):
    """A copy that a test may modify."""
    return shutil.copytree(published, tmp_path / "mirror")


@pytest.fixture
def bases(tmp_path, monkeypatch):
    """The folder of fetched bases, empty."""
    monkeypatch.setenv("OPAD_BASES_DIR", str(tmp_path / "bases"))
    return tmp_path / "bases"
