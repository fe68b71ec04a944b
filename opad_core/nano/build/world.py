"""Pictures of the nano world with exact captions, a pure function of a seed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from opad_core.nano.build.architecture import RESOLUTION
from opad_core.nano.build.scenes import draw_scene
from opad_core.nano.build.sprites import patterned, tint
from opad_core.nano.build.vocabulary import (
    COLOURS,
    DRAWINGS,
    PATTERN_COLOURS,
    PATTERNS,
    SCENES,
    TEMPLATES,
    Template,
    with_article,
)

_BACKGROUNDS_PER_SCENE = 16
BACKGROUNDS_ON_THE_GRID = 3
_PLAIN = Template("a {}")


@dataclass(frozen=True)
class Sample:
    """One picture and what is in it; `noun`, `drawing` and `colour` are empty where they do not apply."""

    pixels: NDArray[np.uint8]
    caption: str
    noun: str
    drawing: str
    colour: str
    scene: str


class World:
    """Drawings in all colours and a pool of backgrounds, each made when first needed and then kept."""

    def __init__(self, load: Callable[[str], Image.Image]) -> None:
        """`load` gives a drawing of `vocabulary.DRAWINGS` by name, see `sprites.load_drawing`."""
        self._load = load
        self._sprites: dict[tuple[str, str], Image.Image] = {}
        self._backgrounds: dict[tuple[str, int], Image.Image] = {}

    def render(self, seed: int, *, aligned: bool = False) -> Sample:
        """95 % show an object (a quarter of them in a named colour, a quarter with a pattern), 5 % only a scene.

        `aligned` objects stand upright on the grid of latents, in one place and in one size per template: a shift by
        part of a patch is another set of latents altogether, and one more thing that a single step cannot know.
        Their scenes come in few drawings for the same reason: of sixteen brick walls it learned the mean, a brown one.
        Where the caption names no scene they stand on white: else the code of `coder.py` has to tell the scene, and the
        student goes on listening to it where the prompt does name one (scene top-1 .77 with a fifth of such captions).
        """
        rng = np.random.default_rng(seed)
        scene = str(rng.choice(list(SCENES)))
        number = int(rng.integers(_BACKGROUNDS_PER_SCENE))
        number = number % BACKGROUNDS_ON_THE_GRID if aligned else number
        if rng.random() < 0.05:
            background = self.background(scene, number)
            return Sample(np.asarray(background), f"a photo of {SCENES[scene].place}", "", "", "", scene)
        noun = str(rng.choice(list(DRAWINGS)))
        drawing = str(rng.choice(DRAWINGS[noun]))
        colour = str(rng.choice(list(COLOURS))) if rng.random() < 0.25 else ""
        pattern, ink = (str(rng.choice(PATTERNS)), str(rng.choice(list(PATTERN_COLOURS))))
        dressed = f"with {ink} {pattern}" if rng.random() < 0.25 else ""
        template = _PLAIN if rng.random() < 0.4 else TEMPLATES[rng.integers(len(TEMPLATES))]
        says_where = template is _PLAIN or rng.random() < 0.65
        phrase = str(rng.choice(SCENES[scene].phrases)) if says_where else ""
        if aligned and not says_where:
            scene = "white"
        caption = with_article(" ".join(f"{template.text.format(f'{colour} {noun} {dressed}')} {phrase}".split()))
        sprite, floating = self.sprite(drawing, colour), scene == "water"
        if dressed:
            sprite = patterned(sprite, pattern, PATTERN_COLOURS[ink])
        background = self.background(scene, number)
        if aligned:
            picture = place(background, sprite, rng, upright(template.grid_size), floating=floating)
        else:
            picture = place_object(background, sprite, rng, size=template.size, floating=floating)
        if template.brightness != 1.0:
            picture = ImageEnhance.Brightness(picture).enhance(template.brightness)
        return Sample(np.asarray(picture), caption, noun, drawing, colour, scene)

    def sprite(self, drawing: str, colour: str) -> Image.Image:
        if (drawing, colour) not in self._sprites:
            plain = self._load(drawing) if not colour else self.sprite(drawing, "")
            self._sprites[drawing, colour] = tint(plain, COLOURS[colour]) if colour else plain
        return self._sprites[drawing, colour]

    def background(self, scene: str, number: int) -> Image.Image:
        if (scene, number) not in self._backgrounds:
            self._backgrounds[scene, number] = draw_scene(scene, np.random.default_rng([*scene.encode(), number]))
        return self._backgrounds[scene, number]


def place_object(
    background: Image.Image, sprite: Image.Image, rng: np.random.Generator, *, size: tuple[int, int], floating: bool
) -> Image.Image:
    """Stand the sprite in the lower middle with a little tilt and, unless it floats, a soft shadow.

    `size` bounds its longest side in pixels of a 64-pixel picture; larger backgrounds scale it along.
    """
    unit = background.width / RESOLUTION
    sprite = _scaled(sprite, rng.integers(size[0], size[1] + 1) * unit).rotate(
        float(np.clip(rng.normal(0, 3), -7, 7)), Image.Resampling.BICUBIC, expand=True
    )
    sprite = _lit(sprite, rng)
    x = round((background.width - sprite.width) / 2 + rng.uniform(-2, 2) * unit)
    centre = (background.height - sprite.height) / 2 + (background.height - sprite.height) * 0.12
    y = round(centre + rng.uniform(-1, 1) * unit)
    return _stood(background, sprite, x, y, floating=floating)


@dataclass(frozen=True)
class Pose:
    """How a thing stands, in the middle of a picture of 64 pixels; the default is on the grid of latents."""

    size: float = 48
    """Its longest side, pixels."""
    tilt: float = 0.0
    """Degrees, to the left."""
    foot: float = 56
    """Where it ends below, pixels from the top."""


def upright(size: float) -> Pose:
    """On the grid."""
    return Pose(size, foot=60 if size > 48 else 56)


def place(
    background: Image.Image, sprite: Image.Image, rng: np.random.Generator, pose: Pose, *, floating: bool
) -> Image.Image:
    """Stand the sprite so, in a light drawn from `rng` and, unless it floats, with a soft shadow.

    Backgrounds larger than 64 pixels enlarge the pose.
    """
    posed, x, y = _posed(sprite, pose, background.width)
    return _stood(background, _lit(posed, rng), x, y, floating=floating)


def cutout(sprite: Image.Image, pose: Pose) -> NDArray[np.uint8]:
    """The layers of `place`, unlit, [5, 64, 64]: red, green, blue, opacity, and the shadow's opacity."""
    posed, x, y = _posed(sprite, pose, RESOLUTION)
    canvas = Image.new("RGBA", (RESOLUTION, RESOLUTION))
    canvas.paste(posed, (x, y))
    return np.concatenate([np.asarray(canvas), np.asarray(_shadow(canvas, posed, x, y))[..., None]], 2).transpose(
        2, 0, 1
    )


