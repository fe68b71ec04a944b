"""Simulate GPUs, waits and caches of an installation: `python -m bench.simulate`. Takes some seconds; seeded.

It covers waits for training by arrival rate, with and without autoscaling and preemption; engines under overload, with
and without load shedding, when one of them dies, and when one client floods; and hit rates of the cache of concepts. At
the end it checks the inequalities that docs/scaling.md relies on. Exit status 1 means that some fail; it prints them.

An engine generates a batch of b images in `first + b * each` seconds. The default is SD-Turbo with its full autoencoder
on an A100 (published: 27.6 images/s one by one, 33.5 in batches of four). Give the numbers of your engine, or compare
the simulation with a measurement of a whole service by `bench/load.py`:

    python -m bench.simulate --first-ms 8.4 --each-ms 27.8
    python -m bench.simulate --load load.json
"""

import argparse
import json
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import simpy

from bench.queueing import WARM_UP, erlang_c, hit_rate, percentile

Events = Generator[simpy.Event, None, None]

MAX_BATCH, MAX_IN_FLIGHT = 8, 48
"""The limits of the engine (`worker.inference.batching`) and of the api in front of it (`api.shedding`)."""
LEASE, START_UP, CHECKPOINT = 1.0, 0.5, 1.0
"""Minutes until a dead trainer is noticed, until a new one trains, and between checkpoints."""
POLL_SECONDS, POD_SECONDS = 30.0, 120.0
"""Polling interval of the autoscaler, and start-up time of a pod with a GPU."""
DEADLINE = 10.0
BUSIEST = 0.97
"""Highest utilization of a plan. Above it the wait does not converge within a run of days."""


def steady(random_: random.Random, minutes: float) -> float:
    """Return the time of a training, which is within 10 % of the mean."""
    return random_.uniform(0.9, 1.1) * minutes


@dataclass
class Trained:
    waits: list[float] = field(default_factory=list)
    """Minutes until the first start of each job, in the order of the starts."""
    gpu_minutes: float = 0.0
    useful_minutes: float = 0.0

    @property
    def p95(self) -> float:
        return percentile(self.waits[int(WARM_UP * len(self.waits)) :], 0.95)


def train(
    *,
    per_hour: float,
    gpus: int,
    minutes: float,
    jobs: int,
    seed: int,
    service: Callable[[random.Random, float], float] = steady,
    minutes_between_losses: float = math.inf,
    scaled: bool = False,
    burst: int = 0,
) -> Trained:
    """Simulate trainings. Jobs arrive at random, with a burst of `burst` halfway; each holds a GPU until it is done.

    A lost GPU (preempted or dead) costs the job its lease, a start and the work since its checkpoint. If `scaled`, the
    autoscaler starts a pod for each job, at most `gpus`, which holds a GPU from then on.
    """
    env, random_, result = simpy.Environment(), random.Random(seed), Trained()
    pool = simpy.Resource(env, gpus)

    def job() -> Events:
        arrived, left = env.now, service(random_, minutes)
        result.useful_minutes += left
        if scaled:
            yield env.timeout(random_.uniform(0, POLL_SECONDS / 60))
        first = True
        while left > 0:
            with pool.request() as slot:
                yield slot
                began = env.now
                if scaled:
                    yield env.timeout(POD_SECONDS / 60)
                if first:
                    result.waits.append(env.now - arrived)
                    first = False
                else:
                    yield env.timeout(START_UP)
                until_loss = random_.expovariate(1) * minutes_between_losses
                yield env.timeout(min(left, until_loss))
                result.gpu_minutes += env.now - began
            if until_loss >= left:
                return
            left += random_.uniform(0, min(CHECKPOINT, until_loss)) - until_loss
            yield env.timeout(LEASE)

    def arrivals() -> Events:
        for number in range(jobs):
            yield env.timeout(random_.expovariate(per_hour / 60))
            env.process(job())
            if number == jobs // 2:
                for _ in range(burst):
                    env.process(job())

    env.process(arrivals())
    env.run()
    return result


