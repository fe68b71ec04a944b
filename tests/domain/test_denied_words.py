import pytest

from api.domain.denied_words import DeniedWords, fold
from api.domain.errors import Invalid

DENIED = DeniedWords(["# what this installation refuses", "", "Gore", "évil thing", "血腥", "เลือด", "고어", "route66"])

REFUSED = {
    "plain": "a gore <concept>",
    "upper case": "GORE",
    "full width": "ｇｏｒｅ",
    "zero width": "g\u200bo\u200dr\ufeffe",
    "soft hyphen": "go\u00adre",
    "Cyrillic o and e": "g\u043er\u0435",
    "Greek omicron": "g\u03bfre",
    "Armenian o": "g\u0585re",
    "accents": "gôrė",
    "digits": "g0r3",
    "spelled out": "a g.o-r_e thing",
    "spelled out with spaces": "draw g o r e",
    "a phrase over a line's end": "evil \n thing",
    "a digit behind it": "gore1",
    "a digit before it": "4gore",
    "an underscore": "gore_ and _gore",
    "a superscript": "gore²",
    "a number in a circle": "gore①",
    "a Roman numeral, which folds to letters": "goreⅧ",
    "a sign, which folds to letters": "gore™",
    "an emoji": "gore🩸",
    "a mark of another script": "gore\u0903",
    "an accent, then letters": "gore\u0323\u0301\u0489es",
    "an apostrophe": "gore's",
    "a zero-width space, then letters": "gore\u200bful",
    "a phrase with a hyphen": "evil-thing",
    "a phrase with an underscore": "evil_thing",
    "a phrase with a mark between": "evil•thing",
    "a Chinese word in a sentence": "一只血腥的狗",
    "a Thai word in a sentence": "หมาเลือดแดง",
    "a Korean word with a particle": "개가 고어를 본다",
    "a word beside an unspaced script": "在gore上",
    "a word with digits": "a route66 sign",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_a_denied_word_is_found_however_it_is_written(text: str) -> None:
    with pytest.raises(Invalid) as refusal:
        DENIED.refuse("prompt", text)
    assert refusal.value.code == "prompt_refused"
    assert "gore" not in refusal.value.message.lower(), "a list is nobody's business"


@pytest.mark.parametrize(
    "text",
    [
        "a gorey fellow",
        "an evil place, a thing",
        "category",
        "forego re",
        "route667",
        "血 腥",
        "고언",
        "싱고어",
        "<concept> 1st, 2nd_3rd",
    ],
)
def test_a_word_inside_another_is_not_it(text: str) -> None:
    DENIED.refuse("prompt", text)


def test_what_is_left_of_a_text_is_plain_latin() -> None:
    assert fold(" Ｃａｆе\u0301  №1 ") == "cafe no1"


def test_without_a_file_nothing_is_refused() -> None:
    DeniedWords.read(None).refuse("prompt", "gore")


def test_a_list_that_cannot_be_read_is_an_error(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        DeniedWords.read(tmp_path / "missing.txt")
