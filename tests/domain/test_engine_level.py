import pytest

from api.domain.engine_level import EngineLevel, engine_level


@pytest.mark.parametrize(
    ("level", "words"),
    [("eager", "eager, operator by operator"), ("captured", "captured as a CUDA graph"), ("compiled", "compiled")],
)
def test_a_reported_level_has_words(level, words):
    found = engine_level({"device": "cuda", "level": level, "level_reason": None})
    assert (found, found.words) == (EngineLevel(level, None), words)


def test_the_reason_is_kept():
    assert engine_level({"level": "eager", "level_reason": "the disk is full"}) == EngineLevel(
        "eager", "the disk is full"
    )


@pytest.mark.parametrize("facts", [{}, {"device": "cuda"}, {"level": None}, {"level": "of a newer version"}])
def test_facts_without_a_known_level_have_none(facts):
    assert engine_level(facts) is None
