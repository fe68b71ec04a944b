"""Measure the service below its capacity, at it, and at three times the capacity: `python bench/load.py`.

It starts `opad up` on a new folder with 32 artificial concepts on the nano base and waits until the engine has compiled
its networks. First it measures the latency of one client that sends one request after another, then the capacity: the
images per second with 48 such clients. Then it sends requests at 0.5, 0.7, 1 and 3 times the capacity without waiting
for responses, and continues until 5,000 were sent, to see how the memory of api and engine grows. Concepts are chosen
by Zipf's law (exponent 1.1), with a new seed for each request. `HTTP` is the median latency without the engine's own
work. The client runs on the same machine; the CPU time that it takes from the service is reported. The program prints a
table and writes JSON, which `python -m bench.simulate --load` compares with its prediction.
"""

import argparse
import asyncio
import hashlib
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate, product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import torch
from sqlalchemy import select
from torch import nn
from uuid_utils.compat import uuid7

from api.domain.database import make_sessions
from api.domain.engine_level import running_engines
from api.domain.keys import ADMIN_OWNER
from api.domain.settings import Settings
from api.domain.storage import Storage, bundle_key
from api.domain.tables import Bundle, Concept, Job, JobState, Owner
from opad_core import load_base, write_bundle
from opad_core.adapters.key_value import KeyValueAdapter, pretrained_projections
from worker.stack.home import published_environment
from worker.stack.launcher import RunningStack, local_stack

CONCEPTS, ZIPF = 32, 1.1
CLIENTS = 48
FACTORS = (0.5, 0.7, 1.0, 3.0)
SCENES = ["on the beach", "in the snow", "in the forest", "on a table", "in the city", "in the rain"]
GOAL_GOODPUT, GOAL_RSS_GROWTH = 0.95, 0.02
COMPILING_SECONDS = 600


@dataclass
class Phase:
    name: str
    offered_per_s: float | None
    sending_s: float = 0.0
    seconds: float = 0.0
    """Time until the last response."""
    answers: Counter[str] = field(default_factory=Counter)
    """Number of responses by kind: "200", "503 with Retry-After", and others, which are errors."""
    client_cpu_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    """Latencies of the successful responses."""
    model_ms: list[float] = field(default_factory=list)
    """Time of the model thread for the batch of each image, from its response."""
    overhead_ms: list[float] = field(default_factory=list)
    """Latency of each image without the engine's own work, encoding included."""

    @property
    def goodput_per_s(self) -> float:
        return self.answers["200"] / self.seconds

    @property
    def errors(self) -> int:
        return self.answers.total() - self.answers["200"] - self.answers["503 with Retry-After"]

    def summary(self) -> dict[str, Any]:
        cuts = statistics.quantiles(self.latencies_ms, n=100) if len(self.latencies_ms) > 1 else [0.0] * 99
        return {
            "phase": self.name,
            "offered_per_s": self.offered_per_s and round(self.offered_per_s, 2),
            "goodput_per_s": round(self.goodput_per_s, 2),
            "sending_s": round(self.sending_s, 1),
            "seconds": round(self.seconds, 1),
            "client_cpu": round(self.client_cpu_s / self.seconds, 4),
            "answers": dict(self.answers),
            "errors": self.errors,
            **{f"p{p}_ms": round(cuts[p - 1], 1) for p in (50, 95, 99)},
            "model_p50_ms": round(statistics.median(self.model_ms or [0.0]), 1),
            "overhead_p50_ms": round(statistics.median(self.overhead_ms or [0.0]), 2),
        }


class Client:
    """An HTTP/1.1 client with keep-alive on plain sockets.

    It shares the machine with the service, and a general library would use as much CPU as an api that refuses requests.
    """

    def __init__(self, url: str, key: str, concept_ids: list[str]) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._key, self._concept_ids = key, concept_ids
        self._weights = list(accumulate(1 / rank**ZIPF for rank in range(1, len(concept_ids) + 1)))
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._random = random.Random(0)

    async def request_random_image(self, phase: Phase) -> None:
        chosen = self._random.choices(self._concept_ids, cum_weights=self._weights)[0]
        await self.request_image(phase, chosen, self._random.choice(SCENES))

    async def request_image(self, phase: Phase, concept_id: str, scene: str) -> None:
        began = time.perf_counter()
        try:
            status, head = await self._post(concept_id, scene)
        except (OSError, asyncio.IncompleteReadError) as error:
            phase.answers[type(error).__name__] += 1
            return
        if status == 200:
            parts = {name: float(ms) for name, ms in re.findall(rb"(\w+);dur=([\d.]+)", head)}
            phase.latencies_ms.append((time.perf_counter() - began) * 1000)
            phase.model_ms.append(parts[b"text"] + parts[b"unet_decode"])
            of_engine = sum(parts[name] for name in (b"queue", b"bundle", b"text", b"unet_decode", b"encode"))
            phase.overhead_ms.append(phase.latencies_ms[-1] - of_engine)
        can_wait = status == 503 and b"\r\nretry-after: " in head
        phase.answers["503 with Retry-After" if can_wait else str(status)] += 1

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()

    async def _post(self, concept_id: str, scene: str) -> tuple[int, bytes]:
        """Send a request and return the status and the headers in lower case."""
        fields = {"concept_id": concept_id, "prompt": f"a photo of <concept> {scene}"}
        body = json.dumps({**fields, "seed": self._random.randrange(2**32)}).encode()
        reader, writer = await self._connection()
        writer.write(
            f"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._key}\r\n"
            f"Accept: image/jpeg\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        if b"connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head[9:12]), head

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return an open idle connection or a new one. The service closes idle ones after five seconds."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._address)


