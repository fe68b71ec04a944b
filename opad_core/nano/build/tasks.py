"""Things that no word of the world means: its drawings in other colours, proportions and patterns, and made-up ones.

They stand in for the concepts that people will bring, see adapting.py.
"""

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from opad_core.nano.build.sprites import SIDE
from opad_core.nano.build.vocabulary import DRAWINGS, NOUNS

_MADE_UP, _RECOLOURED, _STRETCHED, _FLIPPED, _PATTERNED = 0.2, 0.75, 0.5, 0.3, 0.35  # shares
_CANVAS = 256


def random_thing(load: Callable[[str], Image.Image], number: int) -> tuple[Image.Image, str]:
    """The thing of this number: a drawing with transparency, and the noun that a photo's caption calls it.

    `load` gives a drawing of the vocabulary by its name.
    """
    rng = np.random.default_rng(number)
    noun = str(rng.choice(NOUNS))
    if rng.random() < _MADE_UP:
        picture = made_up(rng)
    else:
        picture = load(str(rng.choice(DRAWINGS[noun])))
        if rng.random() < _RECOLOURED:
            picture = recoloured(picture, rng)
        if rng.random() < _STRETCHED:
            picture = picture.resize((max(1, round(picture.width * rng.uniform(0.7, 1.3))), picture.height))
        if rng.random() < _FLIPPED:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return (randomly_patterned(picture, rng) if rng.random() < _PATTERNED else picture), noun


def recoloured(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """All hues turned about the grey axis by one angle, saturation, contrast and light changed."""
    pixels = np.asarray(picture).astype(np.float32) / 255
    rgb, alpha = pixels[..., :3] @ _turned(rng.uniform(0, 2 * np.pi)).T, pixels[..., 3:]
    grey = rgb.mean(-1, keepdims=True)
    rgb = grey + (rgb - grey) * rng.uniform(0.3, 1.5)
    rgb = (rgb - 0.5) * rng.uniform(0.7, 1.2) + 0.5 + rng.uniform(-0.15, 0.15)
    return Image.fromarray((np.concatenate([rgb.clip(0, 1), alpha], -1) * 255).round().astype(np.uint8), "RGBA")


def _turned(angle: float) -> NDArray[np.float32]:
    """Rotation of RGB about (1, 1, 1), by Rodrigues' formula, [3, 3]."""
    axis = np.full(3, 3**-0.5)
    cross = np.cross(np.eye(3), axis)
    turned = np.cos(angle) * np.eye(3) - np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)
    return np.asarray(turned, dtype=np.float32)


def made_up(rng: np.random.Generator) -> Image.Image:
    """A few ellipses, boxes and triangles in colours of their own, on and behind a large one; longest side 128."""
    picture = Image.new("RGBA", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(picture)
    middle = _CANVAS / 2
    for _ in range(rng.integers(0, 3)):
        _shape(draw, rng, size=(60, 140), centre=tuple(rng.uniform(60, 196, 2)))
    _shape(draw, rng, size=(110, 230), centre=(middle, middle + 12))
    for _ in range(rng.integers(1, 6)):
        _shape(draw, rng, size=(16, 90), centre=tuple(rng.uniform(70, 190, 2)))
    cropped = picture.crop(picture.getchannel("A").getbbox())
    scale = SIDE / max(cropped.size)
    return cropped.resize([max(1, round(side * scale)) for side in cropped.size], Image.Resampling.LANCZOS)


def _shape(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, *, size: tuple[int, int], centre: tuple[float, ...]
) -> None:
    (x, y), (width, height) = centre, rng.uniform(*size, 2) / 2
    box, colour = (x - width, y - height, x + width, y + height), _colour(rng)
    match rng.integers(4):
        case 0:
            draw.ellipse(box, colour)
        case 1:
            draw.rounded_rectangle(box, int(rng.integers(2, 40)), colour)
        case 2:
            draw.polygon([(box[0], box[3]), (x, box[1]), (box[2], box[3])], colour)
        case _:
            draw.rectangle(box, colour)


def randomly_patterned(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Stripes across or along, dots or checks of any width in any colour, inside the drawing's outline."""
    mask = Image.new("L", picture.size)
    draw = ImageDraw.Draw(mask)
    gap = int(rng.integers(14, 40))
    thick, start, kind = int(gap * rng.uniform(0.3, 0.6)), int(rng.integers(gap)), rng.integers(4)
    if kind == 0:
        for y in range(start, picture.height, gap):
            draw.rectangle((0, y, picture.width, y + thick), fill=255)
    elif kind == 1:
        for x in range(start, picture.width, gap):
            draw.rectangle((x, 0, x + thick, picture.height), fill=255)
    elif kind == 2:
        for row, y in enumerate(range(0, picture.height, gap)):
            for x in range(gap // 2 * (row % 2), picture.width, gap):
                draw.ellipse((x, y, x + thick, y + thick), fill=255)
    else:
        for row, y in enumerate(range(0, picture.height, gap)):
            for x in range(gap * (row % 2), picture.width, 2 * gap):
                draw.rectangle((x, y, x + gap - 1, y + gap - 1), fill=255)
    result = picture.copy()
    colour = Image.new("RGB", picture.size, _colour(rng))
    result.paste(colour, (0, 0), ImageChops.multiply(mask, picture.getchannel("A")))
    result.putalpha(picture.getchannel("A"))
    return result


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 1), rng.uniform(0.2, 1))
    red, green, blue = (int(255 * part) for part in rgb)
    return red, green, blue
