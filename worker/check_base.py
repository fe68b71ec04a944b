"""Check the weights of a base and store the answers: `python -m worker.check_base --base-sha256 HASH`.

`worker.idle_check` starts it. On SIGTERM it ends without answers.
"""

import argparse
import os
import sys
from dataclasses import asdict
from functools import partial

import structlog

from api.domain import base_checks
from api.domain.database import make_sessions
from api.domain.environment import read_settings
from api.domain.logs import configure_logs
from api.domain.settings import Settings
from opad_core import (
    Answer,
    OpadError,
    Outcome,
    check_weights,
    device_named,
    example_photos,
    load_base,
    preset,
    rung_for,
)

log = structlog.get_logger()

NICENESS = 10
"""Images and pages come first on a machine that has nothing but a CPU."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.check_base", description="Check the weights of the base.")
    parser.add_argument("--base-sha256", required=True, help="hash of the manifest that the engines announced")
    announced = parser.parse_args().base_sha256
    os.nice(NICENESS)
    settings = read_settings("database_url")
    configure_logs(settings.log_level)
    answers = [asdict(answer) for answer in _answers(settings, announced)]
    with make_sessions(settings).begin() as db:
        db.execute(base_checks.finish(announced, answers))
    return 0


def _answers(settings: Settings, announced: str) -> list[Answer]:
    load = partial(load_base, settings.base, bases=settings.bases, device=settings.device)
    try:
        manifest = load().manifest
        if manifest.sha256 != announced:
            found = f"the engines serve {announced[:12]}, this trainer has {manifest.sha256[:12]} of {manifest.name!r}"
            return [Answer("one base", Outcome.FAILED, f"{found}: fetch the same base on both machines")]
        config = preset("default", manifest.presets)
        fit = partial(
            rung_for,
            resolution=manifest.resolution,
            batch_size=config.batch_size,
            preset="default",
            setting=settings.precision,
            device=device_named(settings.device),
        )
        return check_weights(
            lambda precision: load(precision=precision),
            fit,
            example_photos(),
            config,
            precision="half" if settings.precision == "half" else "float32",
            report=lambda answer: log.info("base_check.answer", **asdict(answer)),
        )
    except OpadError as error:
        return [Answer("loading", Outcome.FAILED, str(error))]


if __name__ == "__main__":
    sys.exit(main())
