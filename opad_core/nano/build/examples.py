"""Stage `examples`: concepts to try, from drawings that no network was trained on or that are drawn here."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from opad_core.nano.build.scenes import draw_scene
from opad_core.nano.build.sprites import tint
from opad_core.nano.build.stage import Build
from opad_core.nano.build.vocabulary import NOUNS
from opad_core.nano.build.world import place_object

_SIDE = 256
_SCENES = ("white", "grass", "wood", "beach")


def draw_examples(build: Build) -> None:
    """Write examples/NAME/{0..3}.png and class.txt into `examples/` of the build folder."""
    for seed, (name, (noun, sprite)) in enumerate(_concepts(partial(build.drawing, build.folder)).items()):
        assert noun in NOUNS, noun
        folder = build.folder / "examples" / name
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([build.seed, seed])
        for index, scene in enumerate(_SCENES):
            background = draw_scene(scene, rng).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
            place_object(background, sprite, rng, size=(42, 54), floating=False).save(folder / f"{index}.png")
        (folder / "class.txt").write_text(noun + "\n")


def _concepts(load: Callable[[str], Image.Image]) -> dict[str, tuple[str, Image.Image]]:
    return {
        "dotted_backpack": ("backpack", _dotted(tint(load("noto:1f392"), 0.48), (250, 214, 70))),
        "poodle": ("dog", load("fluent:1f429")),
        "violet_cat": ("cat", load("fluent:1f408-200d-2b1b")),
        "taxi": ("car", load("fluent:1f695")),
        "blue_teapot": ("teapot", _dotted(tint(load("noto:1fad6"), 0.6), (245, 245, 250))),
        "striped_mug": ("mug", draw_mug()),
        "orange_robot": ("robot", draw_robot()),
    }


def stand_in(folder: Path, name: str) -> Image.Image:
    """One of this project's own two drawings in a colour of its own: for the smoke build, which fetches nothing."""
    del folder
    number = sum(name.encode())
    return tint((draw_mug, draw_robot)[number % 2](), number / 7 % 1)


def _dotted(picture: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Dots on a grid, inside the drawing's outline and shaded by it."""
    dots = Image.new("RGB", picture.size, (255, 255, 255))
    mask = Image.new("L", picture.size)
    for row, y in enumerate(range(10, picture.height, 22)):
        for x in range(8 + 11 * (row % 2), picture.width, 22):
            ImageDraw.Draw(mask).ellipse((x - 5, y - 5, x + 5, y + 5), fill=255)
    dots.paste(colour, (0, 0, *picture.size))
    shade = picture.convert("L").point(lambda value: min(255, 90 + value))
    shaded = ImageChops.multiply(dots, Image.merge("RGB", (shade, shade, shade)))
    result = picture.copy()
    result.paste(shaded, (0, 0), ImageChops.multiply(mask, picture.getchannel("A")))
    result.putalpha(picture.getchannel("A"))
    return result


def draw_mug() -> Image.Image:
    """A white mug with green and navy stripes, 128x128."""
    picture = Image.new("RGBA", (512, 512))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((320, 150, 500, 390), fill=(236, 236, 228, 255))
    draw.ellipse((360, 196, 456, 344), fill=(0, 0, 0, 0))
    draw.rounded_rectangle((40, 70, 390, 490), 60, fill=(244, 244, 236, 255))
    for y, colour in ((150, (36, 150, 92)), (240, (28, 52, 120)), (330, (36, 150, 92)), (420, (28, 52, 120))):
        draw.rectangle((40, y, 390, y + 42), fill=(*colour, 255))
    draw.ellipse((40, 36, 390, 116), fill=(250, 250, 244, 255))
    draw.ellipse((64, 48, 366, 106), fill=(92, 58, 40, 255))
    return _lit(picture)


def draw_robot() -> Image.Image:
    """A whole robot with an orange body, turquoise eyes and grey limbs, 128x128."""
    picture = Image.new("RGBA", (512, 512))
    draw = ImageDraw.Draw(picture)
    grey, orange, dark = (130, 138, 150, 255), (244, 132, 36, 255), (52, 58, 74, 255)
    draw.line((256, 20, 256, 80), grey, 14)
    draw.ellipse((232, 0, 280, 48), (230, 50, 70, 255))
    for x in (80, 386):
        draw.rounded_rectangle((x, 250, x + 46, 400), 20, grey)
    for x in (160, 290):
        draw.rounded_rectangle((x, 420, x + 62, 510), 16, grey)
    draw.rounded_rectangle((120, 70, 392, 236), 46, orange)
    draw.rounded_rectangle((136, 246, 376, 436), 36, orange)
    draw.rounded_rectangle((150, 110, 362, 190), 34, dark)
    for x in (184, 282):
        draw.ellipse((x, 122, x + 54, 176), (64, 226, 220, 255))
    draw.rounded_rectangle((196, 290, 316, 380), 16, (250, 236, 200, 255))
    draw.ellipse((232, 312, 280, 360), (230, 50, 70, 255))
    return _lit(picture)


def _lit(picture: Image.Image) -> Image.Image:
    """Light from the left, then reduced to 128 pixels."""
    ramp = Image.linear_gradient("L").rotate(90).resize(picture.size).point(lambda value: 255 - value // 3)
    lit = ImageChops.multiply(picture.convert("RGB"), Image.merge("RGB", (ramp, ramp, ramp)))
    lit.putalpha(picture.getchannel("A"))
    return lit.resize((128, 128), Image.Resampling.LANCZOS)
