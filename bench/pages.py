"""Measure the latency of the dashboard's pages with 2,000 jobs and 200 concepts: `python -m bench.pages`.

It runs a real api over embedded servers and demo data. Each page is requested 30 times, one request at a time, after
one request that is not counted. It prints the 95th percentiles and exits with 1 if one is above 150 ms.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from sqlalchemy import select

from api.domain.database import make_sessions
from api.domain.keys import create
from api.domain.logs import configure_logs
from api.domain.settings import Settings
from api.domain.storage import Storage
from api.domain.tables import Job, JobState, Study, Webhook
from bench.demo_data import seed_demo_data
from migrations.run import migrate
from worker.stack.embedded import environment, local_servers

TARGET_MS = 150
TIMES = 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concepts", type=int, default=200, help="seeded concepts")
    parser.add_argument("--jobs", type=int, default=2000, help="seeded jobs")
    arguments = parser.parse_args()
    configure_logs("ERROR")
    with tempfile.TemporaryDirectory(prefix="opad-pages-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)  # as root, PostgreSQL's account must pass through
        with local_servers(Settings(home=Path(folder) / "home"), say=lambda line: None) as settings:
            return measure(settings, concepts=arguments.concepts, jobs=arguments.jobs)


def measure(settings: Settings, *, concepts: int, jobs: int) -> int:
    migrate(settings.sqlalchemy_url)
    storage, sessions = Storage(settings), make_sessions(settings)
    storage.ensure_bucket()
    with sessions.begin() as db:
        key = create(db, owner_name="admin", label="bench", scopes=["admin"])[1].text
    made = seed_demo_data(sessions, storage, owner_name="admin", concepts=concepts, jobs=jobs)
    with sessions() as db:
        job = db.scalars(select(Job.id).where(Job.state == JobState.succeeded).order_by(Job.id.desc())).first()
        hook = db.scalars(select(Webhook.id)).first()
        study = db.scalars(select(Study.id)).first()
    pages = [
        "/dashboard/sign-in",
        "/dashboard",
        "/dashboard/jobs",
        "/dashboard/jobs?state=failed&name=cat",
        f"/dashboard/jobs/{job}",
        "/dashboard/concepts",
        f"/dashboard/concepts/{made[0]}",
        "/dashboard/concepts/new",
        "/dashboard/playground",
        "/dashboard/gallery",
        "/dashboard/preference",
        "/dashboard/verify",
        "/dashboard/studies",
        f"/dashboard/studies/{study}?voter=Dana",
        f"/dashboard/studies/{study}/results",
        "/dashboard/access",
        "/dashboard/webhooks",
        f"/dashboard/webhooks/{hook}",
        "/dashboard/storage",
        "/dashboard/system",
        "/docs",
    ]
    with running_api(settings) as address, httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
        answer = client.post("/dashboard/sign-in", data={"key": key})
        assert answer.status_code == 303, answer.text
        slow = [page for page in pages if p95(client, page) > TARGET_MS]
    print(f"{len(slow)} of {len(pages)} pages over {TARGET_MS} ms")
    return 1 if slow else 0


@contextmanager
def running_api(settings: Settings) -> Iterator[str]:
    """Run the api in its own process: garbage collection of this one's large heap would slow it down."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"OPAD_PORT": str(port), "OPAD_REQUESTS_PER_MINUTE": "0", "OPAD_LOG_LEVEL": "ERROR"}
    api = subprocess.Popen([sys.executable, "-m", "api"], env={**os.environ, **environment(settings), **own})
    try:
        address = f"http://localhost:{port}"
        while not _answers(address):
            assert api.poll() is None, "the api ended by itself"
            time.sleep(0.1)
        yield address
    finally:
        api.terminate()
        api.wait()


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/healthz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def p95(client: httpx.Client, page: str) -> float:
    times = []
    for _ in range(TIMES + 1):
        began = time.perf_counter()
        client.get(page).raise_for_status()
        times.append((time.perf_counter() - began) * 1000)
    found = statistics.quantiles(times[1:], n=20)[-1]
    name = page.split("?")[0] if len(page) < 60 else page[:32]
    print(f"{found:7.1f} ms  p95   {statistics.median(times[1:]):7.1f} ms  p50   {name}")
    return found


if __name__ == "__main__":
    sys.exit(main())