def gpus_needed(*, per_hour: float, minutes: float, p95_minutes: float, seed: int) -> tuple[int, float]:
    """Return the smallest number of GPUs for that wait, and the wait. Starts from M/M/c, whose waits are longer."""
    load = per_hour / 60 * minutes
    fewest = math.ceil(load / BUSIEST)
    gpus = max(fewest, math.floor(load) + 1)
    while erlang_c(gpus, load) * math.exp(-(gpus - load) / minutes * p95_minutes) > 0.05:
        gpus += 1

    def p95(count: int) -> float:
        jobs = round(max(3000, 12 * load))  # at least twelve trainings per GPU
        return train(
            per_hour=per_hour, gpus=count, minutes=minutes, jobs=jobs, seed=seed, minutes_between_losses=50 * minutes
        ).p95

    wait = p95(gpus)
    while wait > p95_minutes:
        gpus += 1
        wait = p95(gpus)
    while gpus > fewest and (fewer := p95(gpus - 1)) <= p95_minutes:
        gpus, wait = gpus - 1, fewer
    return gpus, wait


@dataclass(frozen=True)
class Speed:
    first: float
    each: float
    """Seconds."""

    def of(self, batch: int) -> float:
        return self.first + batch * self.each

    @property
    def capacity(self) -> float:
        """Return the images per second of one engine with full batches."""
        return MAX_BATCH / self.of(MAX_BATCH)


@dataclass
class Served:
    offered: int = 0
    latencies: list[float] = field(default_factory=list)
    """Seconds of the responses within the deadline."""
    per_second: float = 0.0
    """Responses within the deadline, per second while requests were sent."""
    ended: float = 0.0
    """Time of the last response."""

    @property
    def answered(self) -> float:
        return len(self.latencies) / max(1, self.offered)


class Engine:
    def __init__(self, env: simpy.Environment, speed: Speed) -> None:
        self.env, self.speed = env, speed
        self.waiting: deque[tuple[float, simpy.Event]] = deque()
        self.in_progress = 0
        self.alive = True
        self.notified = env.event()
        env.process(self._work())

    def submit(self, *, sheds: bool, deadline: float) -> simpy.Event | None:
        """Return the event of the finished image, or None if the request is refused."""
        ahead = len(self.waiting) + self.in_progress
        late = (ahead + 1) * self.speed.of(1) > deadline - self.env.now
        if not self.alive or (sheds and ahead and (late or ahead + 1 > MAX_IN_FLIGHT)):
            return None
        done = self.env.event()
        self.waiting.append((deadline if sheds else math.inf, done))
        if not self.notified.triggered:
            self.notified.succeed()
        return done

    def _work(self) -> Events:
        while True:
            while not self.waiting:
                self.notified = self.env.event()
                yield self.notified
            batch: list[simpy.Event] = []
            while self.waiting and len(batch) < MAX_BATCH:
                deadline, done = self.waiting.popleft()
                if deadline > self.env.now:  # otherwise its client no longer waits
                    batch.append(done)
            if not batch:
                continue
            self.in_progress = len(batch)
            yield self.env.timeout(self.speed.of(len(batch)))
            self.in_progress = 0
            for done in batch:
                if self.alive:
                    done.succeed()


def serve(
    speed: Speed,
    *,
    per_second: float,
    seconds: float,
    seed: int,
    engines: int = 1,
    sheds: bool = True,
    retries: int = 1,
    dies_at: float = math.inf,
    flood_per_second: float = 0.0,
    flood_limit: float = math.inf,
    warm_up: float = WARM_UP,
) -> Served:
    """Simulate the requests of ordinary clients for one image each, and count those after the warm-up.

    A refused client tries again after a second. Without shedding a client tries again at the deadline, and its first
    request is generated anyway. `flood_limit` is the rate of requests that pass the limiter of the flooding key.
    """
    env, random_, result = simpy.Environment(), random.Random(seed), Served()
    pool = [Engine(env, speed) for _ in range(engines)]

    def request(ours: bool) -> Events:
        began, concept = env.now, random_.random()
        counted = ours and began > warm_up * seconds
        result.offered += counted
        for _ in range(retries + 1):
            alive = [engine for engine in pool if engine.alive]
            done = alive[int(concept * len(alive))].submit(sheds=sheds, deadline=env.now + DEADLINE)
            if done is None:
                yield env.timeout(1 + random_.random())
                continue
            yield done | env.timeout(DEADLINE)
            if done.processed:
                if counted:
                    result.latencies.append(env.now - began)
                    result.ended = env.now
                if ours and warm_up * seconds < env.now <= seconds:
                    result.per_second += 1 / (seconds * (1 - warm_up))
                return

    def clients(rate: float, ours: bool) -> Events:
        while env.now < seconds:
            yield env.timeout(random_.expovariate(rate))
            env.process(request(ours))

    def death() -> Events:
        yield env.timeout(dies_at)
        pool[0].alive = False

    env.process(clients(per_second, True))
    if flood_per_second:
        env.process(clients(min(flood_per_second, flood_limit), False))
    if math.isfinite(dies_at):
        env.process(death())
    env.run(until=seconds + 3 * DEADLINE)
    return result


