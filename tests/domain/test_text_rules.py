import pytest

from api.domain.text_rules import as_read, name_as_read, noun_as_read, prompt_as_read

KEPT = {
    "Persian, a letter that joins": "می\u200cخواهم",
    "Persian, a letter that does not": "کار\u200cها",
    "Devanagari, half form": "क्\u200dष",
    "Bengali, ya-phalaa": "র\u200d্যাম",
    "Sinhala": "ශ්\u200dරී",
    "Khmer and Thai": "ខ្មែរ ไทย",
    "a family": "👨\u200d👩\u200d👧",
    "a pilot with a skin": "👩🏽\u200d✈\ufe0f",
    "a heart in red": "❤\ufe0f",
    "a keycap": "1\ufe0f\u20e3",
    "the flag of England": "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "a variant of a character": "葛\U000e0100",
    "an emoji of Unicode 17": "my \U0001fac8",
    "an emoji of a later Unicode": "my \U0001faff",
    "old Hangul with a filler": "\u115fᅡ",
    "an Arabic number sign": "\u0600١",
}


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_what_a_script_or_an_emoji_needs_is_kept(text: str) -> None:
    assert name_as_read(text) == text
    assert prompt_as_read(f"a <concept> {text}") == f"a <concept> {text}"


REFUSED = {
    "a joiner between Latin letters": "m\u200dug",
    "a non-joiner at the start": "\u200cmug",
    "a joiner twice": "क्\u200d\u200dष",
    "a joiner after an emoji alone": "👩\u200d",
    "a selector after a Latin letter": "mug\ufe0f",
    "a selector after a digit": "mug 1\ufe0f",
    "tags after a letter": "mug\U000e0067\U000e007f",
    "an override of direction": "\u202egum",
    "an isolate": "\u2066mug\u2069",
    "a mark of direction": "mug\u200f",
    "a zero-width space": "m\u200bug",
    "a soft hyphen": "m\u00adug",
    "a byte-order mark": "\ufeffmug",
    "NUL": "m\x00ug",
    "escape": "\x1b[31mmug",
    "a private character": "mug \ue000",
    "a code point without a character": "mug \u0378",
    "a surrogate": "mug \ud800",
    "a line separator": "mug\u2028mug",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_nobody_sees_is_refused_by_its_number(text: str) -> None:
    for read in (name_as_read, noun_as_read, prompt_as_read):
        with pytest.raises(ValueError, match=r"contains U\+[0-9A-F]{4,5}, a control or invisible character; remove it"):
            read(text)


@pytest.mark.parametrize("text", ["", " ", "\u00a0\u3000", "\u3164", "\u2800 \u2800", "\uffa0\u1160", "\u034f"])
def test_a_name_that_shows_nothing_is_refused(text: str) -> None:
    for read in (name_as_read, noun_as_read):
        with pytest.raises(ValueError, match="use at least one visible character"):
            read(text)


def test_spaces_of_all_widths_are_spaces() -> None:
    assert name_as_read("\u3000my\u00a0red\u2009mug\u202f") == "my red mug"


def test_a_decomposed_text_is_the_composed_one() -> None:
    assert name_as_read("Cafe\u0301") == "Caf\u00e9" == as_read("Cafe\u0301")
    assert len(name_as_read(80 * "\u0958")) == 160, "NFC has no composed form of this letter"


def test_a_class_noun_is_lower_case_with_single_spaces() -> None:
    assert noun_as_read(" Teddy \u00a0 BEAR") == "teddy bear"


def test_a_prompt_may_have_lines_and_a_name_may_not() -> None:
    assert prompt_as_read("a <concept>\r\n\ton the beach\n") == "a <concept> on the beach"
    with pytest.raises(ValueError, match=r"U\+000A"):
        name_as_read("my\nmug")
