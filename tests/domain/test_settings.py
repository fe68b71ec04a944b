import pytest
from pydantic import ValidationError

from api.domain.settings import Settings


def test_a_lease_shorter_than_two_heartbeats_is_refused(monkeypatch):
    monkeypatch.setenv("OPAD_LEASE_SECONDS", "15")
    with pytest.raises(ValidationError, match="OPAD_LEASE_SECONDS=15 is too short for OPAD_HEARTBEAT_SECONDS=10"):
        Settings()


def test_a_missing_database_address_is_named(monkeypatch):
    monkeypatch.delenv("OPAD_DATABASE_URL", raising=False)
    with pytest.raises(ValueError, match="OPAD_DATABASE_URL is not set"):
        _ = Settings(_env_file=None).sqlalchemy_url
