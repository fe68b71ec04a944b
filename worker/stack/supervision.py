"""Processes that start in order, come back when they die, and never outlive the launcher."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from worker.stack.home import Account, Home, LocalError
from worker.stack.parent_death import dies_with_parent


@dataclass(frozen=True)
class Service:
    """One program of the stack and how to tell that it works."""

    name: str
    command: list[str]
    ready: Callable[[], str | None]
    """A few words once it answers, None while it does not. It may raise or hang: see `_Probe`."""
    environment: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    """Run before every start; takes stale files out of the way."""
    folder: Path | None = None
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends it when the launcher dies."""
    layer: int = 0
    """Higher layers stop first; services of one layer stop together."""
    stop_seconds: float = 20
    start_seconds: float = 60


class _Probe:
    """One question whether a service is ready, asked in a thread of its own.

    A service that cannot be judged is not ready yet, whatever the question raised and however long it hangs: a server
    that another service needs may be dead or frozen at that moment, and the supervisor has the others to tend.
    """

    def __init__(self, ready: Callable[[], str | None]) -> None:
        self.words: str | None = None
        self.trouble: str | None = None
        self._ready = ready
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def is_answered(self, *, within: float) -> bool:
        self._thread.join(within)
        return not self._thread.is_alive()

    def _ask(self) -> None:
        try:
            self.words = self._ready()
        except Exception as error:  # noqa: BLE001  # of any client library; it is told if the service never gets ready
            self.trouble = f"{type(error).__name__}: {error}"


@dataclass
class _Running:
    service: Service
    process: subprocess.Popen[bytes]
    started: float
    is_ready: bool = False
    probe: _Probe | None = None
    trouble: str | None = None
    """What the last question whether it is ready ended with, if it could not be answered."""
    quick_deaths: int = 0
    start_again_at: float | None = None


class Interrupted(LocalError):
    """Asked to stop while a service was starting."""


class Supervisor:
    """Owns the processes. Use it from one thread that lives as long as they do: their lives hang on that thread."""

    def __init__(self, home: Home, say: Callable[[str], None], should_stop: Callable[[], bool] = lambda: False) -> None:
        self.home = home
        self.say = say
        self._should_stop = should_stop
        self._running: dict[str, _Running] = {}

    def start(self, *services: Service) -> None:
        """Start them together and wait until all are ready. Raises LocalError with the end of a log if one is not to
        be."""
        for service in services:
            self._running[service.name] = _Running(service, self._launch(service), time.monotonic())
        self._record()
        waiting = [self._running[service.name] for service in services]
        while waiting := [running for running in waiting if not self._check_ready(running)]:
            for running in waiting:
                self._explain_failure(running)
            if self._should_stop():
                raise Interrupted("stopped before everything was ready")
            time.sleep(0.05)  # a foreign server says nothing when it becomes ready

    def _explain_failure(self, running: _Running) -> None:
        code, service = running.process.poll(), running.service
        waited = time.monotonic() - running.started
        if code is None and waited < service.start_seconds:
            return
        what = f"was not ready after {waited:.0f} s" if code is None else f"ended with {_describe_exit(code)}"
        if running.trouble is not None:
            what += f" ({running.trouble})"
        log = self.home.log(service.name)
        raise LocalError(f"{service.name} {what}; the end of {log}:\n{_tail(log)}")

    def restart_dead(self) -> None:
        """Notice what died and start it again, later and later if it keeps dying. Returns at once."""
        now = time.monotonic()
        for running in self._running.values():
            service, code = running.service, running.process.poll()
            if code is None:
                if not running.is_ready:
                    self._check_ready(running)
            elif running.start_again_at is None:
                lived = now - running.started
                running.quick_deaths = running.quick_deaths + 1 if lived < 30 else 0
                delay = min(0.2 * 2**running.quick_deaths, 10)
                running.start_again_at = now + delay
                self.say(f"{service.name:<12} ended with {_describe_exit(code)}; starting it again")
                _kill_group(running.process.pid)
            elif now >= running.start_again_at:
                running.process = self._launch(service)
                running.started, running.start_again_at, running.is_ready = now, None, False
                running.probe = None  # of the process before
                self._record()

    def run_until_stopped(self) -> None:
        """Tend a few times a second until `should_stop()`."""
        while not self._should_stop():
            self.restart_dead()
            time.sleep(0.2)

    def pids(self) -> dict[str, int]:
        return {name: running.process.pid for name, running in self._running.items()}

    def stop(self) -> None:
        """Highest layer first; within a layer together. What does not stop in time is killed, with its children."""
        for layer in sorted({running.service.layer for running in self._running.values()}, reverse=True):
            stopping = [running for running in self._running.values() if running.service.layer == layer]
            for running in stopping:
                if running.process.poll() is None:
                    running.process.send_signal(running.service.stop_signal)
            started = time.monotonic()
            for running in stopping:
                left = started + running.service.stop_seconds - time.monotonic()
                try:
                    running.process.wait(max(left, 0.1))
                except subprocess.TimeoutExpired:
                    self.say(f"{running.service.name:<12} did not stop in {running.service.stop_seconds:.0f} s; killed")
                _kill_group(running.process.pid)
                running.process.wait()
        self._running.clear()

    def _launch(self, service: Service) -> subprocess.Popen[bytes]:
        service.prepare()
        with self.home.log(service.name).open("ab") as log:
            return subprocess.Popen(
                dies_with_parent(
                    *service.command, death_signal=service.death_signal, account=str(service.account or "")
                ),
                cwd=service.folder,
                env={**os.environ, **service.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal reaches the launcher alone, which stops in order
            )

    def _check_ready(self, running: _Running) -> bool:
        """Ask whether it is ready, or wait a moment for the answer to an earlier question."""
        if running.process.poll() is not None:
            return False
        if running.probe is None:
            running.probe = _Probe(running.service.ready)
        if not running.probe.is_answered(within=0.05):
            running.trouble = "whether it is ready is not answered"
            return False
        words, running.trouble, running.probe = running.probe.words, running.probe.trouble, None
        if words is not None:
            running.is_ready = True
            self.say(f"{running.service.name:<12} ready  {words}")
        return running.is_ready

    def _record(self) -> None:
        self.home.record(running.process.pid for running in self._running.values())


def _kill_group(pid: int) -> None:
    """SIGKILL for whatever is left of the session that `pid` led."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        return


def _describe_exit(code: int) -> str:
    return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join("  " + line for line in log.read_text(errors="replace").splitlines()[-lines:])
