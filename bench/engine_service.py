"""The parts of `bench.engine` with an engine in a process of its own: over HTTP on its socket, and its start."""

import asyncio
import hashlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

from api.domain.engine_answer import Generated
from api.domain.settings import Settings
from bench.engine_parts import Lab
from bench.engine_peers import scheduler_of
from bench.part_runner import Figures
from migrations.run import migrate
from opad_core import Base
from opad_core.bases.full_size import FullSizeBase
from opad_core.bases.manifest import FORMAT, hash_of, read_manifest
from opad_core.known_answers.stock_pipeline import with_shared_weights
from opad_core.networks.text_encoder import PLACEHOLDER
from worker.stack.embedded import environment, local_servers

CONCEPTS = 8
CLIENTS = 16
"""Twice the largest batch, so that a batch waits while another one is generated."""
LOADS = (0.5, 0.7, 1.0)
DEADLINE_MS = 10_000
START_SECONDS = 600.0
STARTED, COMPILED = "Application startup complete", "engine.compiled"
NOT_COMPILED = ("engine.not_compiled", "engine.not_captured")
"""Words in the lines that an engine logs when it has started, and when its networks are compiled or cannot be."""
UNUSED = "127.0.0.1:1"
"""The address of servers that no request here needs."""


class EngineProcess:
    """An engine on a socket, from its start until `stop`."""

    def __init__(self, settings: Settings, address: Path) -> None:
        self.address = address
        self._lines: list[tuple[float, str]] = []
        self._ended = False
        self._changed = threading.Condition()
        self._began = perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.inference", "--bind", f"unix:{address}"],
            cwd=Path(__file__).parents[1],
            env={**os.environ, **environment(settings), "OPAD_COMPILE": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def seconds_until(self, *words: str) -> float:
        """Wait for a line of its log with one of the words. Return the seconds from its start to that line.

        Raises RuntimeError if none comes.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._time_of(words) is not None, timeout=START_SECONDS)
            seconds = self._time_of(words)
            if seconds is None:
                last = "\n".join(line for _, line in self._lines[-20:])
                raise RuntimeError(f"the engine did not log {' or '.join(words)}; its last lines:\n{last}")
            return seconds

    def seconds_until_ready(self) -> float:
        """Wait until it accepts connections, which uvicorn does a moment after the line that its start is complete."""
        self.seconds_until(STARTED)
        with socket.socket(socket.AF_UNIX) as probe:
            while not self._ended and probe.connect_ex(str(self.address)):
                time.sleep(0.001)
        return perf_counter() - self._began

    def seconds_until_compiled(self) -> float:
        """Wait until it runs compiled networks. Raises RuntimeError with its reason if it cannot."""
        seconds = self.seconds_until(COMPILED, *NOT_COMPILED)
        with self._changed:
            for _, line in self._lines:
                if any(words in line for words in NOT_COMPILED):
                    raise RuntimeError(line)
        return seconds

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()

    def _time_of(self, words: Iterable[str]) -> float | None:
        return next((seconds for seconds, line in self._lines if any(each in line for each in words)), None)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._lines.append((perf_counter() - self._began, line.rstrip()))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@dataclass
class Phase:
    """What a load got as answers."""

    latencies_ms: list[float] = field(default_factory=list)
    own_ms: list[float] = field(default_factory=list)
    """The engine's own time for each answer: queue, text, networks and encoding."""
    refused: int = 0
    seconds: float = 0.0

    def figures(self) -> Figures:
        cuts = statistics.quantiles(self.latencies_ms, n=100, method="inclusive")
        outside = [latency - own for latency, own in zip(self.latencies_ms, self.own_ms, strict=True)]
        return {
            "images_per_s": len(self.latencies_ms) / self.seconds,
            "p50_ms": cuts[49],
            "p99_ms": cuts[98],
            "p99_over_p50": cuts[98] / cuts[49],
            "engine_p50_ms": statistics.median(self.own_ms),
            "p50_outside_the_engine_ms": statistics.median(outside),
            "refused": self.refused,
        }


class Client:
    """Requests images of random concepts over a unix socket, on connections that stay open."""

    def __init__(self, address: Path, bodies: list[dict[str, object]]) -> None:
        self._address, self._bodies, self._random = address, bodies, random.Random(0)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def warm(self) -> None:
        """Request every image once, which fills the caches."""
        for body in self._bodies:
            await self._request(Phase(), body)

    async def alone(self, seconds: float) -> Phase:
        """Send each request after the answer to the last one."""
        return await self._closed_loop(1, seconds)

    async def capacity(self, seconds: float) -> Phase:
        return await self._closed_loop(CLIENTS, seconds)

    async def at_rate(self, per_second: float, seconds: float) -> Phase:
        """Send requests at random times (a Poisson process) without waiting for answers."""
        phase, gaps, began, due = Phase(), random.Random(1), perf_counter(), 0.0
        sent: list[asyncio.Task[None]] = []
        while (due := due + gaps.expovariate(per_second)) < seconds or len(sent) < 2:
            await asyncio.sleep(max(0.0, began + due - perf_counter()))
            sent.append(asyncio.create_task(self._request_any(phase)))
        await asyncio.gather(*sent)
        phase.seconds = perf_counter() - began
        return phase

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()

    async def _closed_loop(self, clients: int, seconds: float) -> Phase:
        phase, began = Phase(), perf_counter()

        async def one() -> None:
            await self._request_any(phase)
            await self._request_any(phase)
            while perf_counter() - began < seconds:
                await self._request_any(phase)

        await asyncio.gather(*(one() for _ in range(clients)))
        phase.seconds = perf_counter() - began
        return phase

    async def _request_any(self, phase: Phase) -> None:
        await self._request(phase, self._random.choice(self._bodies))

    async def _request(self, phase: Phase, body: dict[str, object]) -> None:
        content = json.dumps({**body, "seeds": [self._random.randrange(2**32)]}).encode()
        began = perf_counter()
        if self._idle and not self._idle[-1][0].at_eof():
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_unix_connection(str(self._address))
        writer.write(
            b"POST /generate HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(content), content)
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        answer = await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        latency = 1000 * (perf_counter() - began)
        self._idle.append((reader, writer))
        status = int(head[9:12])
        if status == 503:
            phase.refused += 1
        elif status == 200:
            phase.latencies_ms.append(latency)
            phase.own_ms.append(own_ms(answer))
        else:
            raise RuntimeError(f"the engine answered {status}: {answer[:300]!r}")


def own_ms(answer: bytes) -> float:
    """Return the engine's own time from its answer."""
    return sum(Generated.unpack(answer).timing.values())


def http(lab: Lab) -> Iterator[Figures]:
    """Measure `/generate` on the socket of a compiled engine: one client alone, the capacity, and shares of it."""
    with engine_settings(lab) as settings:
        bodies = [
            {
                "bundle": {"key": "bench", "sha256": sha256},
                "prompt": scene.format(PLACEHOLDER),
                "format": "jpeg",
                "deadline_ms": DEADLINE_MS,
            }
            for sha256 in stored_concepts(lab, settings)
            for scene in lab.base.manifest.scene_prompts[:4]
        ]
        engine = EngineProcess(settings, lab.folder / "engine.sock")
        try:
            engine.seconds_until_ready()
            engine.seconds_until_compiled()
            yield from _measured(Client(engine.address, bodies), lab.effort.seconds)
        finally:
            engine.stop()


def _measured(client: Client, seconds: float) -> Iterator[Figures]:
    with asyncio.Runner() as runner:
        runner.run(client.warm())
        yield {"what": "one client"} | runner.run(client.alone(seconds / 2)).figures()
        capacity = runner.run(client.capacity(seconds)).figures()
        yield {"what": f"{CLIENTS} clients, the capacity"} | capacity
        for load in LOADS:
            rate = load * capacity["images_per_s"]
            phase = runner.run(client.at_rate(rate, seconds))
            yield {"what": f"{load:.0%} of the capacity", "offered_per_s": rate} | phase.figures()
        client.close()


def start(lab: Lab) -> Iterator[Figures]:
    """Measure an engine's start with an empty cache of compiled networks, and its second start."""
    with engine_settings(lab) as settings:
        shutil.rmtree(settings.home / "cache", ignore_errors=True)
        for what in ("first start", "second start"):
            engine = EngineProcess(settings, lab.folder / "engine.sock")
            try:
                yield {"what": what, "ready_s": engine.seconds_until_ready()}
                yield {"what": what, "compiled_s": engine.seconds_until_compiled()}
            finally:
                engine.stop()


@contextmanager
def engine_settings(lab: Lab) -> Iterator[Settings]:
    """Run a database, and yield the settings of an engine with the lab's base and an empty data folder."""
    with database(lab.folder) as settings:
        yield settings.model_copy(
            update={
                "base": str(folder_of(lab.base, lab.folder / "written")),
                "device": str(lab.base.device),
                "precision": lab.precision,
            }
        )


@contextmanager
def database(folder: Path) -> Iterator[Settings]:
    """Run a database below `folder`, and yield the settings of an engine with an empty data folder."""
    servers = Settings(home=folder / "servers", redis_url=f"redis://{UNUSED}", s3_endpoint=f"http://{UNUSED}")
    with local_servers(servers, say=lambda line: None, durable=False) as settings:
        migrate(settings.sqlalchemy_url)
        yield settings.model_copy(update={"home": folder / "home"})


def stored_concepts(lab: Lab, settings: Settings) -> list[str]:
    """Write concepts to the engine's cache of bundles, so that it needs no object store. Return their hashes."""
    cache = settings.home / "cache" / "bundles"
    cache.mkdir(parents=True, exist_ok=True)
    base_sha256, hashes = read_manifest(Path(settings.base)).sha256, []
    for seed in range(CONCEPTS):
        data = lab.bundle_bytes(seed, base_sha256=base_sha256)
        hashes.append(hashlib.sha256(data).hexdigest())
        (cache / f"{hashes[-1]}.safetensors").write_bytes(data)
    return hashes


def folder_of(base: Base, folder: Path) -> Path:
    """Return a base's folder. Random weights are in memory only, so they are written to `folder` first."""
    if not isinstance(base, FullSizeBase):
        return base.folder
    if not folder.exists():
        write_engine_parts(base, folder)
    return folder


def write_engine_parts(base: Base, folder: Path) -> None:
    """Write a base with the parts that an engine reads: without teacher, feature networks and projections."""
    encoder = with_shared_weights(base.text.encoder)
    encoder.resize_token_embeddings(len(base.text.tokenizer))  # a stand-in tokenizer knows fewer words
    for name, part in {
        "student/unet": base.student.unet,
        "student/scheduler": scheduler_of(base),
        "vae": base.vae,
        "text_encoder": encoder,
        "tokenizer": base.text.tokenizer,
    }.items():
        part.save_pretrained(folder / name)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {str(path.relative_to(folder)): hash_of(path) for path in paths}
    manifest = asdict(base.manifest) | {"format": FORMAT, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
