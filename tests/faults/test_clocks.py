"""A service whose clocks differ by hours works, and says whose clock is wrong.

The clocks of the api, the trainer host and its trainer are shifted. That of SeaweedFS, a static program, cannot be, and
PostgreSQL keeps its own: shifting the others makes the same difference.
"""

import re

import httpx
import pytest
from sqlalchemy import select

from api.domain.tables import Heartbeat
from tests.api.reference_images import reference
from tests.job_life import wait_for_end
from tests.shifted_clock import ShiftedClock

pytestmark = [pytest.mark.timeout(300), pytest.mark.fault]
FILES = [("images", (f"{number}.jpg", reference(number), "image/jpeg")) for number in range(3)]


@pytest.fixture
def clock(tmp_path, monkeypatch):
    """Shift the clocks of programs that the test starts."""
    shifted = ShiftedClock(tmp_path)
    for name, value in shifted.environment.items():
        monkeypatch.setenv(name, value)
    return shifted


@pytest.mark.always
def test_an_api_whose_clock_is_hours_off_and_steps_works_and_says_so(clock, start_api, admin_key, api_settings):
    clock.shift(7200)
    start_api()
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{api_settings.port}", headers={"Authorization": f"Bearer {admin_key}"}, timeout=60
    )
    told = {
        7200: [
            "the clock of the api is 7200 s ahead of the database's; set it",
            "the clock of the object store is 7200 s behind the api's; set it",
        ],
        -7200: [
            "the clock of the api is 7200 s behind the database's; set it",
            "the clock of the object store is 7200 s ahead of the api's; set it",
        ],
        0: [],
    }
    for shift, sentences in told.items():
        clock.shift(shift)
        data = {"name": f"mug {shift}", "class_noun": "mug", "consent": "true"}
        assert client.post("/v1/concepts", files=FILES, data=data).status_code == 202
        ready = client.get("/readyz").json()
        assert ready["parts"]["storage"] == "ok"
        # the store's Date has whole seconds, so the difference may be off by one or two
        assert [re.sub("719[89]|720[12]", "7200", sentence) for sentence in ready["clocks"]] == sentences


def test_a_trainer_host_whose_clock_is_hours_off_learns_the_concept_and_is_named(
    clock, quick, sessions, queue, start_process, check
):
    clock.shift(-7200)
    start_process(quick, "worker.host")
    assert wait_for_end(sessions, queue()).error_code is None
    check()
    with sessions() as db:
        [facts] = db.scalars(select(Heartbeat.facts))
    assert abs(facts["clock_ahead"] + 7200) < 2  # seconds that a busy machine takes to ask the database
