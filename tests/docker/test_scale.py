"""Two trainers and two engines from the same compose file. No job runs twice, and one engine may die under load."""

import threading
from collections.abc import Iterator

import pytest

from tests.docker.stack import Stack, eventually

JOBS = 8


@pytest.fixture(scope="module")
def pair(stack: Stack) -> Iterator[Stack]:
    stack.up(trainer=2, engine=2)
    yield stack
    stack.up(trainer=1, engine=1)


@pytest.fixture(scope="module")
def jobs(pair: Stack) -> list[dict]:
    """Queue eight small jobs at once and wait for their ends."""
    queued = [pair.learn(f"toy {n}", iterations=3) for n in range(JOBS)]
    return [
        eventually(lambda j=job["id"]: pair.job(j)["finished_at"] and pair.job(j), what="end of a job", seconds=600)
        for job in queued
    ]


@pytest.mark.timeout(900)
def test_two_trainers_share_the_jobs_and_do_none_twice(pair: Stack, jobs: list[dict]) -> None:
    assert [job["state"] for job in jobs] == ["succeeded"] * JOBS
    workers = []
    for job in jobs:
        attempts = pair.client.get(f"/v1/jobs/{job['id']}/attempts").json()["items"]
        assert len(attempts) == 1, attempts
        workers.append(attempts[0]["worker"])
    assert len(set(workers)) == 2, workers


def drawn_by(stack: Stack) -> dict[str, int]:
    """Return the number of images that each engine counts."""
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8100/metrics').read().decode())"
    counted = {}
    for name in stack.running("engine"):
        lines = stack.exec(name, "python", "-c", ask).splitlines()
        (total,) = [line.split()[1] for line in lines if line.startswith("opad_engine_batch_size_sum")]
        counted[name] = int(float(total))
    return counted


def test_both_engines_serve_and_a_concept_stays_with_one(pair: Stack, jobs: list[dict]) -> None:
    before = drawn_by(pair)
    for n in range(JOBS):
        assert pair.draw(f"toy {n}").status_code == 200
    shares = {name: count - before[name] for name, count in drawn_by(pair).items()}
    assert sum(shares.values()) == JOBS
    assert min(shares.values()) > 0, shares  # all eight on one engine would be a chance of 1 in 128
    before = drawn_by(pair)
    for seed in range(4):
        assert pair.draw("toy 0", seed=seed).status_code == 200
    assert sorted(count - before[name] for name, count in drawn_by(pair).items()) == [0, 4]


@pytest.mark.timeout(600)
def test_an_engine_that_dies_under_load_costs_no_request(pair: Stack, jobs: list[dict]) -> None:
    answers: list[int] = []
    over = threading.Event()

    def ask(number: int) -> None:
        while not over.is_set():
            answers.append(pair.draw(f"toy {number}", seed=len(answers)).status_code)

    clients = [threading.Thread(target=ask, args=(n,)) for n in range(JOBS)]
    for client in clients:
        client.start()
    try:
        eventually(lambda: len(answers) >= 2 * JOBS, what="load")
        before = pair.compose("logs", "api").count("engine.unreachable")
        pair.kill(next(iter(pair.running("engine"))))
        so_far = len(answers)
        eventually(lambda: len(answers) >= so_far + 6 * JOBS, what="load after the death")
    finally:
        over.set()
        for client in clients:
            client.join()
    retries = pair.compose("logs", "api").count("engine.unreachable") - before
    print(f"{len(answers)} images, {retries} second tries")
    assert set(answers) == {200}
    assert 0 < retries < len(answers) - so_far + JOBS
    pair.wait_healthy()
