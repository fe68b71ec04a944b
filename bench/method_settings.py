"""Write docs/method-settings.md, the table of the method's settings: `python -m bench.method_settings`.

Names, values and sources come from the fields of `OpadConfig`, descriptions from the comments beside them.
"""

import ast
import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from opad_core import PRESETS, OpadConfig, override

PAGE = Path(__file__).parents[1] / "docs" / "method-settings.md"

_INTRODUCTION = """\
# Settings of the method

Each row is a field of `OpadConfig`. A request changes it with `overrides`, the command line with
`python -m opad_core train --set NAME=VALUE`. Sizes are fractions of the base's resolution unless the row says pixels.

The columns `paper` and `default` are the presets; an empty cell means that `default` uses the value of `paper`. A base
can set values of its own: `python -m opad_core presets --base NAME` prints what a training on that base uses.

Source `paper` is arXiv 2510.20512 with its supplement. `setting` is what the authors ran for the published table.
`inferred` is our choice where both say nothing. `ours` is our addition, which is off in both presets.

`python -m bench.method_settings` writes this page.
"""


def page() -> str:
    """Return the whole page."""
    paper, default = (
        override(OpadConfig(), {name: departure.value for name, departure in PRESETS[preset].items()})
        for preset in ("paper", "default")
    )
    sources = {field.name: field.metadata["source"] for field in dataclasses.fields(OpadConfig)}
    parts = [_INTRODUCTION]
    for title, descriptions in described_fields():
        rows = ["| setting | `paper` | `default` | meaning | source |", "|---|---|---|---|---|"]
        for name, description in descriptions.items():
            first, second = getattr(paper, name), getattr(default, name)
            departure = PRESETS["default"].get(name)
            meaning = description if departure is None else f"{description}. `default`: {departure.reason}"
            other = "" if first == second else f"`{_shown(second)}`"
            cells = [f"`{name}`", f"`{_shown(first)}`", other, meaning, sources[name]]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        heading = title if title.endswith(".") else f"## {title}"
        parts.append(f"{heading}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def described_fields() -> list[tuple[str, dict[str, str]]]:
    """Return the groups of fields, base classes first: the group's title, and each field's description.

    The docstring of a class opens a group, and so does a comment without a period after an empty line. Other comments
    above a field, and the one at its end, describe it.
    """
    groups: list[tuple[str, dict[str, str]]] = []
    for table in reversed(OpadConfig.__mro__):
        if dataclasses.is_dataclass(table):
            groups += _groups_of(inspect.getsource(table))
    return [(title, fields) for title, fields in groups if fields]


def _groups_of(source: str) -> list[tuple[str, dict[str, str]]]:
    lines = source.splitlines()
    (table,) = ast.parse(source).body
    assert isinstance(table, ast.ClassDef)
    groups: list[tuple[str, dict[str, str]]] = [((ast.get_docstring(table) or table.name).partition("\n")[0], {})]
    for node in table.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        start = node.lineno - 1
        while lines[start - 1].lstrip().startswith("#"):
            start -= 1
        above = " ".join(line.strip(" #") for line in lines[start : node.lineno - 1])
        opens = not lines[start - 1].strip() or lines[start - 1].startswith("class ")
        if above and opens and "." not in above:
            groups.append((above, {}))
            above = ""
        end = re.search(r"  # (.*)$", lines[(node.end_lineno or node.lineno) - 1])
        groups[-1][1][node.target.id] = ". ".join(filter(None, [end and end[1], above.rstrip(".")]))
    return groups


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "()"
    if isinstance(value, float):
        return f"{value:.4g}"
    return '""' if value == "" else str(value)


def main() -> int:
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