@dataclass(frozen=True)
class Compared:
    what: str
    measured: float
    simulated: float

    @property
    def error(self) -> float:
        return self.simulated / self.measured - 1


def compare(found: dict[str, Any], *, seed: int) -> list[Compared]:
    """Return what `bench/load.py` measured under each load, with the simulated value.

    The engine's two times come from a single client (a batch of one) and from the capacity (full batches). The overhead
    of api and network comes from the single client. The compared loads are not used for calibration.
    """
    phases = {phase["phase"]: phase for phase in found["phases"]}
    alone, full = phases["alone"]["model_p50_ms"] / 1000, MAX_BATCH / phases["capacity"]["goodput_per_s"]
    each = (full - alone) / (MAX_BATCH - 1)
    speed, overhead_ms = Speed(alone - each, each), phases["alone"]["p50_ms"] - 1000 * alone
    compared = []
    for name in ("0.5x", "1x", "3x"):
        phase = phases[name]
        sent, seconds = sum(phase["answers"].values()), phase["sending_s"]
        runs = [
            serve(speed, per_second=sent / seconds, seconds=seconds, seed=seed + n, retries=0, warm_up=0)
            for n in range(20)
        ]
        latencies = [latency for run in runs for latency in run.latencies]
        goodput = len(latencies) / sum(max(seconds, run.ended) for run in runs)
        compared.append(Compared(f"{name} images/s", phase["goodput_per_s"], goodput))
        for q in (50, 95, 99):
            simulated = 1000 * percentile(latencies, q / 100) + overhead_ms
            compared.append(Compared(f"{name} p{q} ms", phase[f"p{q}_ms"], simulated))
    return compared


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=__doc__)
    parser.add_argument("--first-ms", type=float, default=8.4, help="time of a batch, whatever its size")
    parser.add_argument("--each-ms", type=float, default=27.8, help="additional time of each image in it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random numbers")
    parser.add_argument("--load", type=Path, help="file that bench/load.py wrote; only compare it with the simulation")
    arguments = parser.parse_args(argv)
    if arguments.load is not None:
        for one in compare(json.loads(arguments.load.read_text()), seed=arguments.seed):
            print(f"{one.what:<16}{one.measured:9.1f} measured{one.simulated:9.1f} simulated{one.error:+7.0%}")
        return 0
    speed, seed = Speed(arguments.first_ms / 1000, arguments.each_ms / 1000), arguments.seed
    held: dict[str, bool] = {}

    print("GPUs for a wait of at most 10 minutes (95 % of jobs), with 1 lost GPU in 50 trainings")
    needed = {}
    for minutes in (52, 10, 5):
        for per_hour in (1, 10, 100, 1000):
            needed[minutes, per_hour] = gpus_needed(per_hour=per_hour, minutes=minutes, p95_minutes=10, seed=seed)
            gpus, wait = needed[minutes, per_hour]
            busy = per_hour * minutes / 60 / gpus
            print(f"  {per_hour:5} concepts/h of {minutes:2} min: {gpus:4} GPUs, {busy:4.0%} busy, p95 {wait:4.1f} min")
    held["ten jobs an hour of 10 minutes need at most 4 GPUs, of 52 at least 10"] = (
        needed[10, 10][0] <= 4 and needed[52, 10][0] >= 10
    )
    held["a thousand jobs an hour keep their GPUs at least 90 % busy"] = all(
        1000 * minutes / 60 / needed[minutes, 1000][0] >= 0.9 for minutes in (52, 5)
    )

    spot = train(per_hour=4, gpus=20, minutes=52, jobs=2000, seed=seed, minutes_between_losses=30)
    overhead = spot.gpu_minutes / spot.useful_minutes - 1
    print(f"GPUs that are preempted every 30 minutes: {overhead:.1%} of their time is repeated work")
    held["preemption every half hour costs at most 5 % of GPU time"] = overhead <= 0.05

    fixed = train(per_hour=10, gpus=3, minutes=10, jobs=1000, seed=seed, burst=50)
    scaled = train(per_hour=10, gpus=30, minutes=10, jobs=1000, seed=seed, burst=50, scaled=True)
    print(f"50 jobs at once beside 10/h: p95 {fixed.p95:.0f} min on 3 GPUs, {scaled.p95:.0f} min with up to 30 pods")
    held["pods that scale beat fixed GPUs in a burst by half"] = scaled.p95 <= fixed.p95 / 2

    load = serve(speed, per_second=0.7 * speed.capacity, seconds=120, seed=seed)
    ratio = percentile(load.latencies, 0.99) / percentile(load.latencies, 0.5)
    print(
        f"one engine of {speed.capacity:.1f} images/s at 70 %: p50 {percentile(load.latencies, 0.5) * 1000:.0f} ms, "
        f"p99 {percentile(load.latencies, 0.99) * 1000:.0f} ms"
    )
    held["p99 at 70 % is at most 8 times p50"] = ratio <= 8

    goodput = {}
    for sheds in (True, False):
        found = serve(speed, per_second=3 * speed.capacity, seconds=60, seed=seed, sheds=sheds)
        goodput[sheds] = found.per_second / speed.capacity
        kind = "with" if sheds else "without"
        print(f"three times the capacity, {kind} shedding: {goodput[sheds]:.0%} of capacity is answered in time")
    held["with shedding at least 95 % of capacity stays useful under threefold load"] = goodput[True] >= 0.95
    held["without it less than half does"] = goodput[False] < 0.5

    lost = serve(speed, per_second=0.7 * 4 * speed.capacity, seconds=40, seed=seed, engines=4, dies_at=20)
    p99 = percentile(lost.latencies, 0.99)
    print(f"one of four engines at 70 % dies: {lost.answered:.2%} are answered, p99 {p99:.2f} s")
    held["one of four engines at 70 % may die: at least 99 % are answered"] = lost.answered >= 0.99

    quiet = {"per_second": 0.4 * speed.capacity, "seconds": 60.0, "seed": seed}
    alone = percentile(serve(speed, **quiet).latencies, 0.95)
    flooded = percentile(serve(speed, **quiet, flood_per_second=3 * speed.capacity).latencies, 0.95)
    limited = percentile(
        serve(
            speed, **quiet, flood_per_second=3 * speed.capacity, flood_limit=0.1 * speed.capacity
        ).latencies,
        0.95,
    )  # fmt: skip
    print(
        f"one key floods: p95 of the others {alone * 1000:.0f} ms before, {flooded * 1000:.0f} ms during the flood, "
        f"{limited * 1000:.0f} ms with its limit at a tenth of an engine"
    )
    held["with a limit on its key a flood costs the others at most 1.2 times their p95"] = limited <= 1.2 * alone

    rates = {}
    for cached in (100, 200, 1000, 5000):
        rates[cached] = hit_rate(concepts=10_000, cached=cached, requests=60_000, seed=seed)
        print(f"{cached:5} of 10,000 concepts cached: {rates[cached]:.0%} of requests hit")
    held["a cache of a tenth of the concepts serves at least 70 % of requests"] = rates[1000] >= 0.7

    failed = [name for name, holds in held.items() if not holds]
    for name in failed:
        print(f"does not hold: {name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
