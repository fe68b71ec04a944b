"""Words that an installation draws no pictures of, found however they are written.

A text is folded before it is compared: compatibility forms (NFKC), case, accents, invisible characters, letters of
other alphabets that look like Latin ones, digits in the place of letters, and a word spelled out letter by letter.
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
"""Read as the letters they stand in for; a word is looked for with and without."""
_SPELLED_OUT = re.compile(r"\b(?:\w[\W_]+){2,}\w\b")


class DeniedWords:
    """One word or phrase on each line of a file; lines that begin with # and empty ones do not count."""

    def __init__(self, lines: list[str]) -> None:
        entries = {fold(line) for line in lines if line.strip() and not line.startswith("#")}
        self._entries = sorted(entries - {""})
        alternatives = "|".join(re.escape(entry) for entry in self._entries)
        self._found = re.compile(rf"\b(?:{alternatives})\b") if self._entries else None

    @classmethod
    def of(cls, path: Path | None) -> "DeniedWords":
        """Those of a file; none without one. Raises OSError for a file that cannot be read: better than no list."""
        return cls([] if path is None else path.read_text(encoding="utf-8").splitlines())

    def refuse(self, field: str, text: str) -> None:
        """Raises Invalid when the text has one of the words. The answer does not say which: nor does the log."""
        if self._found is None:
            return
        folded = fold(text)
        if any(self._has(reading) for reading in (folded, folded.translate(_DIGITS))):
            raise Invalid(
                f"the {field} asks for something that this installation does not draw; word it differently",
                f"{field}_refused",
                errors=[{"field": field, "message": "is refused by the installation's list of words"}],
            )

    def _has(self, folded: str) -> bool:
        assert self._found is not None
        if self._found.search(folded):
            return True
        spelled_out = [re.sub(r"[\W_]+", "", run) for run in _SPELLED_OUT.findall(folded)]
        return any(entry in run for run in spelled_out for entry in self._entries)


def fold(text: str) -> str:
    """Lower-case Latin letters, digits and single spaces in the place of whatever looks like them."""
    text = unicodedata.normalize("NFKC", text).casefold()
    visible = (c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) not in ("Cf", "Mn"))
    return " ".join("".join(visible).translate(_LOOKALIKES).split())
