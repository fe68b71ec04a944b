"""The page shows what was measured."""

import json
from pathlib import Path

from bench.one_shot import SETTINGS, table

ROOT = Path(__file__).parents[2]


def test_the_page_has_the_table_of_the_runs():
    runs = json.loads((ROOT / "bench/one_shot.json").read_text())
    lines = table(runs).splitlines()
    assert len(lines) == len(SETTINGS)
    assert table(runs) in (ROOT / "docs/one-photo.md").read_text()


def test_shares_are_of_the_same_concepts_and_seeds():
    def run(settings: str, seed: int, identity: float) -> dict:
        scores = {"identity": identity, "untouched": 0.4, "score": 1}
        return {"settings": settings, "concept": "mug", "seed": seed, **scores}

    few = [run("all photos", 0, 0.5), run("all photos", 1, 0.9)]
    # 0.45 of 0.5, and half of what training added to 0.4
    assert table([*few, run("one photo", 0, 0.45)]).endswith("| one photo | 1 | 0.450 | 0.90 | 0.50 | 1.000 |")
