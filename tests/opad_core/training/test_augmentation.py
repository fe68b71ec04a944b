from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from opad_core.methods.opad.config import OpadConfig, preset
from opad_core.pixels import squared
from opad_core.training.augmentation import Example, augmented, indices_at, reference_examples

WHITE = Example(Image.new("RGB", (128, 128), "white"), "a photo of a <concept>")
SHRUNK = replace(OpadConfig(), canvas_probability=1.0, canvas_scale=(0.5, 0.5))


def test_a_shrunk_image_is_on_gray_and_the_mask_is_inside_it():
    batch = augmented([WHITE], SHRUNK, latent=16, resolution=64, generator=torch.Generator().manual_seed(0))
    image = batch.pixels[0, 0] == 1
    assert image.sum() == 32 * 32
    assert (batch.pixels[0, 0][~image] == 0).all()
    cells = image.float().unfold(0, 4, 4).unfold(1, 4, 4).mean((2, 3)) == 1  # cells that contain only the image
    assert batch.mask.sum() >= 25
    assert (batch.mask[0, 0].bool() & ~cells).sum() == 0


def test_the_prompt_names_the_size():
    prompts = {
        augmented([WHITE], SHRUNK, latent=16, resolution=64, generator=torch.Generator().manual_seed(i)).prompts[0]
        for i in range(12)
    }
    assert prompts == {"a a far away photo of a <concept>", "a very small photo of a <concept>"}


def test_an_enlarged_image_fills_the_frame():
    config = replace(OpadConfig(), canvas_probability=0.0, size_words=False)
    batch = augmented([WHITE], config, latent=16, resolution=64, generator=torch.Generator().manual_seed(0))
    assert (batch.pixels == 1).all()
    assert (batch.mask == 1).all()
    assert batch.prompts == [WHITE.prompt]


@pytest.mark.parametrize("scale", [0.35, 0.5, 0.61, 0.8, 0.95])
def test_the_mask_is_one_cell_smaller_than_the_image(scale):
    """A cell is in the mask if it and its neighbors contain only the image. Beyond the frame there is no canvas."""
    config = replace(OpadConfig(), canvas_probability=1.0, canvas_scale=(scale, scale), size_words=False)
    places = set()
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        batch = augmented([WHITE], config, latent=16, resolution=64, generator=generator)
        image = batch.pixels[0, 0] == 1
        whole = image.float().unfold(0, 4, 4).unfold(1, 4, 4).mean((2, 3)) == 1
        around = torch.nn.functional.pad(whole.float()[None, None], (1, 1, 1, 1), value=1.0)
        inside = -torch.nn.functional.max_pool2d(-around, 3, stride=1)[0, 0]
        assert torch.equal(batch.mask[0, 0], inside)
        places.add(tuple(image.nonzero()[0].tolist()))
    free = 64 - round(scale * 64)
    tops, lefts = zip(*places, strict=True)
    # any position vertically and horizontally: the extremes of 40 are within an eighth of the ends
    for found in (tops, lefts):
        assert min(found) <= free / 8
        assert free * 7 / 8 <= max(found) <= free
    assert len(places) > min(30, free)


def test_the_canvas_is_gray_or_continues_the_images_edge():
    steps = np.tile(np.repeat(np.arange(0, 256, 4, dtype=np.uint8), 1), (64, 1))
    example = Example(Image.fromarray(np.stack([steps, steps.T, steps], -1)), "a <concept>")
    views = {}
    for fill in ("gray", "edge"):
        config = replace(SHRUNK, flip_probability=0.0, canvas_fill=fill)
        generator = torch.Generator().manual_seed(3)
        views[fill] = augmented([example], config, latent=16, resolution=64, generator=generator)
    gray, edge = views["gray"].pixels[0], views["edge"].pixels[0]
    shown = gray != 0
    assert torch.equal(views["gray"].mask, views["edge"].mask)
    assert torch.equal(gray[shown], edge[shown])
    rows, columns = (shown.any(0).any(dim).nonzero().flatten() for dim in (1, 0))
    left, right, top = int(columns[0]), int(columns[-1]), int(rows[0])
    assert 0 < left < right < 63
    assert top > 0
    assert torch.equal(edge[:, top:, 0], edge[:, top:, left])
    assert torch.equal(edge[:, top:, 63], edge[:, top:, right])
    assert torch.equal(edge[:, 0], edge[:, top])


def test_an_image_of_less_than_three_cells_keeps_one_in_its_mask():
    config = replace(OpadConfig(), canvas_probability=1.0, canvas_scale=(1 / 3, 1 / 3))
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        batch = augmented([WHITE], config, latent=8, resolution=64, generator=generator)
        # 21 pixels are between two and three cells; at the frame's edges there is no canvas
        assert batch.mask.sum() in (1, 2, 4)


