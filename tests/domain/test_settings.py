import pytest
from pydantic import ValidationError

from api.domain.settings import Settings
from opad_core.reference_images import MAX_REFERENCES, MIN_REFERENCES


def test_a_lease_shorter_than_two_heartbeats_is_refused(monkeypatch):
    monkeypatch.setenv("OPAD_LEASE_SECONDS", "15")
    with pytest.raises(ValidationError, match="OPAD_LEASE_SECONDS=15 is too short for OPAD_HEARTBEAT_SECONDS=10"):
        Settings()


@pytest.mark.parametrize(("least", "most"), [(6, 5), (0, 5), (3, 101)])
def test_numbers_of_references_that_are_no_range_within_1_to_100_are_refused(monkeypatch, least, most):
    monkeypatch.setenv("OPAD_MIN_REFERENCES", str(least))
    monkeypatch.setenv("OPAD_MAX_REFERENCES", str(most))
    sentence = f"OPAD_MIN_REFERENCES={least} and OPAD_MAX_REFERENCES={most} are not a range within 1-100"
    with pytest.raises(ValidationError, match=sentence):
        Settings()


def test_a_service_can_be_widened_to_all_that_the_method_takes():
    widest = Settings(min_references=MIN_REFERENCES, max_references=MAX_REFERENCES)
    with pytest.raises(ValidationError):
        Settings(max_references=MAX_REFERENCES + 1)
    assert widest.reference_count("photo") == "1-100 photos"


@pytest.mark.parametrize(
    ("least", "most", "words"), [(3, 5, "3-5 photos"), (4, 4, "4 photos"), (1, 8, "1-8 photos"), (1, 1, "1 photo")]
)
def test_the_number_of_references_in_words(least, most, words):
    assert Settings(min_references=least, max_references=most).reference_count("photo") == words


def test_a_missing_database_address_is_named(monkeypatch):
    monkeypatch.delenv("OPAD_DATABASE_URL", raising=False)
    with pytest.raises(ValueError, match="OPAD_DATABASE_URL is not set"):
        _ = Settings(_env_file=None).sqlalchemy_url
