"""Mutation tests: measure how many small faults in the source the tests detect.

    python -m tests.mutants --group method --sample 200

A mutant is the source with one change by cosmic-ray: another operator, number or condition, or a decorator less. Each
mutant is tested by the tests that execute the changed statement, in a temporary copy of the repository.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage

from tests.mutant_sample import GROUPS, Group, Mutant, changed, sample, sample_of

OURS = ("api", "migrations", "opad_core", "tests", "worker")
PRELOADED = [
    "alembic.command", "boto3", "celery.app.task", "diffusers.models.autoencoders", "fastapi.testclient", "hypothesis",
    "diffusers.models.unets.unet_2d_condition", "kombu.transport.redis", "limits", "numpy", "PIL.Image", "psycopg",
    "pydantic_settings", "redis", "schemathesis.pytest.plugin", "simpy", "sqlalchemy.ext.asyncio", "structlog", "torch",
    "transformers.models.clip.modeling_clip", "transformers.models.clip.tokenization_clip", "uvicorn",
    "transformers.models.dinov2.modeling_dinov2", "transformers.models.vit.modeling_vit",
]  # fmt: skip
"""Third-party imports of the tests, which take ten seconds. They are imported once, before the processes are forked."""
LONGEST = 60.0
"""Seconds of tests for one mutant, quickest first. Tests that do not fit are left out, more of them on a busy machine.
Compare two scores only if few survivors lack tests."""
FORK = multiprocessing.get_context("fork")
"""No fork server, because its children would import this module and thus `tests` from the working tree."""


@dataclass(frozen=True)
class Copy:
    """A copy of the repository that one mutant after another is written to."""

    folder: Path
    servers: dict[str, Any]
    """Settings of servers that outlive a test session, because starting them takes longer than most tests."""


@contextlib.contextmanager
def copies(count: int) -> Iterator[list[Copy]]:
    keepers, made = [], []
    with tempfile.TemporaryDirectory(prefix="opad-mutants-") as temporary:
        try:
            for number in range(count):
                folder = copy_files(Path(temporary) / str(number))
                receiver, sender = FORK.Pipe(duplex=False)
                keepers.append(FORK.Process(target=keep_servers, args=(folder, sender)))
                keepers[-1].start()
                sender.close()
                made.append(Copy(folder, receiver.recv()))
            yield made
        finally:
            for keeper in keepers:
                os.kill(keeper.pid, signal.SIGINT)
            for keeper in keepers:
                keeper.join()


def copy_files(folder: Path) -> Path:
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], text=True)
    for name in filter(os.path.exists, listed.split("\0")[:-1]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, folder / name)
    return folder


def move_to(folder: Path, output: Path) -> None:
    """Make a forked process import everything from the copy and nothing from the working tree."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by default in a background job of a shell
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(folder)
    sys.path[0] = str(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def keep_servers(folder: Path, connection: Connection) -> None:
    """Run the servers of a copy until the parent ends. Called in a forked process."""
    parent = os.getppid()
    move_to(folder, folder / "servers.log")
    from tests.conftest import fast_folder, running_servers

    with tempfile.TemporaryDirectory(prefix="opad-test-", dir=fast_folder()) as temporary:
        Path(temporary).chmod(0o711)
        with contextlib.suppress(KeyboardInterrupt), running_servers(Path(temporary)) as settings:
            secret = {"s3_secret_key": settings.s3_secret_key.get_secret_value()}
            connection.send(settings.model_dump(mode="json", exclude_none=True) | secret)
            while os.getppid() == parent:
                time.sleep(1)


def run_tests(copy: Copy, tests: list[str], output: Path, map_file: Path | None = None) -> None:
    """Run pytest and exit with its code. Called in a forked process."""
    move_to(copy.folder, output)
    os.environ["OPAD_TEST_SERVERS"] = json.dumps(copy.servers)
    options = ["-x", "--timeout", "0", "-p", "no:cacheprovider", "-p", "no:xdist"]
    if map_file is None:
        code = pytest.main([*options, *tests])
    else:
        tracing = Tracing(copy.folder)
        code = pytest.main([*options, *tests], plugins=[tracing])
        map_file.write_text(json.dumps(tracing.map()))
    sys.stdout.flush()
    os._exit(code)  # does not wait for threads that a mutant may have left


class Tracing:
    """A pytest plugin that records the lines that each test and fixture executes, and its time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context, self.since = "", time.monotonic()
        self.seconds: dict[str, float] = {}
        self.fixtures: dict[str, list[str]] = {}
        include = [f"{folder}/{package}/*" for package in OURS if package != "tests"]
        self.coverage = Coverage(data_file=None, config_file=False, include=include, concurrency=["thread", "greenlet"])
        self.coverage.start()

    def _enter(self, context: str) -> str:
        now, left = time.monotonic(), self.context
        self.seconds[left] = self.seconds.get(left, 0.0) + now - self.since
        self.context, self.since = context, now
        self.coverage.switch_context(context)
        return left

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.fixtures[item.nodeid] = [f"fixture {name}" for name in item.fixturenames]
        self._enter(item.nodeid)
        result = yield
        self._enter("")
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        """Record a fixture of a session or module for all tests that use it, not only for the first."""
        if fixturedef.scope == "function":
            return (yield)
        outer = self._enter(f"fixture {fixturedef.argname}")
        result = yield
        self._enter(outer)
        return result

    def map(self) -> dict:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {
            str(Path(file).relative_to(self.folder)): data.contexts_by_lineno(file) for file in data.measured_files()
        }
        return {"lines": lines, "seconds": self.seconds, "fixtures": self.fixtures}


class LineMap:
    """The tests that execute each line, and their times."""

    def __init__(self, written: dict) -> None:
        self.lines, self.seconds, self.fixtures = written["lines"], written["seconds"], written["fixtures"]

    def tests_for(self, mutant: Mutant) -> tuple[list[str], int]:
        """Return the tests, quickest first, and how many slower ones are left out.

        A line that runs only at import gets all tests of the files that execute its module, because a test that reads a
        constant executes no line of it. The test file with the same name comes first.
        """
        lines = self.lines.get(mutant.file, {})
        contexts = [set(lines.get(str(number), ())) for number in range(mutant.first, mutant.last + 1)]
        here = set().union(*contexts)
        tests = self._tests(here)
        namesake = ""
        if not tests and here:
            files = {test.partition("::")[0] for test in self._tests(set().union(*lines.values()))}
            tests = {test for test in self.fixtures if test.partition("::")[0] in files}
            namesake = f"/test_{Path(mutant.file).stem}.py::"
        chosen, known, total = [], set(), 0.0
        for test in sorted(tests, key=lambda test: (namesake not in test, self._cost(test, set()), test)):
            total += self._cost(test, known)
            if total > LONGEST and chosen:
                break
            known.update(self.fixtures[test])
            chosen.append(test)
        return chosen, len(tests) - len(chosen)

    def cost(self, tests: list[str]) -> float:
        return sum(self.seconds[test] for test in tests) + sum(
            self.seconds.get(fixture, 0.0) for fixture in {fixture for test in tests for fixture in self.fixtures[test]}
        )

    def _tests(self, contexts: set[str]) -> set[str]:
        return {test for test, fixtures in self.fixtures.items() if test in contexts or contexts & set(fixtures)}

    def _cost(self, test: str, known: set[str]) -> float:
        return self.seconds[test] + sum(
            self.seconds.get(fixture, 0.0) for fixture in self.fixtures[test] if fixture not in known
        )


def map_of(group: Group, copies: list[Copy], key: str, *, until: float) -> LineMap:
    """Return the map from one run of all tests, which must pass and end by `until`. It is stored in build/mutants/."""
    file = Path("build/mutants").absolute() / f"map-{key}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        print("one run of all tests, to see which of them execute which line", file=sys.stderr)
        processes, parts = [], [file.with_name(f"{file.stem}-{number}.part") for number in range(len(copies))]
        for number, (copy, part) in enumerate(zip(copies, parts, strict=True)):
            tests = group.test_files()[number :: len(copies)]
            processes.append(FORK.Process(target=run_tests, args=(copy, tests, part.with_suffix(".log"), part)))
            processes[-1].start()
        while any(process.is_alive() for process in processes) and time.monotonic() < until:
            wait([process.sentinel for process in processes if process.is_alive()], timeout=1)
        if any(process.is_alive() for process in processes):
            for process in processes:
                stop_tests(process)
            sys.exit("the run of all tests took longer than --minutes; no mutant was tested")
        if any(process.exitcode for process in processes):
            sys.exit(f"the tests fail on the unchanged source; see {file.with_name(f'{file.stem}-*.log')}")
        file.write_text(json.dumps(merged([json.loads(part.read_text()) for part in parts])))
    return LineMap(json.loads(file.read_text()))


def merged(maps: list[dict]) -> dict:
    whole: dict = {"lines": {}, "seconds": {}, "fixtures": {}}
    for one in maps:
        for source, lines in one["lines"].items():
            for number, contexts in lines.items():
                whole["lines"].setdefault(source, {}).setdefault(number, []).extend(contexts)
        whole["seconds"] |= one["seconds"]
        whole["fixtures"] |= one["fixtures"]
    return whole


def key_of(folder: Path, group: Group) -> str:
    """Return a digest of all sources and tests except those of this tool."""
    digest = hashlib.sha256(repr(group).encode())
    for file in sorted(folder.glob("*/**/*.py")):
        if file.name not in ("mutants.py", "mutant_sample.py"):
            digest.update(f"{file.relative_to(folder)}\0{file.read_text()}\0".encode())
    return digest.hexdigest()[:16]


@dataclass
class Run:
    mutant: Mutant
    copy: Copy
    process: multiprocessing.Process
    started: float
    limit: float
    left_out: int


def write(file: Path, code: str) -> None:
    file.write_text(code)
    # the bytecode cache compares modification second and length, which two mutants may share
    Path(importlib.util.cache_from_source(file)).unlink(missing_ok=True)


def start(mutant: Mutant, copy: Copy, tests: list[str], *, limit: float, left_out: int) -> Run:
    write(copy.folder / mutant.file, mutant.code(Path(mutant.file).read_text()))
    process = FORK.Process(target=run_tests, args=(copy, tests, copy.folder / "output.log"))
    process.start()
    return Run(mutant, copy, process, time.monotonic(), limit, left_out)


def stop_tests(process: multiprocessing.Process) -> None:
    """Stop pytest and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)  # pytest cleans up
        process.join(10)
        os.killpg(process.pid, signal.SIGKILL)


