"""Refuse prompts and class nouns with words from the installation's list, however they are written.

A text is folded before it is compared: compatibility forms (NFKC), case, accents, invisible characters, lookalike
letters of other alphabets, digits in place of letters, and words spelled out letter by letter. A word ends where the
tokenizers end it: at anything that is not a letter. The engine compares the tokens too.
"""

import itertools
import unicodedata
from pathlib import Path

import regex

from api.domain.errors import Invalid

ENGINE_CODE = "denied_tokens"
"""The engine's own code for a prompt with a word of the list. The api answers as it does for a word it finds itself."""
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
_SPELLED_OUT = regex.compile(r"\b(?:\w[\W_]+){2,}\w\b")
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
"""Scripts that write words without spaces, where a word is found anywhere."""
_LETTER = rf"[\p{{L}}--[{_UNSPACED}]]"
_STARTS_ANYWHERE = regex.compile(rf"[{_UNSPACED}]", regex.V1)
_ENDS_ANYWHERE = regex.compile(rf"[{_UNSPACED}\p{{Hangul}}]", regex.V1)
"""Korean has spaces, but joins particles to the end of a word."""


class DeniedWords:
    """A list with one word or phrase per line. Empty lines and lines that begin with # are ignored."""

    def __init__(self, lines: list[str]) -> None:
        self.entries = sorted({line.strip() for line in lines if line.strip() and not line.startswith("#")})
        """As they are written in the list."""
        self._folded = sorted({fold(entry) for entry in self.entries} - {""})
        self._found = _any_of(self._folded)
        self._found_in_letters = _any_of([entry for entry in self._folded if not any(map(str.isdecimal, entry))])

    @classmethod
    def read(cls, path: Path | None) -> "DeniedWords":
        """Read the list from a file; without a path it is empty. Raises OSError if the file cannot be read."""
        return cls([] if path is None else path.read_text(encoding="utf-8").splitlines())

    def refuse(self, field: str, text: str) -> None:
        """Raise Invalid if the text contains a word of the list. Neither the answer nor the log says which."""
        for reading in (fold(text), fold(_letters_apart(text))):
            if self._found.search(reading) or self._found_in_letters.search(reading.translate(_DIGITS)):
                raise refusal(field)
        folded = fold(text)
        if self._is_spelled_out(folded) or self._is_spelled_out(folded.translate(_DIGITS)):
            raise refusal(field)

    def _is_spelled_out(self, folded: str) -> bool:
        spelled_out = [regex.sub(r"[\W_]+", "", run) for run in _SPELLED_OUT.findall(folded)]
        return any(entry in run for run in spelled_out for entry in self._folded)


def refusal(field: str) -> Invalid:
    return Invalid(
        f"the {field} has a word that this installation refuses; use other words",
        f"{field}_refused",
        errors=[{"field": field, "message": "has a word that this installation refuses"}],
    )


def fold(text: str) -> str:
    """Replace all lookalikes by lower-case Latin letters, digits and single spaces."""
    text = unicodedata.normalize("NFKC", text).casefold()
    visible = (c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) not in ("Cf", "Mn"))
    letters = unicodedata.normalize("NFC", "".join(visible))  # Korean syllables again, not their parts
    return " ".join(letters.translate(_LOOKALIKES).split())


def _letters_apart(text: str) -> str:
    """Put spaces around each run of letters: what is not a letter begins a new token, as a mark or a (TM) does."""
    runs = itertools.groupby(unicodedata.normalize("NFC", text), lambda c: unicodedata.category(c)[0] == "L")
    return " ".join("".join(run) for _, run in runs)


def _any_of(entries: list[str]) -> regex.Pattern[str]:
    return regex.compile("|".join(map(_pattern, entries)) or r"(?!)", regex.V1)


def _pattern(entry: str) -> str:
    """Return the pattern of a folded entry: whole words, with any separator in the place of a space."""
    before = after = ""
    if entry[0].isalpha() and not _STARTS_ANYWHERE.match(entry[0]):
        before = rf"(?<!{_LETTER})"
    if entry[-1].isalpha() and not _ENDS_ANYWHERE.match(entry[-1]):
        after = rf"(?!{_LETTER})"
    if entry[0].isdecimal():
        before = r"(?<!\p{Nd})"
    if entry[-1].isdecimal():
        after = r"(?!\p{Nd})"
    return before + r"[\W_]+".join(map(regex.escape, entry.split())) + after
