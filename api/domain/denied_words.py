"""Refuse prompts and class nouns with words from the installation's list, however they are written.

A text is folded before it is compared: compatibility forms (NFKC), case, accents, invisible characters, lookalike
letters of other alphabets, digits in place of letters, and words spelled out letter by letter.
"""

import re
import unicodedata
from pathlib import Path

from api.domain.errors import Invalid

_LOOKALIKES = str.maketrans(
    {
        **dict(zip("аеорсухіјѕԁԛԝһкмтвнгпӏ", "aeopcyxijsdqwhkmtbhrnl", strict=True)),  # Cyrillic
        **dict(zip("αβγεικνορτυχηωμκρ", "abyeikvoptuxnwukp", strict=True)),  # Greek
        **dict(zip("օոսհցզ", "onuhgq", strict=True)),  # Armenian
        **dict(zip("ıłøđħŧɑɡɩʀɴ", "ilodhtagirn", strict=True)),  # Latin with a stroke, small capitals
        "æ": "ae", "œ": "oe",
    }
)  # fmt: skip
_DIGITS = str.maketrans("013457@$!|", "oleastasil")
"""The letters that digits and signs stand for. The text is searched with and without this replacement."""
_SPELLED_OUT = re.compile(r"\b(?:\w[\W_]+){2,}\w\b")


class DeniedWords:
    """A list with one word or phrase per line. Empty lines and lines that begin with # are ignored."""

    def __init__(self, lines: list[str]) -> None:
        entries = {fold(line) for line in lines if line.strip() and not line.startswith("#")}
        self._entries = sorted(entries - {""})
        alternatives = "|".join(re.escape(entry) for entry in self._entries)
        self._found = re.compile(rf"\b(?:{alternatives})\b") if self._entries else None

    @classmethod
    def read(cls, path: Path | None) -> "DeniedWords":
        """Read the list from a file; without a path it is empty. Raises OSError if the file cannot be read."""
        return cls([] if path is None else path.read_text(encoding="utf-8").splitlines())

    def refuse(self, field: str, text: str) -> None:
        """Raise Invalid if the text contains a word of the list. Neither the answer nor the log says which."""
        if self._found is None:
            return
        folded = fold(text)
        if any(self._has(reading) for reading in (folded, folded.translate(_DIGITS))):
            raise Invalid(
                f"the {field} has a word that this installation refuses; use other words",
                f"{field}_refused",
                errors=[{"field": field, "message": "has a word that this installation refuses"}],
            )

    def _has(self, folded: str) -> bool:
        assert self._found is not None
        if self._found.search(folded):
            return True
        spelled_out = [re.sub(r"[\W_]+", "", run) for run in _SPELLED_OUT.findall(folded)]
        return any(entry in run for run in spelled_out for entry in self._entries)


def fold(text: str) -> str:
    """Replace all lookalikes by lower-case Latin letters, digits and single spaces."""
    text = unicodedata.normalize("NFKC", text).casefold()
    visible = (c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) not in ("Cf", "Mn"))
    return " ".join("".join(visible).translate(_LOOKALIKES).split())