def end(run: Run) -> tuple[str, str]:
    """Restore the copy. Return "killed", "timeout" or "survived", and pytest's line about the failure."""
    overdue = run.process.is_alive()
    if overdue:
        stop_tests(run.process)
    run.process.join()
    write(run.copy.folder / run.mutant.file, Path(run.mutant.file).read_text())
    if overdue:
        return "timeout", ""
    if run.process.exitcode == 0:
        return "survived", f"{run.left_out} slower tests left out" if run.left_out else ""
    failure = re.search(r"^(FAILED|ERROR) .*", (run.copy.folder / "output.log").read_text(), re.MULTILINE)
    return "killed", failure[0] if failure else f"exit code {run.process.exitcode}"


def test_all(mutants: list[Mutant], test_map: LineMap, idle: list[Copy], *, seconds: float) -> Iterator[tuple]:
    """Yield (mutant, result of `end`, seconds) for each finished mutant. Start none after `seconds`."""
    waiting, running = mutants[::-1], []
    stop = time.monotonic() + seconds
    try:
        while running or (waiting and time.monotonic() < stop):
            while waiting and idle and time.monotonic() < stop:
                mutant = waiting.pop()
                tests, left_out = test_map.tests_for(mutant)
                if tests:
                    limit = 60 + 5 * test_map.cost(tests)
                    running.append(start(mutant, idle.pop(), tests, limit=limit, left_out=left_out))
                else:
                    yield mutant, ("not executed", ""), 0.0
            wait([run.process.sentinel for run in running], timeout=1)
            for run in list(running):
                took = time.monotonic() - run.started
                if not run.process.is_alive() or took > run.limit:
                    running.remove(run)
                    idle.append(run.copy)
                    yield run.mutant, end(run), took
    finally:
        for run in running:
            end(run)


