import numpy as np

from opad_core.nano.build.examples import stand_in
from opad_core.nano.build.tasks import made_up, random_thing, recoloured
from opad_core.nano.build.vocabulary import HELD_OUT, NOUNS


def test_a_thing_is_a_function_of_its_number(tmp_path):
    for number in range(10):
        (picture, noun), (again, same_noun) = (random_thing(lambda n: stand_in(tmp_path, n), number) for _ in range(2))
        assert noun == same_noun
        assert noun in NOUNS
        assert picture.mode == "RGBA"
        assert picture.tobytes() == again.tobytes()


def test_no_thing_is_made_of_a_drawing_that_is_kept_for_concepts(tmp_path):
    asked = []
    for number in range(400):
        random_thing(lambda name: asked.append(name) or stand_in(tmp_path, name), number)
    assert len(set(asked)) > 100
    assert not set(asked) & {drawing for drawings in HELD_OUT.values() for drawing in drawings}


def test_a_recoloured_thing_keeps_its_outline(tmp_path):
    picture = stand_in(tmp_path, "any")
    recolour = recoloured(picture, np.random.default_rng(0))
    assert recolour.getchannel("A").tobytes() == picture.getchannel("A").tobytes()
    assert recolour.tobytes() != picture.tobytes()


def test_a_made_up_thing_fills_its_frame():
    for seed in range(10):
        assert max(made_up(np.random.default_rng(seed)).size) == 128
