"""Tests of scenes, placement and the encoder's closed form. They fetch no drawings."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from opad_core.nano.build.architecture import LATENT_CHANNELS, build_vae
from opad_core.nano.build.autoencoder import fit_encoder
from opad_core.nano.build.own_drawings import OWN_DRAWINGS, draw_beach_ball, draw_mug
from opad_core.nano.build.scenes import draw_scene
from opad_core.nano.build.sprites import patterned
from opad_core.nano.build.vocabulary import PATTERNS, SCENES
from opad_core.nano.build.world import Pose, cutout, place, place_object, upright


def placed(seed):
    rng = np.random.default_rng(seed)
    return place_object(draw_scene("grass", rng), draw_mug(), rng, size=(40, 40), floating=False)


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_is_a_function_of_its_seed(name):
    first, again, other = (np.asarray(draw_scene(name, np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert first.shape == (64, 64, 3)
    assert (first == again).all()
    assert (first != other).any()


def test_placement_is_a_function_of_its_seed():
    assert (np.asarray(placed(3)) == np.asarray(placed(3))).all()
    assert (np.asarray(placed(3)) != np.asarray(placed(4))).any()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_keeps_the_outline_of_its_drawing_and_has_its_color(pattern):
    plain = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(plain).ellipse((14, 14, 114, 114), fill=(250, 250, 250, 255))
    with_pattern = np.asarray(patterned(plain, pattern, (222, 52, 48)))
    assert (with_pattern[..., 3] == np.asarray(plain)[..., 3]).all()
    inside = with_pattern[with_pattern[..., 3] == 255][:, :3].astype(int)
    red = (np.abs(inside - (222, 52, 48)).max(1) <= 8).mean()
    white = (np.abs(inside - 250).max(1) <= 8).mean()
    # Dots of radius 5 on a grid of 22 cover 16 %, stripes of 14 in 28 and checks half.
    assert 0.1 < red < 0.6
    assert red + white > 0.9


def test_an_object_covers_the_middle():
    background = Image.new("RGB", (64, 64), (0, 255, 0))
    image = place_object(background, draw_mug(), np.random.default_rng(0), size=(40, 40), floating=True)
    assert image.getpixel((30, 34)) != (0, 255, 0)
    assert image.getpixel((2, 2)) == (0, 255, 0)


_POSES = [upright(32), upright(48), upright(56), Pose(44, tilt=6, foot=57)]


@pytest.mark.parametrize("pose", _POSES)
def test_composed_layers_equal_the_placed_image(pose):
    ground = draw_scene("grass", np.random.default_rng(1))
    placed = np.asarray(place(ground, draw_mug(), np.random.default_rng(2), pose, floating=False))
    light = np.random.default_rng(2).uniform(0.94, 1.06)
    layers = cutout(draw_mug(), pose).astype(float)
    shaded = np.asarray(ground) * (1 - layers[4] / 255)[..., None]
    opacity = (layers[3] / 255)[..., None]
    joined = shaded * (1 - opacity) + (layers[:3].transpose(1, 2, 0) * light).clip(0, 255) * opacity
    assert np.abs(joined - placed).max() <= 2  # `place` rounds to whole levels three times, the layers never


def box(pose):
    """Return the bounding box of a 128x64 block in this pose."""
    image = Image.fromarray(cutout(Image.new("RGBA", (128, 64), "red"), pose)[3])
    return image.point(lambda opacity: 255 * (opacity > 127)).getbbox()


def test_a_pose_sets_position_and_size():
    assert box(Pose()) == (8, 32, 56, 56)
    assert box(Pose(32, foot=58)) == (16, 42, 48, 58)


def test_a_tilted_object_keeps_its_size_and_its_lower_edge():
    left, top, right, foot = box(Pose(tilt=7))
    # The bounding box of 48x24 rotated by 7 degrees, within a pixel or so because corners are soft.
    assert right - left == pytest.approx(48 * np.cos(np.radians(7)) + 24 * np.sin(np.radians(7)), abs=1.5)
    assert foot - top == pytest.approx(48 * np.sin(np.radians(7)) + 24 * np.cos(np.radians(7)), abs=1.5)
    assert foot == pytest.approx(56, abs=1)


def test_the_fitted_encoder_gives_principal_components_of_unit_scale():
    images = torch.stack(
        [torch.from_numpy(np.array(placed(seed))).permute(2, 0, 1).float() / 127.5 - 1 for seed in range(24)]
    )
    vae = build_vae()
    fit_encoder(vae, images)
    with torch.no_grad():
        latents = vae.encode(images).latent
    assert latents.shape == (24, LATENT_CHANNELS, 8, 8)
    rows = latents.permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(
        rows.mean(0), torch.zeros(LATENT_CHANNELS), atol=1e-3, rtol=0
    )  # float32 sums over 192 pixels
    assert float(rows.std()) == pytest.approx(1, abs=0.01)
    covariance = rows.T.cov()
    spread = covariance.diagonal().sqrt()
    off = (covariance / spread / spread[:, None]).fill_diagonal_(0).abs().max()
    assert float(off) < 0.01  # components do not correlate


@pytest.mark.parametrize("name", OWN_DRAWINGS)
def test_our_own_drawings_have_a_transparent_background(name):
    drawing = OWN_DRAWINGS[name]()
    alpha = np.asarray(drawing.getchannel("A"))
    assert max(drawing.size) == 128
    assert (alpha > 200).mean() > 0.25
    assert alpha[0, 0] == 0


def test_a_turned_ball_shows_other_segments_in_the_same_outline():
    still, turned = (np.asarray(draw_beach_ball(turn)).astype(int) for turn in (0.0, 0.5))
    assert (still[..., 3] == turned[..., 3]).all()
    assert np.abs(still - turned)[..., :3].mean() > 10
