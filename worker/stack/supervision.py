"""Start processes in order, restart those that die, and stop them with the launcher."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from worker.stack.home import Account, Home, LocalError
from worker.stack.parent_death import dies_with_parent

LOG_BYTES = 10 << 20
"""A log that is larger becomes NAME.log.1, in the place of the one before."""
_ROTATION_SECONDS = 5
_NO_SPACE_SECONDS = 2.0
_REASON = "opad: "
"""How a program begins the sentence that says why it ends with status 2."""


@dataclass(frozen=True)
class Service:
    """A program that the supervisor runs."""

    name: str
    command: list[str]
    ready: Callable[[], str | None]
    """Returns a short description once the service answers, and None before. It may raise or hang: see `_Probe`."""
    environment: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    """Runs before every start, to remove stale files."""
    folder: Path | None = None
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    """Signal from the kernel when the launcher dies."""
    layer: int = 0
    """Higher layers stop first. Services of one layer stop together."""
    stop_seconds: float = 20
    start_seconds: float = 60


class _Probe:
    """One call of a service's `ready`, in a thread of its own.

    A call that raises or hangs means that the service is not ready. The supervisor must not wait for it, because the
    server behind it may be frozen while other services need a restart.
    """

    def __init__(self, ready: Callable[[], str | None]) -> None:
        self.description: str | None = None
        self.problem: str | None = None
        self._ready = ready
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def is_finished(self, *, within: float) -> bool:
        self._thread.join(within)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.description = self._ready()
        except Exception as error:  # noqa: BLE001  # from any client library; reported if never ready
            self.problem = f"{type(error).__name__}: {error}"


@dataclass
class _Running:
    service: Service
    process: subprocess.Popen[bytes]
    started: float
    log_begins: int
    """Size of the log before this start; what comes before it belongs to earlier ones."""
    is_ready: bool = False
    probe: _Probe | None = None
    problem: str | None = None
    """What went wrong in the last readiness check."""
    crashes: int = 0
    restart_at: float | None = None


class UnusableSetting(LocalError):
    """A service cannot start with its settings. The message is the service's own."""


class Interrupted(LocalError):
    """The launcher was asked to stop while a service was starting."""


class Supervisor:
    """Owns the processes. Use it from one thread that lives as long as they do, because they end with that thread."""

    def __init__(
        self,
        home: Home,
        say: Callable[[str], None],
        should_stop: Callable[[], bool] = lambda: False,
        *,
        log_bytes: int = LOG_BYTES,
    ) -> None:
        self.home = home
        self._log_bytes = log_bytes
        self._rotate_at = 0.0
        self.say = say
        self._should_stop = should_stop
        self._running: dict[str, _Running] = {}

    def start(self, *services: Service) -> None:
        """Start the services together and wait until all are ready.

        Raises LocalError with the end of a log if a service ends or takes too long, and UnusableSetting if a service
        ends because of a setting.
        """
        for service in services:
            begins = self.home.log(service.name).stat().st_size
            self._running[service.name] = _Running(service, self._launch(service), time.monotonic(), begins)
        self._record()
        waiting = [self._running[service.name] for service in services]
        while waiting := [running for running in waiting if not self._check_ready(running)]:
            for running in waiting:
                self._raise_if_failed(running)
            if self._should_stop():
                raise Interrupted("stopped before everything was ready")
            time.sleep(0.05)  # the servers do not announce when they are ready

    def _raise_if_failed(self, running: _Running) -> None:
        code, service = running.process.poll(), running.service
        waited = time.monotonic() - running.started
        if code is None and waited < service.start_seconds:
            return
        printed = self._printed(running)
        if code == 2 and printed and all(line.startswith(_REASON) for line in printed):
            raise UnusableSetting("\n".join(line.removeprefix(_REASON) for line in printed))
        what = f"was not ready after {waited:.0f} s" if code is None else f"ended with {_describe_exit(code)}"
        if running.problem is not None:
            what += f" ({running.problem})"
        end = "\n".join("  " + line for line in printed[-15:])
        raise LocalError(f"{service.name} {what}; the end of {self.home.log(service.name)}:\n{end}")

    def _printed(self, running: _Running) -> list[str]:
        """Return the lines that the service has written to its log since its first start by this launcher."""
        with self.home.log(running.service.name).open("rb") as log:
            log.seek(running.log_begins)
            return log.read().decode(errors="replace").splitlines()

    def restart_dead(self) -> None:
        """Restart the services that died, with growing delays if one keeps dying. Does not wait."""
        now = time.monotonic()
        for running in self._running.values():
            service, code = running.service, running.process.poll()
            if code is None:
                if not running.is_ready:
                    self._check_ready(running)
            elif running.restart_at is None:
                lived = now - running.started
                running.crashes = running.crashes + 1 if lived < 30 else 0
                delay = min(0.2 * 2**running.crashes, 10)
                running.restart_at = now + delay
                self.say(f"{service.name:<12} ended with {_describe_exit(code)}; starting it again")
                _kill_group(running.process.pid)
            elif now >= running.restart_at:
                try:
                    running.process = self._launch(service)
                except OSError as error:  # the machine has no space or no memory left
                    self.say(f"{service.name:<12} cannot start ({error}); trying again")
                    running.restart_at = now + _NO_SPACE_SECONDS
                    continue
                running.started, running.restart_at, running.is_ready = now, None, False
                running.probe = None  # it belonged to the previous process
                self._record()

    def run_until_stopped(self) -> None:
        """Restart what dies until `should_stop()`, which is checked five times per second."""
        while not self._should_stop():
            self.restart_dead()
            self._rotate_logs()
            time.sleep(0.2)

    def _rotate_logs(self) -> None:
        """Copy and empty the logs that are too large. What a service writes in between is lost, some lines at most."""
        if time.monotonic() < self._rotate_at:
            return
        self._rotate_at = time.monotonic() + _ROTATION_SECONDS
        for running in self._running.values():
            log = self.home.log(running.service.name)
            if log.stat().st_size > self._log_bytes:
                with contextlib.suppress(OSError):  # a full disk: the log stays as it is
                    shutil.copy(log, log.with_name(f"{log.name}.1"))
                    os.truncate(log, 0)  # the service appends, so it goes on at the beginning
                    running.log_begins = 0

    def pids(self) -> dict[str, int]:
        return {name: running.process.pid for name, running in self._running.items()}

    def stop(self) -> None:
        """Stop the layers from the highest to the lowest. A service that does not stop in time is killed."""
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
                start_new_session=True,  # Ctrl-C reaches only the launcher, which stops the services in order
            )

    def _check_ready(self, running: _Running) -> bool:
        """Return whether the service is ready. Starts a probe, or waits a moment for one that is running."""
        if running.process.poll() is not None:
            return False
        if running.probe is None:
            running.probe = _Probe(running.service.ready)
        if not running.probe.is_finished(within=0.05):
            running.problem = "the readiness check does not return"
            return False
        description, running.problem, running.probe = running.probe.description, running.probe.problem, None
        if description is not None:
            running.is_ready = True
            self.say(f"{running.service.name:<12} ready  {description}")
        return running.is_ready

    def _record(self) -> None:
        """Write down the processes. While the disk is full, the file keeps the earlier ones."""
        try:
            self.home.record(running.process.pid for running in self._running.values())
        except OSError as error:
            self.say(f"cannot write to {self.home.folder} ({error}); free space there")


def _kill_group(pid: int) -> None:
    """Kill what is left of the process group of `pid`."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        return


def _describe_exit(code: int) -> str:
    return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
