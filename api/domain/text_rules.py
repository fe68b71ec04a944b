"""One rule for names, class nouns and prompts: how a text is read, and which characters it may have.

Every route reads a text with `as_read` before it measures, compares or stores it. So two spellings that look the same
are the same text: one composed form (NFC), and one kind of space.
"""

import unicodedata

import regex

_SPACES = regex.compile(r"\p{Zs}")
_LINE_BREAKS = regex.compile(r"[\t\r\n]+")
_HIDDEN = regex.compile(
    r"[[\p{C}\p{Zl}\p{Zp}\p{Variation_Selector}]--[\p{Extended_Pictographic}\p{Prepended_Concatenation_Mark}]]",
    regex.V1,
)
"""Controls, overrides of direction, joiners, selectors, and code points without a character.

Emoji of future versions are no characters yet and are not among them. The tables are those of the library `regex`,
which are newer than Python's.
"""
_NEEDED = regex.compile(
    r"""
      (?<=\p{ccc=9}) [\u200C\u200D]                                       # after a virama (RFC 5892, appendix A)
    | \u200D (?=\p{ccc=9})                                                # Bengali ya-phalaa after ra
    | (?<=[\p{Joining_Type=L}\p{Joining_Type=D}\p{Joining_Type=R}] \p{Joining_Type=T}*) [\u200C\u200D]  # Persian
    | (?<=\p{Extended_Pictographic} [\p{Emoji_Modifier}\uFE0F]*) \u200D (?=\p{Extended_Pictographic})
    | (?<=\p{Extended_Pictographic}) [\uFE0E\uFE0F]
    | (?<=[0-9\#*]) \uFE0F (?=\u20E3)                                     # keycaps
    | (?<=\U0001F3F4) [\U000E0020-\U000E007E]+ \U000E007F                 # flags of regions
    | (?<=[\p{Han}\p{Myanmar}\p{Phags_Pa}\p{Manichaean}\p{Mongolian}\p{Sm}]) \p{Variation_Selector}
    """,
    regex.V1 | regex.VERBOSE,
)
"""Invisible characters in a place where a script or an emoji needs them."""
_VISIBLE = regex.compile(r"[^\p{White_Space}\p{Default_Ignorable_Code_Point}\u2800]")
"""A character that shows something; a Hangul filler and the empty Braille pattern are letters and show nothing."""


def as_read(text: str) -> str:
    """Return a text in its composed form, with plain spaces, trimmed."""
    return _SPACES.sub(" ", unicodedata.normalize("NFC", text)).strip()


def name_as_read(text: str) -> str:
    """Return a name of one line. Raises ValueError for a character that nobody sees, and if it shows nothing."""
    text = as_read(text)
    _refuse_hidden(text)
    if not _VISIBLE.search(text):
        raise ValueError("is empty; use at least one visible character")
    return text


def noun_as_read(text: str) -> str:
    """Return a class noun in lower case. Raises ValueError as `name_as_read` does."""
    return name_as_read(" ".join(name_as_read(text).lower().split()))


def prompt_as_read(text: str) -> str:
    """Return a prompt with line breaks and tabs as spaces. Raises ValueError for a character that nobody sees."""
    text = as_read(_LINE_BREAKS.sub(" ", text))
    _refuse_hidden(text)
    return text


def _refuse_hidden(text: str) -> None:
    found = _HIDDEN.search(_NEEDED.sub("", text))
    if found is not None:
        raise ValueError(f"contains U+{ord(found[0]):04X}, a control or invisible character; remove it")