def _posed(sprite: Image.Image, pose: Pose, side: int) -> tuple[Image.Image, int, int]:
    """The sprite as large as it is in a picture of `side` pixels, and where its upper left corner belongs there."""
    unit, longest = side / RESOLUTION, max(sprite.size)
    if pose.tilt:
        turned = sprite.rotate(pose.tilt, Image.Resampling.BICUBIC, expand=True)
        sprite = turned.crop(turned.getchannel("A").getbbox())
    sprite = _scaled(sprite, pose.size * unit * max(sprite.size) / longest)
    return sprite, round((side - sprite.width) / 2), round(pose.foot * unit) - sprite.height


def _scaled(sprite: Image.Image, longest: float) -> Image.Image:
    scale = longest / max(sprite.size)
    size = (max(1, round(sprite.width * scale)), max(1, round(sprite.height * scale)))
    return sprite.resize(size, Image.Resampling.BOX)


def _lit(sprite: Image.Image, rng: np.random.Generator) -> Image.Image:
    lit = ImageEnhance.Brightness(sprite.convert("RGB")).enhance(float(rng.uniform(0.94, 1.06)))
    lit.putalpha(sprite.getchannel("A"))
    return lit


def _stood(background: Image.Image, sprite: Image.Image, x: int, y: int, *, floating: bool) -> Image.Image:
    canvas = background.copy()
    if not floating:
        canvas.paste((0, 0, 0), (0, 0), _shadow(background, sprite, x, y))
    canvas.paste(sprite, (x, y), sprite)
    return canvas


def _shadow(background: Image.Image, sprite: Image.Image, x: int, y: int) -> Image.Image:
    unit = background.width / RESOLUTION
    shade = Image.new("L", background.size)
    width, base = sprite.width * 0.42, y + sprite.height - 2 * unit
    middle = x + sprite.width / 2
    ImageDraw.Draw(shade).ellipse((middle - width, base - 2.5 * unit, middle + width, base + 2.5 * unit), fill=105)
    return shade.filter(ImageFilter.GaussianBlur(1.2 * unit))
