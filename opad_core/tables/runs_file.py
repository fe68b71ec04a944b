"""The file of runs: a JSON object in each line, appended when a run ends, so an interruption loses one run at most."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from opad_core.bases.manifest import Manifest
from opad_core.errors import OpadError
from opad_core.tables.rows import ROWS, rows_on, settings_of
from opad_core.tables.running import Run, code_of


def read_runs(file: Path) -> list[Run]:
    """Return all runs, without a line that an interruption cut off. Raises OpadError for other damage."""
    if not file.exists():
        return []
    runs, lines = [], file.read_text().split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            runs.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):  # whole lines end with a newline
                raise OpadError(f"{file}, line {number}: {error}; remove the line, its run is repeated") from error
    return runs


def append_run(file: Path, run: Run) -> None:
    """Add a run and wait until it is on the disk."""
    data = file.read_bytes() if file.exists() else b""
    with file.open("ab") as stream:
        if data and not data.endswith(b"\n"):  # the rest of a line that an interruption cut off
            stream.truncate(data.rfind(b"\n") + 1)
            stream.seek(0, os.SEEK_END)
        stream.write(f"{json.dumps(run)}\n".encode())
        stream.flush()
        os.fsync(stream.fileno())


def current(runs: Iterable[Run], manifest: Manifest) -> list[Run]:
    """Return the runs of today's code and settings on a base, the newest of each row, concept and seed."""
    settings = {row.name: settings_of(row, manifest) for row in rows_on(manifest)}
    newest = {}
    for run in runs:
        row = ROWS.get(run["row"])
        if row is None or run["base_sha256"] != manifest.sha256 or run["code"] != code_of(row):
            continue
        if run["settings"] == settings.get(row.name):
            newest[row.name, run["concept"], run["seed"]] = run
    return list(newest.values())