async def closed_loop(client: Client, phase: Phase, *, clients: int, should_continue: Callable[[], bool]) -> Phase:
    """Run `clients` that each send the next request after the response to the last one."""

    async def one() -> None:
        while should_continue():
            await client.request_random_image(phase)

    began, cpu_before = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one() for _ in range(clients)))
    phase.seconds, phase.client_cpu_s = time.perf_counter() - began, time.process_time() - cpu_before
    return phase


async def open_loop(client: Client, phase: Phase, *, seconds: float) -> Phase:
    """Send requests at random times without waiting for responses. Responses after `seconds` count, with their time."""
    assert phase.offered_per_s is not None
    gaps, began, cpu_before, due = random.Random(1), time.perf_counter(), time.process_time(), 0.0
    sent: list[asyncio.Task[None]] = []
    while (due := due + gaps.expovariate(phase.offered_per_s)) < seconds:
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        sent.append(asyncio.create_task(client.request_random_image(phase)))
    phase.sending_s = seconds
    await asyncio.gather(*sent)
    phase.seconds, phase.client_cpu_s = time.perf_counter() - began, time.process_time() - cpu_before
    return phase


async def measure(running: RunningStack, concept_ids: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    client = Client(running.api_url, running.admin_key, concept_ids)
    for concept_id, scene in product(concept_ids, SCENES):  # fills the caches, whose growth is no leak
        await client.request_image(Phase("warm", None), concept_id, scene)
    await closed_loop(client, Phase("warm", None), clients=CLIENTS, should_continue=_for(arguments.seconds / 2))
    memory = {"begin": resident_bytes(running)}
    alone = await closed_loop(client, Phase("alone", None), clients=1, should_continue=_for(arguments.seconds / 2))
    capacity = await closed_loop(
        client, Phase("capacity", None), clients=CLIENTS, should_continue=_for(arguments.seconds)
    )
    phases = [alone, capacity]
    for factor in FACTORS:
        phase = Phase(f"{factor:g}x", factor * capacity.goodput_per_s)
        phases.append(await open_loop(client, phase, seconds=arguments.seconds))
    missing = arguments.requests - sum(phase.answers.total() for phase in phases)
    if missing > 0:
        on = Phase("on at 3x", FACTORS[-1] * capacity.goodput_per_s)
        phases.append(await open_loop(client, on, seconds=missing / (FACTORS[-1] * capacity.goodput_per_s)))
    memory["end"] = resident_bytes(running)
    await client.close()
    return {"phases": [phase.summary() for phase in phases], "resident_bytes": memory}


def _for(seconds: float) -> Callable[[], bool]:
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() < end


def resident_bytes(running: RunningStack) -> dict[str, int]:
    found = {}
    for process in psutil.Process(running.pid).children(recursive=True):
        words = " ".join(process.cmdline())
        for name, module in (("api", "-m api"), ("engine", "-m worker.inference")):
            if words.endswith(module) or f"{module} " in words:
                found[name] = process.memory_info().rss
    return found


def make_concepts(settings: Settings) -> list[str]:
    """Store rows and bundles like those of trainings. They generate the base's images with noise."""
    base, storage = load_base("nano", device="cpu"), Storage(settings)
    noun = (base.manifest.nouns or ["dog"])[0]
    ids = []
    for seed in range(CONCEPTS):
        generator = torch.Generator().manual_seed(seed)
        projections = pretrained_projections(base.student).requires_grad_(False)
        for parameter in projections.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        data = write_bundle(
            KeyValueAdapter(
                projections, nn.Parameter(torch.randn(base.text.encoder.config.hidden_size, generator=generator))
            ),
            method="opad",
            class_noun=noun,
            base="nano",
            base_sha256=base.manifest.sha256,
            config={},
            seed=seed,
        )
        sha256 = hashlib.sha256(data).hexdigest()
        storage.put_once(bundle_key(sha256), data, sha256)
        with make_sessions(settings).begin() as session:
            owner_id = session.scalars(select(Owner.id).where(Owner.name == ADMIN_OWNER)).one()
            concept = Concept(id=uuid7(), owner_id=owner_id, name=f"concept {seed}", class_noun=noun, base="nano")
            session.add(concept)
            session.flush()
            job = Job(id=uuid7(), owner_id=owner_id, concept_id=concept.id, version=1, preset="default", seed=seed,
                      state=JobState.succeeded)  # fmt: skip
            session.add(job)
            session.flush()
            session.add(
                Bundle(job_id=job.id, concept_id=concept.id, version=1, key=bundle_key(sha256), sha256=sha256,
                       size=len(data))
            )  # fmt: skip
        ids.append(str(concept.id))
    return ids


def last_level(settings: Settings) -> str:
    """Wait until the engine has compiled its networks or cannot, and return its level."""
    deadline = time.monotonic() + COMPILING_SECONDS
    while time.monotonic() < deadline:
        with make_sessions(settings)() as session:
            facts = [facts for _, facts in session.execute(running_engines())]
        if facts and facts[0]["level_reason"] != "it compiles in the background":
            break
        time.sleep(1)
    return str(facts[0]["level"])


def evaluate(found: dict[str, Any]) -> dict[str, Any]:
    """Return the figures that the goals are about, and whether all goals are met."""
    by_name = {phase["phase"]: phase for phase in found["phases"]}
    verdict: dict[str, Any] = {
        "errors": sum(phase["errors"] for phase in found["phases"]),
        "goodput_at_3x": round(by_name["3x"]["goodput_per_s"] / by_name["capacity"]["goodput_per_s"], 3),
        "goodput_at_3x_of_the_cpu_left": round(_per_cpu(by_name["3x"]) / _per_cpu(by_name["capacity"]), 3),
    }
    memory = found["resident_bytes"]
    verdict["requests"] = sum(sum(phase["answers"].values()) for phase in found["phases"])
    verdict["rss_growth"] = {name: round(memory["end"][name] / memory["begin"][name] - 1, 4) for name in memory["end"]}
    verdict["met"] = (
        verdict["errors"] == 0
        and verdict["goodput_at_3x"] >= GOAL_GOODPUT
        and all(growth < GOAL_RSS_GROWTH for growth in verdict["rss_growth"].values())
    )
    return verdict


def _per_cpu(phase: dict[str, Any]) -> float:
    """Return the images per second of CPU time that the client left on one core."""
    return float(phase["goodput_per_s"] / (1 - phase["client_cpu"]))


def show(found: dict[str, Any]) -> None:
    print(
        f"{'phase':<10}{'offered/s':>10}{'goodput/s':>11}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'HTTP ms':>9}"
        f"{'client':>8}  answers"
    )
    for phase in found["phases"]:
        offered = "-" if phase["offered_per_s"] is None else f"{phase['offered_per_s']:.1f}"
        print(
            f"{phase['phase']:<10}{offered:>10}{phase['goodput_per_s']:>11.1f}{phase['p50_ms']:>9.0f}"
            f"{phase['p95_ms']:>9.0f}{phase['p99_ms']:>9.0f}{phase['overhead_p50_ms']:>9.1f}{phase['client_cpu']:>8.1%}"
            f"  {phase['answers']}"
        )
    print(json.dumps(found["verdict"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="length of each phase (default %(default)s)")
    parser.add_argument("--requests", type=int, default=5000, help="requests while memory is measured, at least")
    parser.add_argument("--out", type=Path, default=Path("load.json"), help="file to write (default %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="opad-load-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)  # as root, PostgreSQL's account must be able to enter it
        settings = Settings(
            home=Path(folder) / "home", port=0, requests_per_minute=0, images_per_minute=0, log_level="WARNING"
        )
        with local_stack(settings, say=lambda line: None) as running:
            complete = Settings(**{
                name.removeprefix("OPAD_").lower(): value
                for name, value in published_environment(settings.home).items()
                if name in ("OPAD_DATABASE_URL", "OPAD_REDIS_URL", "OPAD_S3_ENDPOINT", "OPAD_S3_ACCESS_KEY",
                            "OPAD_S3_SECRET_KEY", "OPAD_S3_BUCKET")
            })  # fmt: skip
            concepts = make_concepts(complete)
            level = last_level(complete)
            found = {"level": level} | asyncio.run(measure(running, concepts, arguments))
    found["verdict"] = evaluate(found)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    show(found)
    return 0 if found["verdict"]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
