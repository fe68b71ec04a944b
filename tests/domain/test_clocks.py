"""Clocks that differ. The store's own clock cannot be shifted (its program uses no libc); ours are, the other way."""

import http.server
import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from api.domain import clocks
from api.domain.storage import Storage, StoreClockDiffers
from tests.shifted_clock import ShiftedClock
from worker.stack.embedded import environment

REPOSITORY = Path(__file__).parents[2]

PROGRAM = """
import hashlib, json, sys, urllib.request
from api.domain import clocks
from api.domain.database import make_sessions
from api.domain.environment import read_settings
from api.domain.storage import Storage

settings = read_settings()
storage = Storage(settings)
for line in sys.stdin:
    key = line.strip()
    storage.put_once(key, b"kept", hashlib.sha256(b"kept").hexdigest())
    link = urllib.request.urlopen(storage.presigned_get(key, 60, filename="a")).read()
    with make_sessions(settings)() as db:
        ahead = clocks.ahead_of_database(db)
    found = {"read": storage.read(key).decode(), "link": link.decode()}
    print(json.dumps(found | {"ahead": round(ahead), "store_ahead": round(storage.clock.ahead)}), flush=True)
"""


def test_a_program_whose_clock_is_wrong_and_steps_still_stores_reads_and_signs_links(settings, tmp_path):
    clock = ShiftedClock(tmp_path)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=REPOSITORY,
        env=environment(settings) | clock.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def work(key, shift):
        clock.shift(shift)
        program.stdin.write(f"{key}\n")
        program.stdin.flush()
        return json.loads(program.stdout.readline())

    with program:
        for number, shift in enumerate([7200, 0, -7200, 7200, 30]):
            found = work(f"references/{number}", shift)
            assert (found["read"], found["link"]) == ("kept", "kept")
            assert abs(found["ahead"] - shift) <= 2  # seconds that a busy machine takes to ask the database
            expected = -shift if abs(shift) >= clocks.TOLERANCE_SECONDS else 0
            assert abs(found["store_ahead"] - expected) <= 2  # Date has whole seconds
        program.stdin.close()


def test_what_is_off_is_said_in_one_sentence():
    assert (
        clocks.difference("the api", 7200.4, "the database") == "the clock of the api is 7200 s ahead of the database's"
    )
    assert clocks.difference("the api", -90, "the store") == "the clock of the api is 90 s behind the store's"
    assert [clocks.is_wrong(ahead) for ahead in (0, 59, -59, 60, -60)] == [False, False, False, True, True]


def test_a_store_that_hides_its_clock_and_refuses_ours_is_told(settings):
    """Nothing can be learned from its answers: they have the time of a machine before it, or none."""

    class Answer(http.server.BaseHTTPRequestHandler):
        times = 0

        def do_GET(self):
            Answer.times += 1
            body = b"<Error><Code>RequestTimeTooSkewed</Code><Message>no</Message></Error>"
            self.send_response_only(403)
            if Answer.times == 1:
                self.send_header("Date", format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        store = Storage(settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{server.server_port}"}))
        with pytest.raises(StoreClockDiffers, match="set the clocks of this machine and of the store"):
            store.read("references/a")
        server.shutdown()
    assert Answer.times == 2, "it is asked once more with the time that its answer showed"
