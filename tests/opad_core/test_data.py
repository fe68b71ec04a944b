from dataclasses import replace

import pytest
import torch
from PIL import Image

from opad_core.config import OpadConfig
from opad_core.data import Example, augmented, indices_at, photo_examples, read_references, squared
from opad_core.errors import OpadError

WHITE = Example(Image.new("RGB", (128, 128), "white"), "a photo of a <concept>")
SHRUNK = replace(OpadConfig(), canvas_probability=1.0, canvas_scale=(0.5, 0.5))


def test_a_shrunk_photo_lies_on_grey_and_the_mask_stays_inside_it():
    batch = augmented([WHITE], SHRUNK, latent=16, resolution=64, generator=torch.Generator().manual_seed(0))
    photo = batch.pixels[0, 0] == 1
    assert photo.sum() == 32 * 32
    assert (batch.pixels[0, 0][~photo] == 0).all()
    cells = photo.float().unfold(0, 4, 4).unfold(1, 4, 4).mean((2, 3)) == 1  # cells that are wholly photo
    assert batch.mask.sum() >= 25
    assert (batch.mask[0, 0].bool() & ~cells).sum() == 0


def test_the_prompt_tells_the_size():
    prompts = {
        augmented([WHITE], SHRUNK, latent=16, resolution=64, generator=torch.Generator().manual_seed(i)).prompts[0]
        for i in range(12)
    }
    assert prompts == {"a a far away photo of a <concept>", "a very small photo of a <concept>"}


def test_an_enlarged_photo_fills_the_picture():
    config = replace(OpadConfig(), canvas_probability=0.0, size_words=False)
    batch = augmented([WHITE], config, latent=16, resolution=64, generator=torch.Generator().manual_seed(0))
    assert (batch.pixels == 1).all()
    assert (batch.mask == 1).all()
    assert batch.prompts == [WHITE.prompt]


def test_an_epoch_shows_every_example_once_in_an_order_of_its_own():
    seen = [indices_at(8, step, batch_size=2, seed=5) for step in range(8)]
    first, second = ([i for batch in half for i in batch] for half in (seen[:4], seen[4:]))
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second


def test_every_prompt_of_a_photo_ends_in_its_scene(references):
    scenes = [" on the grass", "", " at night", " in the snow"]
    examples = photo_examples(references, scenes, ["a {}", "the {}"], keep_aspect=True)
    assert [e.prompt for e in examples[:4]] == [
        "a <concept> on the grass", "the <concept> on the grass", "a <concept>", "the <concept>",
    ]  # fmt: skip


def test_a_square_keeps_the_middle_or_all_of_it():
    wide = Image.new("RGB", (40, 20), "red")
    wide.paste("blue", (10, 0, 30, 20))
    assert set(squared(wide, keep_aspect=True).get_flattened_data()) == {(0, 0, 255)}
    assert squared(wide, keep_aspect=False).getpixel((0, 10)) == (255, 0, 0)


@pytest.fixture
def folder_of(tmp_path):
    def fill(count):
        for i in range(count):
            Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / f"{i:03}.png")
        return tmp_path

    return fill


@pytest.mark.parametrize("count", [1, 6, 100])
def test_a_folder_of_1_to_100_photos_is_read_in_the_order_of_their_names(folder_of, count):
    assert [photo.getpixel((0, 0)) for photo in read_references(folder_of(count))] == [(i, 0, 0) for i in range(count)]


@pytest.mark.parametrize("count", [0, 101])
def test_a_folder_with_no_photo_or_too_many_is_refused(folder_of, count):
    with pytest.raises(OpadError, match=rf"needs 1-100 reference images.*holds {count}$"):
        read_references(folder_of(count))


def test_a_broken_photo_is_named(tmp_path):
    for i in range(3):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"not a picture")
    with pytest.raises(OpadError, match=r"1\.png cannot be read"):
        read_references(tmp_path)