def wilson(killed: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson)."""
    z, share = 1.96, killed / total
    middle = share + z * z / (2 * total)
    half = z * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5
    return (middle - half) / (1 + z * z / total), (middle + half) / (1 + z * z / total)


def summary(results: dict[str, dict], group: str) -> str:
    with Path("tests/mutants_equivalent.toml").open("rb") as file:
        known = {(one["file"], one["before"], one["after"]) for one in tomllib.load(file).get("equivalent", [])}
    counted = {name: one for name, one in results.items() if (one["file"], one["before"], one["after"]) not in known}
    left = {name: one for name, one in counted.items() if one["status"] not in ("killed", "timeout")}
    total, killed = len(counted), len(counted) - len(left)
    low, high = wilson(killed, total) if total else (0.0, 1.0)
    parts = [f"{group}: {killed} of {total} mutants die ({100 * killed / max(1, total):.0f} %, 95 % interval "]
    parts += [f"{100 * low:.0f}-{100 * high:.0f} %), {len(results) - total} more are equivalent; "]
    for status in ("timeout", "not executed"):
        parts += [f"{status}: {sum(one['status'] == status for one in counted.values())}; "]
    parts += [f"survivors that skipped some tests: {sum(bool(one['remark']) for one in left.values())}; "]
    shown = [
        f"\n{name} ({one['status']})\n  - {one['before']}\n  + {one['after']}" for name, one in sorted(left.items())
    ]
    return "".join(parts) + "survivors:" + "".join(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", choices=GROUPS, required=True, help="part of the source to change")
    parser.add_argument("--sample", type=int, default=100, help="number of mutants")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample")
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="start no mutant after this time, and end if the run of all tests is not over",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that run tests")
    parser.add_argument("--again", type=Path, help="results of an earlier run, whose sample is used again")
    parser.add_argument("--results", type=Path, help="JSON file; an interrupted run resumes from it")
    arguments = parser.parse_args()
    began, group = time.monotonic(), GROUPS[arguments.group]

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # also ends the processes of the tests
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in PRELOADED:
        importlib.import_module(name)
    chosen = sample_of(group, arguments.again) if arguments.again else sample(group, arguments.sample, arguments.seed)
    with copies(arguments.workers) as idle:
        key = key_of(idle[0].folder, group)
        test_map = map_of(group, idle, key, until=began + 60 * arguments.minutes)
        file = arguments.results or Path(f"build/mutants/{arguments.group}.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = json.loads(file.read_text()) if file.exists() else {}
        results = kept["mutants"] if kept.get("key") == key else {}
        todo = [mutant for mutant in chosen if str(mutant) not in results]
        began_tests = time.monotonic()
        tested = test_all(todo, test_map, idle, seconds=60 * arguments.minutes - (began_tests - began))
        for number, (mutant, (status, remark), seconds) in enumerate(tested, 1):
            before, after = changed(mutant)
            one = {"file": mutant.file, "line": mutant.line, "before": before, "after": after, "status": status}
            results[str(mutant)] = one | {"remark": remark, "seconds": round(seconds, 1)}
            file.write_text(json.dumps({"key": key, "mutants": results}, indent=1))
            left = (time.monotonic() - began_tests) / number * (len(todo) - number) / 60
            print(f"{number}/{len(todo)} {status} {mutant}; {left:.0f} minutes left", file=sys.stderr)
    print(summary({str(m): results[str(m)] for m in chosen if str(m) in results}, arguments.group))


if __name__ == "__main__":
    main()
