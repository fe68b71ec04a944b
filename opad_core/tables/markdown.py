"""The tables as Markdown."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

from opad_core.evaluation.published import PUBLISHED
from opad_core.evaluation.scores import Scores
from opad_core.evaluation.verdict import verdict_of
from opad_core.tables.claims import CLAIMS, Claim, verdict
from opad_core.tables.elsewhere import row_of
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
    "scene_accuracy": "scenes by CLIP",
    "judged_scenes": "scenes by the judge",
    "diversity": "diversity",
    "copies": "copies",
}
VERDICTS = {
    "learned_well": "learned well",
    "images_nearly_alike": "nearly alike",
    "likeness_did_not_rise": "likeness did not rise",
    "scenes_lost": "scenes lost",
}
"""Columns by the name of a report card's verdict."""


@dataclass(frozen=True)
class Results:
    runs: Sequence[Run]
    learned_by: Mapping[str, str]
    """By row, the row whose runs are its own, too."""

    @cached_property
    def rows(self) -> list[Row]:
        """All rows, and those whose images were made elsewhere."""
        made = dict.fromkeys(run["row"] for run in self.runs if "elsewhere" in run)
        return [*ROWS.values(), *map(row_of, made)]

    def runs_of(self, row: str) -> list[Run]:
        return [run for run in self.runs if run["row"] == self.learned_by.get(row, row)]

    def values(self, row: str, score: str, *, result: str = "1") -> dict[tuple[str, int], float]:
        """Return the values of a score by concept and seed. A result is a number of steps, or the name of a stage."""
        found = {}
        for run in self.runs_of(row):
            value = run.get("scores", {}).get(result, {}).get(score)
            if value is not None:
                found[run["concept"], run["seed"]] = value
        return found

    def mean(self, row: str, score: str, *, result: str = "1") -> Interval | None:
        by_concept: dict[str, list[float]] = {}
        for (concept, _), value in self.values(row, score, result=result).items():
            by_concept.setdefault(concept, []).append(value)
        return interval(by_concept) if by_concept else None

    def verdicts(self, row: str) -> Counter[str]:
        """Count what a report card says of each run in one step, compared with the untouched student's."""
        untouched = {(run["concept"], run["seed"]): _report_scores(run) for run in self.runs_of("untouched")}
        found: Counter[str] = Counter()
        for run in self.runs_of(row):
            mine, before = _report_scores(run), untouched.get((run["concept"], run["seed"]))
            if mine is not None and before is not None:
                found[verdict_of(mine, before).name] += 1
        return found

    def difference(self, claim: Claim) -> Interval | None:
        """Return how much higher the first row of a claim scores, over the concepts and seeds of both."""
        paired = differences(
            self.values(claim.better, claim.score, result=claim.better_result),
            self.values(claim.worse, claim.score, result=claim.worse_result),
        )
        return interval(paired) if paired else None


def _report_scores(run: Run) -> Scores | None:
    scores = run.get("scores", {}).get("1", {})
    names = [field.name for field in fields(Scores)]
    return Scores(**{name: scores[name] for name in names}) if scores.keys() >= set(names) else None


def tables(results: Results) -> str:
    """Return all tables that have runs, and the claims."""
    parts = []
    for key, title in TITLES.items():
        lines = [line for line in _lines(key, results.rows) if results.values(line.row, "identity", result=line.result)]
        if any(line.row not in ("opad", "untouched") or line.result != "1" for line in lines):
            parts.append(f"## {title}\n\n{_table(results, lines)}")
            if published := _published(results, lines):
                parts.append(published)
    parts += [f"## What holds of the paper's claims\n\n{_claims(results)}", f"## Stability\n\n{_stability(results)}"]
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class _Line:
    label: str
    row: str
    result: str


def _lines(key: str, rows: Sequence[Row]) -> list[_Line]:
    """Return the lines of a table. Only the table of the methods shows rows in several steps."""
    lines = []
    for row in rows:
        if key in row.tables:
            lines += [_Line(row.label, row.name, str(n)) for n in (row.steps if key == "5" else row.steps[:1])]
        lines += [_Line(stage.label, row.name, stage.name) for stage in row.stages if key in stage.tables]
    return lines


def _table(results: Results, lines: Sequence[_Line]) -> str:
    head = ["row", "steps", "concepts", "runs", *SCORES.values(), "identity against OPAD"]
    text = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for line in lines:
        found = results.mean(line.row, "identity", result=line.result)
        assert found is not None
        cells = [
            _cell(results.mean(line.row, score, result=line.result), short=score != "identity") for score in SCORES
        ]
        against = None
        if (line.row, line.result) != ("opad", "1"):
            against = results.difference(Claim("", "", line.row, "opad", better_result=line.result))
        steps = line.result if line.result.isdecimal() else ""
        amount = f"{found.concepts} | {found.runs}"
        text.append(f"| {line.label} | {steps} | {amount} | {' | '.join(cells)} | {_cell(against)} |")
    return "\n".join(text)


def _published(results: Results, lines: Sequence[_Line]) -> str:
    """Return a table of the published metrics; nothing if no run has them."""
    text = []
    for line in lines:
        found = [results.mean(line.row, score, result=line.result) for score in PUBLISHED]
        if any(found):
            steps = line.result if line.result.isdecimal() else ""
            text.append(f"| {line.label} | {steps} | {' | '.join(map(_cell, found))} |")
    head = ["row", "steps", *PUBLISHED.values()]
    return "\n".join([f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}", *text]) if text else ""


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
    head = ["row", "runs", "failed", "lowest and highest identity", *VERDICTS.values()]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for row in results.rows:
        own = results.runs_of(row.name) if results.learned_by.get(row.name, row.name) == row.name else []
        values = results.values(row.name, "identity").values()
        if own:
            extremes = f"{min(values):.3f} to {max(values):.3f}" if values else ""
            verdicts = results.verdicts(row.name)
            counts = " | ".join(str(verdicts[name]) if verdicts else "" for name in VERDICTS)
            failed = sum("failed" in run for run in own)
            lines.append(f"| {row.label} | {len(own)} | {failed} | {extremes} | {counts} |")
    return "\n".join(lines)
