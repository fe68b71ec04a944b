"""Images of the nano world with exact captions. Image and caption depend on nothing but a seed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from opad_core.nano.build.architecture import RESOLUTION
from opad_core.nano.build.scenes import draw_scene
from opad_core.nano.build.sprites import patterned, tint
from opad_core.nano.build.vocabulary import (
    COLORS,
    DRAWINGS,
    PATTERN_COLORS,
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
    """One image and its labels. `noun`, `drawing` and `color` are empty where they do not apply."""

    pixels: NDArray[np.uint8]
    caption: str
    noun: str
    drawing: str
    color: str
    scene: str


class World:
    """Renders images, and caches the drawings and backgrounds that it has made."""

    def __init__(self, load: Callable[[str], Image.Image]) -> None:
        """`load` returns a drawing of `vocabulary.DRAWINGS` by its name, see `sprites.load_drawing`."""
        self._load = load
        self._sprites: dict[tuple[str, str], Image.Image] = {}
        self._backgrounds: dict[tuple[str, int], Image.Image] = {}

    def render(self, seed: int, *, aligned: bool = False) -> Sample:
        """Render the image of this seed.

        95 % of images show an object, 5 % only a scene. A quarter of the objects have a named color and a quarter have
        a pattern.

        `aligned` objects stand upright on the grid of latents, with one position and one size per template. A shift by
        part of a patch changes all latents, and a single step cannot know the shift. For the same reason each scene has
        few backgrounds: from sixteen brick walls the student learned their mean, a plain brown one.

        An aligned object has a white background if its caption names no scene. Otherwise the code of `coder.py` must
        tell the scene, and then the student follows the code even where the prompt names a scene. (Scene top-1 was .77
        with a fifth of such captions.)
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
        color = str(rng.choice(list(COLORS))) if rng.random() < 0.25 else ""
        pattern, pattern_color = (str(rng.choice(PATTERNS)), str(rng.choice(list(PATTERN_COLORS))))
        pattern_phrase = f"with {pattern_color} {pattern}" if rng.random() < 0.25 else ""
        template = _PLAIN if rng.random() < 0.4 else TEMPLATES[rng.integers(len(TEMPLATES))]
        names_scene = template is _PLAIN or rng.random() < 0.65
        phrase = str(rng.choice(SCENES[scene].phrases)) if names_scene else ""
        if aligned and not names_scene:
            scene = "white"
        caption = with_article(" ".join(f"{template.text.format(f'{color} {noun} {pattern_phrase}')} {phrase}".split()))
        sprite, floating = self.sprite(drawing, color), scene == "water"
        if pattern_phrase:
            sprite = patterned(sprite, pattern, PATTERN_COLORS[pattern_color])
        background = self.background(scene, number)
        if aligned:
            image = place(background, sprite, rng, upright(template.grid_size), floating=floating)
        else:
            image = place_object(background, sprite, rng, size=template.size, floating=floating)
        if template.brightness != 1.0:
            image = ImageEnhance.Brightness(image).enhance(template.brightness)
        return Sample(np.asarray(image), caption, noun, drawing, color, scene)

    def sprite(self, drawing: str, color: str) -> Image.Image:
        if (drawing, color) not in self._sprites:
            plain = self._load(drawing) if not color else self.sprite(drawing, "")
            self._sprites[drawing, color] = tint(plain, COLORS[color]) if color else plain
        return self._sprites[drawing, color]

    def background(self, scene: str, number: int) -> Image.Image:
        if (scene, number) not in self._backgrounds:
            self._backgrounds[scene, number] = draw_scene(scene, np.random.default_rng([*scene.encode(), number]))
        return self._backgrounds[scene, number]


def place_object(
    background: Image.Image, sprite: Image.Image, rng: np.random.Generator, *, size: tuple[int, int], floating: bool
) -> Image.Image:
    """Place the sprite in the lower middle with a slight random tilt and, unless it floats, a soft shadow.

    `size` is the range of its longest side, in pixels of a 64-pixel image. It scales with larger backgrounds.
    """
    unit = background.width / RESOLUTION
    sprite = _scaled(sprite, rng.integers(size[0], size[1] + 1) * unit).rotate(
        float(np.clip(rng.normal(0, 3), -7, 7)), Image.Resampling.BICUBIC, expand=True
    )
    sprite = _with_random_light(sprite, rng)
    x = round((background.width - sprite.width) / 2 + rng.uniform(-2, 2) * unit)
    center = (background.height - sprite.height) / 2 + (background.height - sprite.height) * 0.12
    y = round(center + rng.uniform(-1, 1) * unit)
    return _paste(background, sprite, x, y, floating=floating)


@dataclass(frozen=True)
class Pose:
    """The pose of an object in the middle of a 64-pixel image. The default is on the grid of latents."""

    size: float = 48
    """Length of the longest side, in pixels."""
    tilt: float = 0.0
    """Counterclockwise rotation, in degrees."""
    foot: float = 56
    """Position of its lower edge, in pixels from the top."""


def upright(size: float) -> Pose:
    """Return the pose of this size on the grid of latents."""
    return Pose(size, foot=60 if size > 48 else 56)


def place(
    background: Image.Image, sprite: Image.Image, rng: np.random.Generator, pose: Pose, *, floating: bool
) -> Image.Image:
    """Place the sprite in this pose, with a random brightness and, unless it floats, a soft shadow.

    The pose scales with backgrounds larger than 64 pixels.
    """
    posed, x, y = _posed(sprite, pose, background.width)
    return _paste(background, _with_random_light(posed, rng), x, y, floating=floating)


def cutout(sprite: Image.Image, pose: Pose) -> NDArray[np.uint8]:
    """Return the layers of `place` before lighting, [5, 64, 64]: red, green, blue, opacity, opacity of the shadow."""
    posed, x, y = _posed(sprite, pose, RESOLUTION)
    canvas = Image.new("RGBA", (RESOLUTION, RESOLUTION))
    canvas.paste(posed, (x, y))
    return np.concatenate([np.asarray(canvas), np.asarray(_shadow(canvas, posed, x, y))[..., None]], 2).transpose(
        2, 0, 1
    )


def _posed(sprite: Image.Image, pose: Pose, side: int) -> tuple[Image.Image, int, int]:
    """Return the sprite scaled for an image of `side` pixels, and the position of its upper left corner."""
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


def _with_random_light(sprite: Image.Image, rng: np.random.Generator) -> Image.Image:
    lit = ImageEnhance.Brightness(sprite.convert("RGB")).enhance(float(rng.uniform(0.94, 1.06)))
    lit.putalpha(sprite.getchannel("A"))
    return lit


def _paste(background: Image.Image, sprite: Image.Image, x: int, y: int, *, floating: bool) -> Image.Image:
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