def test_images_are_flipped_with_the_given_probability():
    half_white = Image.new("RGB", (64, 64))
    half_white.paste("white", (0, 0, 32, 64))
    example, flipped = Example(half_white, "a <concept>"), []
    for probability in (0.0, 0.25, 1.0):
        config = replace(
            OpadConfig(), flip_probability=probability, canvas_probability=0.0, crop_scale=(1.0, 1.0)
        )  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        batch = augmented([example] * 400, config, latent=8, resolution=64, generator=generator)
        flipped.append(float((batch.pixels[:, 0, 32, 0] == -1).float().mean()))
    assert flipped == [0.0, pytest.approx(0.25, abs=0.07), 1.0]  # three standard errors of 400 samples


def test_a_crop_is_anywhere_in_the_enlarged_image():
    ramp = np.zeros((128, 128, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(128)[None], np.arange(128)[:, None]
    config = replace(OpadConfig(), flip_probability=0.0, canvas_probability=0.0, crop_scale=(1.25, 1.25))
    generator = torch.Generator().manual_seed(0)
    examples = [Example(Image.fromarray(ramp), "a <concept>")] * 200
    pixels = (augmented(examples, config, latent=8, resolution=64, generator=generator).pixels + 1) * 127.5
    for channel in (0, 1):  # horizontal, vertical: a fifth of the image is cut off on both sides together
        first = pixels[:, channel].flatten(1).min(1).values / 127
        assert float(first.min()) < 0.02
        assert 0.18 < float(first.max()) < 0.22
    across, down = pixels[:, 0].amin((1, 2)), pixels[:, 1].amin((1, 2))
    assert abs(float(torch.corrcoef(torch.stack([across, down]))[0, 1])) < 0.2  # independent of each other


def shares_shown(config, *, canvas, resolution, count=3000):
    """Return the mean share of the image's area that is shown, the share of uncropped images, and the prompts.

    The image is a ramp from black to white, so the brightest and darkest pixels of a crop tell what it shows.
    """
    ramp = np.tile(np.linspace(0, 255, 128, dtype=np.uint8)[None, :, None], (128, 1, 3))
    example = Example(Image.fromarray(ramp), "a photo of a <concept>")
    generator, sides, prompts = torch.Generator().manual_seed(0), [], []
    for _ in range(count):
        batch = augmented([example], config, latent=8, resolution=resolution, generator=generator, canvas=canvas)
        shown = batch.pixels[0, 0]
        sides.append(min(1.0, float(shown.max() - shown.min()) / 2 * 128 / 127) if batch.mask.min() == 1 else 1.0)
        prompts.append(batch.prompts[0])
    whole = [side > 0.98 for side in sides]
    return sum(side**2 for side in sides) / count, sum(whole) / count, prompts


@pytest.mark.parametrize("name", ["paper", "default"])
def test_real_images_are_uncropped_as_often_as_published(name):
    """66 % are shrunk, or whole without a canvas. The others show 1 / s^2 of the area with s in 1.2-1.4: 0.60."""
    config = preset(name, {})
    area, whole, _ = shares_shown(config, canvas=config.canvas_for_discriminators, resolution=64)
    assert whole == pytest.approx(0.66, abs=0.03)  # 3.5 standard errors of 3000 samples
    assert area == pytest.approx(0.66 + 0.34 * 0.597, abs=0.02)


def test_without_a_canvas_no_prompt_says_far_away():
    """The student gets the prompts of the real images, which are whole or enlarged."""
    _, whole, prompts = shares_shown(preset("default", {}), canvas=False, resolution=64, count=300)
    assert not [prompt for prompt in prompts if "far away" in prompt or "very small" in prompt]
    near = [prompt for prompt in prompts if "zoomed in" in prompt or "close up" in prompt]
    assert len(near) == round((1 - whole) * 300)
    assert {"a photo of a <concept>", "a zoomed in photo of a <concept>", "a close up photo of a <concept>"} == {
        *prompts
    }


def test_every_epoch_has_each_example_once_in_a_new_order():
    seen = [indices_at(8, step, batch_size=2, seed=5) for step in range(8)]
    first, second = ([i for batch in half for i in batch] for half in (seen[:4], seen[4:]))
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second


def test_every_prompt_of_a_reference_ends_in_its_scene(references):
    scenes = [" on the grass", "", " at night", " in the snow"]
    examples = reference_examples(references, scenes, ["a {}", "the {}"], keep_aspect=True)
    assert [e.prompt for e in examples[:4]] == [
        "a <concept> on the grass", "the <concept> on the grass", "a <concept>", "the <concept>",
    ]  # fmt: skip


def test_a_square_keeps_the_middle_or_all_of_it():
    wide = Image.new("RGB", (40, 20), "red")
    wide.paste("blue", (10, 0, 30, 20))
    assert set(squared(wide, keep_aspect=True).get_flattened_data()) == {(0, 0, 255)}
    assert squared(wide, keep_aspect=False).getpixel((0, 10)) == (255, 0, 0)
