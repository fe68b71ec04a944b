"""The committed tables, and the figures that other pages take from them, are those of the committed runs."""

import re
from pathlib import Path

import pytest

from opad_core.bases.loading import SHIPPED
from opad_core.bases.manifest import read_manifest
from opad_core.tables.markdown import Results, tables
from opad_core.tables.rows import ROWS, learned_by
from opad_core.tables.runs_file import read_runs

FOLDER = Path("docs/tables")


@pytest.fixture(scope="module")
def results():
    return Results(read_runs(FOLDER / "runs.jsonl"), learned_by(read_manifest(SHIPPED)))


def test_the_page_has_the_tables_of_the_runs(results):
    assert (FOLDER / "README.md").read_text().endswith(tables(results))


def test_the_readmes_comparison_is_from_the_runs(results):
    rows = {row.label.replace(", same information", ""): row for row in ROWS.values() if row.name != row.method}
    rows |= {ROWS[name].label: ROWS[name] for name in ("untouched", "opad")}
    lines = re.findall(r"^\| ([^|]+) \| (0\.\d{3}) \| (\d+) % \| (0\.\d{3}) \|", Path("README.md").read_text(), re.M)
    assert len(lines) >= 4
    for label, identity, scenes, diversity in lines:
        means = [results.mean(rows[label].name, score).mean for score in ("identity", "judged_scenes", "diversity")]
        assert [f"{means[0]:.3f}", f"{means[1]:.0%}", f"{means[2]:.3f}"] == [identity, f"{scenes}%", diversity], label
