"""A machine whose clock is hours off and steps, as after a boot without a battery: everything of `opad up` goes along.

Only SeaweedFS keeps the right time, because its programs are static. That is one more difference to live with.
"""

import re

import httpx
import pytest

from tests.e2e.service import client_of, post_concept
from tests.e2e.test_main_job import wait_for_job
from tests.launcher.conftest import Lines, settings_for
from tests.shifted_clock import ShiftedClock
from worker.stack.launcher import local_stack

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


@pytest.fixture
def clock(short_folder, monkeypatch):
    folder = short_folder / "clock"
    folder.mkdir(mode=0o755)
    shifted = ShiftedClock(folder)
    for name, value in shifted.environment.items():
        monkeypatch.setenv(name, value)
    return shifted


def test_a_stack_whose_clock_is_hours_off_and_steps_learns_and_generates(clock, short_folder, base):
    clock.shift(7200)
    with (
        local_stack(settings_for(short_folder / "shifted", base), say=Lines()) as running,
        client_of(running) as client,
    ):
        for shift, said in ((7200, "7200 s behind the api's"), (-7200, "7200 s ahead of the api's"), (0, None)):
            clock.shift(shift)
            name = f"mug {shift}"
            wait_for_job(client, post_concept(client, name, iterations=1)["id"], "succeeded")
            assert client.post("/v1/generate", json={"concept": name, "prompt": "<concept>", "seed": 3}).is_success
            clocks = httpx.get(f"{running.api_url}/readyz", timeout=10).json()["clocks"]
            # the store's Date has whole seconds, so the difference may be off by one or two
            found = [re.sub("719[89]|720[12]", "7200", sentence) for sentence in clocks]
            assert found == ([f"the clock of the object store is {said}; set it"] if said else [])
