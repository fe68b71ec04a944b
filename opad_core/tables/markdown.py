"""The tables as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from opad_core.tables.claims import CLAIMS, Claim, verdict
from opad_core.tables.intervals import Interval, differences, interval
from opad_core.tables.rows import ROWS, Row
from opad_core.tables.running import Run

TITLES = {
    "5": "Methods",
    "6": "Alternatives",
    "8": "One photo",
    "9": "Ablations",
    "3": "The collaborative stage",
    "adversarial": "Weight of the adversarial losses",
}
SCORES = {
    "identity": "identity",
    "middle_identity": "identity, middle",
    "text_fit": "text fit",
    "scene_accuracy": "scenes",
    "diversity": "diversity",
    "copies": "copies",
}


@dataclass(frozen=True)
class Results:
    runs: Sequence[Run]

    def values(self, row: str, score: str, *, steps: int = 1) -> dict[tuple[str, int], float]:
        """Return the values of a score by concept and seed."""
        found = {}
        for run in self.runs:
            value = run.get("scores", {}).get(str(steps), {}).get(score) if run["row"] == row else None
            if value is not None:
                found[run["concept"], run["seed"]] = value
        return found

    def mean(self, row: str, score: str, *, steps: int = 1) -> Interval | None:
        by_concept: dict[str, list[float]] = {}
        for (concept, _), value in self.values(row, score, steps=steps).items():
            by_concept.setdefault(concept, []).append(value)
        return interval(by_concept) if by_concept else None

    def difference(self, claim: Claim) -> Interval | None:
        """Return how much higher the first row of a claim scores, over the concepts and seeds of both."""
        paired = differences(
            self.values(claim.better, claim.score, steps=claim.better_steps),
            self.values(claim.worse, claim.score, steps=claim.worse_steps),
        )
        return interval(paired) if paired else None


def tables(results: Results) -> str:
    """Return all tables that have runs, and the claims."""
    parts = []
    for key, title in TITLES.items():
        rows = [row for row in ROWS.values() if key in row.tables]
        if any(results.values(row.name, "identity") for row in rows if row.name not in ("opad", "untouched")):
            parts.append(f"## {title}\n\n{_table(results, rows)}")
    parts += [f"## What holds of the paper's claims\n\n{_claims(results)}", f"## Stability\n\n{_stability(results)}"]
    return "\n\n".join(parts) + "\n"


def _table(results: Results, rows: Sequence[Row]) -> str:
    lines = [
        f"| row | steps | concepts x seeds | {' | '.join(SCORES.values())} | identity against OPAD |",
        "|---|---:|---:|" + "---:|" * (len(SCORES) + 1),
    ]
    for row in rows:
        for steps in row.steps:
            found = results.mean(row.name, "identity", steps=steps)
            if found is None:
                continue
            cells = [_cell(results.mean(row.name, score, steps=steps), short=score != "identity") for score in SCORES]
            against = None
            if (row.name, steps) != ("opad", 1):
                against = results.difference(Claim("", "", row.name, "opad", better_steps=steps))
            amount = f"{found.concepts} x {found.runs / found.concepts:g}"
            lines.append(f"| {row.label} | {steps} | {amount} | {' | '.join(cells)} | {_cell(against)} |")
    return "\n".join(lines)


def _cell(found: Interval | None, *, short: bool = False) -> str:
    if found is None:
        return ""
    return f"{found.mean:.3f}" if short else found.text()


def _claims(results: Results) -> str:
    lines = ["| claim | source | difference | here |", "|---|---|---:|---|"]
    for claim in CLAIMS:
        found = results.difference(claim)
        if found is not None:
            lines.append(f"| {claim.sentence} | {claim.source} | {found.text()} | {verdict(found)} |")
    return "\n".join(lines)


def _stability(results: Results) -> str:
    lines = ["| row | runs | failed | lowest and highest identity of a run |", "|---|---:|---:|---|"]
    for row in ROWS.values():
        own = [run for run in results.runs if run["row"] == row.name]
        values = results.values(row.name, "identity").values()
        if own:
            extremes = f"{min(values):.3f} to {max(values):.3f}" if values else ""
            lines.append(f"| {row.label} | {len(own)} | {sum('failed' in run for run in own)} | {extremes} |")
    return "\n".join(lines)
