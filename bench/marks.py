"""`python -m bench.marks`: what marks cost, in milliseconds and bytes per image, and in images per second of an engine.

All ways of a format are timed in turn in one run; a line has the medians. `--engine SECONDS` measures engines instead:
three processes with nano run at once, one with each way, and are asked in turn, each for SECONDS in every round.
"""

import argparse
import asyncio
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from api.domain.credentials import make_credentials
from api.domain.provenance import Marks, Provenance
from api.domain.settings import Settings
from bench.encode import images
from bench.engine_service import CLIENTS, DEADLINE_MS, Client, EngineProcess, database
from opad_core import load_base
from worker.inference.encoding import MEDIA_TYPES
from worker.inference.marking import Marking

ORIGIN = Provenance("nano", None, "0" * 64, 7)
WAYS: tuple[Marks, ...] = ("off", "xmp", "signed")
ROUNDS = 15
"""Rounds of the engines."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="images of each kind (default %(default)s)")
    parser.add_argument("--engine", type=float, metavar="SECONDS", help="measure engines, each so long in every round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # as root, PostgreSQL's account must be able to enter it
        if arguments.engine is None:
            measure_files(Path(folder), arguments.rounds)
        else:
            measure_engines(Path(folder), arguments.engine)


def measure_files(folder: Path, rounds: int) -> None:
    settings = with_key(Settings(home=folder))
    markings = {way: Marking.of(settings.model_copy(update={"provenance": way}), resolution=512) for way in WAYS}
    print("| image | format | ms off / xmp / signed | bytes off / xmp / signed |\n|---|---|---|---|")
    for label, pixels in images().items():
        for image_format in MEDIA_TYPES:
            times: dict[str, list[float]] = {way: [] for way in WAYS}
            sizes = {}
            for _ in range(rounds):
                for way, marking in markings.items():
                    before = time.perf_counter()
                    sizes[way] = len(marking.file(pixels, image_format, ORIGIN))
                    times[way].append(1000 * (time.perf_counter() - before))
            milliseconds = " / ".join(f"{median(times[way]):.2f}" for way in WAYS)
            print(f"| {label} | {image_format} | {milliseconds} | {' / '.join(str(sizes[way]) for way in WAYS)} |")


def measure_engines(folder: Path, seconds: float) -> None:
    """Print each engine's images per second under more requests than it can answer at once."""
    scenes = load_base("nano", device="cpu").manifest.scene_prompts[:8]
    bodies: list[dict[str, object]] = [
        {"bundle": None, "prompt": scene.format("dog"), "format": "jpeg", "deadline_ms": DEADLINE_MS}
        for scene in scenes
    ]
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with database(folder) as settings, asyncio.Runner() as runner, ExitStack() as engines:
        with_key(settings)
        clients = {}
        for way in WAYS:
            chosen = settings.model_copy(update={"base": "nano", "device": "cpu", "provenance": way})
            engine = EngineProcess(chosen, folder / f"{way}.sock")
            engines.callback(engine.stop)
            engine.seconds_until_ready()
            engine.seconds_until_compiled()
            clients[way] = Client(engine.address, bodies)
            engines.callback(clients[way].close)
            runner.run(clients[way].warm())
        for _ in range(ROUNDS):
            for way, client in clients.items():
                phase = runner.run(client.capacity(seconds))
                rates[way].append(len(phase.latencies_ms) / phase.seconds)
    columns = f"images/s, {CLIENTS} clients: median of {ROUNDS} (least-most) | of off in the same round: median"
    print(f"| marks | {columns} |\n|---|---|---|")
    for way in WAYS:
        middle, least, most = median(rates[way]), min(rates[way]), max(rates[way])
        ratio = median(own / off for own, off in zip(rates[way], rates["off"], strict=True))
        print(f"| {way} | {middle:.1f} ({least:.1f}-{most:.1f}) | {ratio:.1%} |")


def with_key(settings: Settings) -> Settings:
    make_credentials(settings.signing_certificates, settings.signing_key)
    return settings


if __name__ == "__main__":
    main()
