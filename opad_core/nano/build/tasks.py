"""New objects that no word of the world names: drawings in other colors, proportions and patterns, and made-up ones.

They stand in for the concepts that users bring, see adapting.py.
"""

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from opad_core.nano.build.sprites import SIDE
from opad_core.nano.build.vocabulary import DRAWINGS, NOUNS

_MADE_UP, _RECOLORED, _STRETCHED, _FLIPPED, _PATTERNED = 0.2, 0.75, 0.5, 0.3, 0.35  # probabilities
_CANVAS = 256


def random_object(load: Callable[[str], Image.Image], number: int) -> tuple[Image.Image, str]:
    """Return the object of this number: a drawing with transparency, and the noun for it in captions.

    `load` returns a drawing of the vocabulary by its name.
    """
    rng = np.random.default_rng(number)
    noun = str(rng.choice(NOUNS))
    if rng.random() < _MADE_UP:
        image = made_up(rng)
    else:
        image = load(str(rng.choice(DRAWINGS[noun])))
        if rng.random() < _RECOLORED:
            image = recolored(image, rng)
        if rng.random() < _STRETCHED:
            image = image.resize((max(1, round(image.width * rng.uniform(0.7, 1.3))), image.height))
        if rng.random() < _FLIPPED:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return (randomly_patterned(image, rng) if rng.random() < _PATTERNED else image), noun


def recolored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Rotate all hues about the gray axis by one angle, and change saturation, contrast and brightness."""
    pixels = np.asarray(image).astype(np.float32) / 255
    rgb, alpha = pixels[..., :3] @ _hue_rotation(rng.uniform(0, 2 * np.pi)).T, pixels[..., 3:]
    gray = rgb.mean(-1, keepdims=True)
    rgb = gray + (rgb - gray) * rng.uniform(0.3, 1.5)
    rgb = (rgb - 0.5) * rng.uniform(0.7, 1.2) + 0.5 + rng.uniform(-0.15, 0.15)
    return Image.fromarray((np.concatenate([rgb.clip(0, 1), alpha], -1) * 255).round().astype(np.uint8), "RGBA")


def _hue_rotation(angle: float) -> NDArray[np.float32]:
    """Return the rotation of RGB about (1, 1, 1), [3, 3], by Rodrigues' formula."""
    axis = np.full(3, 3**-0.5)
    cross = np.cross(np.eye(3), axis)
    rotation = np.cos(angle) * np.eye(3) - np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)
    return np.asarray(rotation, dtype=np.float32)


def made_up(rng: np.random.Generator) -> Image.Image:
    """Draw a few ellipses, boxes and triangles of random colors on and behind a large one. The longest side is 128."""
    image = Image.new("RGBA", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(image)
    middle = _CANVAS / 2
    for _ in range(rng.integers(0, 3)):
        _shape(draw, rng, size=(60, 140), center=tuple(rng.uniform(60, 196, 2)))
    _shape(draw, rng, size=(110, 230), center=(middle, middle + 12))
    for _ in range(rng.integers(1, 6)):
        _shape(draw, rng, size=(16, 90), center=tuple(rng.uniform(70, 190, 2)))
    cropped = image.crop(image.getchannel("A").getbbox())
    scale = SIDE / max(cropped.size)
    return cropped.resize([max(1, round(side * scale)) for side in cropped.size], Image.Resampling.LANCZOS)


def _shape(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, *, size: tuple[int, int], center: tuple[float, ...]
) -> None:
    (x, y), (width, height) = center, rng.uniform(*size, 2) / 2
    box, color = (x - width, y - height, x + width, y + height), _color(rng)
    match rng.integers(4):
        case 0:
            draw.ellipse(box, color)
        case 1:
            draw.rounded_rectangle(box, int(rng.integers(2, 40)), color)
        case 2:
            draw.polygon([(box[0], box[3]), (x, box[1]), (box[2], box[3])], color)
        case _:
            draw.rectangle(box, color)


def randomly_patterned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Put stripes, dots or checks of random width and color on the drawing, inside its outline."""
    mask = Image.new("L", image.size)
    draw = ImageDraw.Draw(mask)
    gap = int(rng.integers(14, 40))
    thick, start, kind = int(gap * rng.uniform(0.3, 0.6)), int(rng.integers(gap)), rng.integers(4)
    if kind == 0:
        for y in range(start, image.height, gap):
            draw.rectangle((0, y, image.width, y + thick), fill=255)
    elif kind == 1:
        for x in range(start, image.width, gap):
            draw.rectangle((x, 0, x + thick, image.height), fill=255)
    elif kind == 2:
        for row, y in enumerate(range(0, image.height, gap)):
            for x in range(gap // 2 * (row % 2), image.width, gap):
                draw.ellipse((x, y, x + thick, y + thick), fill=255)
    else:
        for row, y in enumerate(range(0, image.height, gap)):
            for x in range(gap * (row % 2), image.width, 2 * gap):
                draw.rectangle((x, y, x + gap - 1, y + gap - 1), fill=255)
    result = image.copy()
    color = Image.new("RGB", image.size, _color(rng))
    result.paste(color, (0, 0), ImageChops.multiply(mask, image.getchannel("A")))
    result.putalpha(image.getchannel("A"))
    return result


def _color(rng: np.random.Generator) -> tuple[int, int, int]:
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 1), rng.uniform(0.2, 1))
    red, green, blue = (int(255 * part) for part in rgb)
    return red, green, blue
