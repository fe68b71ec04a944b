import numpy as np

from opad_core.nano.build.examples import stand_in
from opad_core.nano.build.tasks import made_up, random_object, recolored
from opad_core.nano.build.vocabulary import HELD_OUT, NOUNS


def test_an_object_is_a_function_of_its_number(tmp_path):
    for number in range(10):
        (image, noun), (again, same_noun) = (random_object(lambda n: stand_in(tmp_path, n), number) for _ in range(2))
        assert noun == same_noun
        assert noun in NOUNS
        assert image.mode == "RGBA"
        assert image.tobytes() == again.tobytes()


def test_no_object_uses_a_drawing_that_is_held_out_for_concepts(tmp_path):
    loaded = []
    for number in range(400):
        random_object(lambda name: loaded.append(name) or stand_in(tmp_path, name), number)
    assert len(set(loaded)) > 100
    assert not set(loaded) & {drawing for drawings in HELD_OUT.values() for drawing in drawings}


def test_a_recolored_object_keeps_its_outline(tmp_path):
    image = stand_in(tmp_path, "any")
    recolor = recolored(image, np.random.default_rng(0))
    assert recolor.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    assert recolor.tobytes() != image.tobytes()


def test_a_made_up_object_fills_its_frame():
    for seed in range(10):
        assert max(made_up(np.random.default_rng(seed)).size) == 128
