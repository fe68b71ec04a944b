"""Procedural backgrounds, drawn at twice the resolution and scaled down. All variation comes from one generator."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from opad_core.nano.build.architecture import RESOLUTION

_SIDE = 2 * RESOLUTION
Color = tuple[int, int, int]
Rng = np.random.Generator


def draw_scene(name: str, rng: Rng) -> Image.Image:
    """Draw one of `vocabulary.SCENES` as an RGB image of 64x64."""
    return _PAINTERS[name](rng).resize((RESOLUTION, RESOLUTION), Image.Resampling.BOX)


def _vary(rng: Rng, color: Color, amount: int = 12) -> Color:
    shift = _int(rng, -amount, amount + 1)
    r, g, b = (int(np.clip(c + shift + _int(rng, -5, 6), 0, 255)) for c in color)
    return r, g, b


def _int(rng: Rng, low: int, high: int | None = None) -> int:
    return int(rng.integers(low, high))


def _gradient(top: Color, bottom: Color, height: int = _SIDE) -> Image.Image:
    ramp = np.linspace(0, 1, height)[:, None, None]
    column = np.asarray(top) * (1 - ramp) + np.asarray(bottom) * ramp
    return Image.fromarray(np.broadcast_to(column, (height, _SIDE, 3)).astype(np.uint8), "RGB")


def _grain(image: Image.Image, rng: Rng, amount: float) -> Image.Image:
    noise = rng.normal(0, amount, (_SIDE // 4, _SIDE // 4)).astype(np.float32)
    soft = np.asarray(Image.fromarray(noise).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    return Image.fromarray(np.clip(np.asarray(image) + soft[..., None], 0, 255).astype(np.uint8), "RGB")


def _horizon(rng: Rng, sky: tuple[Color, Color], ground: tuple[Color, Color], at: float) -> tuple[Image.Image, int]:
    line = int(_SIDE * (at + rng.uniform(-0.05, 0.05)))
    image = _gradient(_vary(rng, sky[0]), _vary(rng, sky[1]), line)
    canvas = Image.new("RGB", (_SIDE, _SIDE))
    canvas.paste(image)
    canvas.paste(_gradient(_vary(rng, ground[0]), _vary(rng, ground[1]), _SIDE - line), (0, line))
    return canvas, line


def _jungle(rng: Rng) -> Image.Image:
    image = _gradient(_vary(rng, (36, 92, 48)), _vary(rng, (30, 66, 32)))
    draw = ImageDraw.Draw(image)
    for _ in range(34):
        x, y = _int(rng, -10, _SIDE), _int(rng, -10, _SIDE)
        leaf = _vary(rng, [(44, 120, 52), (24, 84, 44), (76, 142, 58)][_int(rng, 3)])
        length, width = _int(rng, 18, 40), _int(rng, 8, 16)
        angle = float(rng.uniform(0, 2 * np.pi))
        tip = (x + length * np.cos(angle), y + length * np.sin(angle))
        side = (width / 2 * -np.sin(angle), width / 2 * np.cos(angle))
        middle = ((x + tip[0]) / 2, (y + tip[1]) / 2)
        draw.polygon(
            [(x, y), (middle[0] + side[0], middle[1] + side[1]), tip, (middle[0] - side[0], middle[1] - side[1])], leaf
        )
    draw.ellipse((-20, 104, _SIDE + 20, 160), _vary(rng, (92, 68, 40)))
    return image


def _snow(rng: Rng) -> Image.Image:
    image, line = _horizon(rng, ((158, 192, 226), (206, 224, 240)), ((246, 249, 253), (224, 234, 246)), 0.45)
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, size = _int(rng, 0, _SIDE), _int(rng, 12, 22)
        draw.polygon(
            [(x - size // 2, line + 2), (x, line - 2 * size), (x + size // 2, line + 2)], _vary(rng, (70, 104, 96))
        )
    for _ in range(26):
        x, y = _int(rng, 0, _SIDE), _int(rng, 0, _SIDE)
        draw.ellipse((x, y, x + 3, y + 3), (255, 255, 255))
    return image


def _beach(rng: Rng) -> Image.Image:
    image, line = _horizon(rng, ((110, 186, 240), (186, 224, 246)), ((46, 140, 190), (92, 196, 208)), 0.33)
    draw = ImageDraw.Draw(image)
    shore = line + int(_SIDE * rng.uniform(0.16, 0.24))
    draw.rectangle((0, shore - 4, _SIDE, shore), (244, 250, 250))
    sand = _gradient(_vary(rng, (238, 212, 152)), _vary(rng, (224, 190, 126)), _SIDE - shore)
    image.paste(sand, (0, shore))
    return _grain(image, rng, 3)


def _cobblestone(rng: Rng) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _SIDE), _vary(rng, (70, 68, 70)))
    draw = ImageDraw.Draw(image)
    for row in range(9):
        for column in range(-1, 8):
            x, y = column * 18 + (row % 2) * 9 + _int(rng, -1, 2), row * 15
            draw.rounded_rectangle((x, y, x + 15, y + 12), 5, _vary(rng, (142, 138, 136), 22))
    return image


def _fabric(rng: Rng) -> Image.Image:
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 6)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    fold = np.sin(along * 11 + phase + 1.6 * np.sin(across * 4 + phase))
    base = np.asarray(_vary(rng, (238, 152, 184)))
    return Image.fromarray(np.clip(base + 17 * fold[..., None], 0, 255).astype(np.uint8), "RGB")


def _wood(rng: Rng) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _SIDE))
    draw = ImageDraw.Draw(image)
    plank = _int(rng, 17, 23)
    base = _vary(rng, (176, 122, 72))
    for y in range(0, _SIDE, plank):
        draw.rectangle((0, y, _SIDE, y + plank - 2), _vary(rng, base, 12))
        draw.line((0, y + plank - 1, _SIDE, y + plank - 1), (104, 66, 36), 2)
        x = _int(rng, 0, _SIDE)
        draw.line((x, y, x, y + plank - 2), (104, 66, 36), 2)
        for _ in range(2):
            grain = y + _int(rng, 3, plank - 3)
            draw.line((0, grain, _SIDE, grain + _int(rng, -2, 3)), _vary(rng, (156, 104, 60), 8), 1)
    return image


def _city(rng: Rng) -> Image.Image:
    image, line = _horizon(rng, ((150, 190, 226), (216, 226, 234)), ((112, 114, 120), (92, 94, 100)), 0.68)
    draw = ImageDraw.Draw(image)
    x = -_int(rng, 0, 12)
    while x < _SIDE:
        width, height = _int(rng, 16, 28), _int(rng, 30, 72)
        draw.rectangle((x, line - height, x + width - 2, line), _vary(rng, (112, 124, 146), 24))
        for wy in range(line - height + 5, line - 4, 9):
            for wx in range(x + 4, x + int(width) - 6, 8):
                draw.rectangle((wx, wy, wx + 3, wy + 4), (236, 226, 170))
        x += int(width)
    return image


def _mountain(rng: Rng) -> Image.Image:
    image, line = _horizon(rng, ((124, 178, 230), (206, 226, 242)), ((120, 164, 92), (92, 138, 70)), 0.66)
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, height, half = _int(rng, 0, _SIDE), _int(rng, 40, 72), _int(rng, 34, 54)
        draw.polygon([(x - half, line), (x, line - height), (x + half, line)], _vary(rng, (116, 122, 146)))
        cap = 0.35
        draw.polygon(
            [
                (x - half * cap, line - height * (1 - cap)),
                (x, line - height),
                (x + half * cap, line - height * (1 - cap)),
            ],
            (244, 248, 252),
        )
    return image


def _wheat(rng: Rng) -> Image.Image:
    image, line = _horizon(rng, ((126, 186, 232), (220, 230, 226)), ((228, 190, 92), (204, 158, 62)), 0.4)
    draw = ImageDraw.Draw(image)
    for _ in range(90):
        x, y = _int(rng, 0, _SIDE), _int(rng, line, _SIDE)
        draw.line((x, y, x + _int(rng, -3, 4), y - 10), _vary(rng, (240, 208, 116), 24), 2)
    return image


def _water(rng: Rng) -> Image.Image:
    image = _gradient(_vary(rng, (78, 168, 220)), _vary(rng, (28, 104, 176)))
    draw = ImageDraw.Draw(image)
    for _ in range(26):
        x, y, width = _int(rng, -10, _SIDE), _int(rng, 0, _SIDE), _int(rng, 12, 30)
        draw.arc((x, y, x + width, y + 8), 200, 340, _vary(rng, (170, 220, 244)), 2)
    return image


def _grass(rng: Rng) -> Image.Image:
    image = _gradient(_vary(rng, (126, 196, 84)), _vary(rng, (78, 152, 56)))
    draw = ImageDraw.Draw(image)
    for _ in range(110):
        x, y = _int(rng, 0, _SIDE), _int(rng, 0, _SIDE + 8)
        draw.line((x, y, x + _int(rng, -3, 4), y - 9), _vary(rng, (96, 176, 66), 22), 2)
    return image


def _desert(rng: Rng) -> Image.Image:
    image, line = _horizon(rng, ((246, 196, 132), (252, 226, 176)), ((228, 164, 92), (206, 136, 70)), 0.5)
    draw = ImageDraw.Draw(image)
    for shade in (0, -18):
        x, width = _int(rng, -30, _SIDE), _int(rng, 90, 150)
        color = _vary(rng, (222 + shade, 158 + shade, 88 + shade), 6)
        draw.ellipse((x - width // 2, line - 10 - shade, x + width // 2, line + 60 - shade), color)
    return image


def _night(rng: Rng) -> Image.Image:
    image, line = _horizon(rng, ((14, 18, 52), (40, 46, 98)), ((30, 42, 50), (18, 26, 34)), 0.74)
    draw = ImageDraw.Draw(image)
    for _ in range(34):
        x, y = _int(rng, 0, _SIDE), _int(rng, 0, line)
        size = _int(rng, 1, 3)
        draw.ellipse((x, y, x + size, y + size), (250, 246, 214))
    x, y = _int(rng, 8, _SIDE - 24), _int(rng, 4, 18)
    draw.ellipse((x, y, x + 18, y + 18), (250, 244, 206))
    return image


def _brick(rng: Rng) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _SIDE), _vary(rng, (206, 192, 178)))
    draw = ImageDraw.Draw(image)
    base = _vary(rng, (176, 82, 60))
    for row in range(10):
        for column in range(-1, 6):
            x, y = column * 28 + (row % 2) * 14, row * 14
            draw.rectangle((x, y, x + 25, y + 11), _vary(rng, base, 10))
    return image


def _white(rng: Rng) -> Image.Image:
    return _gradient(_vary(rng, (246, 246, 246), 6), _vary(rng, (232, 232, 234), 6))


def _house(rng: Rng) -> Image.Image:
    image, line = _horizon(rng, ((150, 204, 240), (214, 232, 242)), ((134, 190, 96), (100, 158, 72)), 0.7)
    draw = ImageDraw.Draw(image)
    x, width = _int(rng, 4, 40), _int(rng, 64, 84)
    top = line - _int(rng, 44, 56)
    draw.rectangle((x, top, x + width, line + 4), _vary(rng, (74, 122, 196)))
    draw.polygon([(x - 8, top), (x + width // 2, top - 30), (x + width + 8, top)], _vary(rng, (150, 78, 66)))
    for wx in (x + 8, x + width - 22):
        draw.rectangle((wx, top + 10, wx + 14, top + 24), (246, 240, 206))
    return image.filter(ImageFilter.GaussianBlur(0.6))


def _rug(rng: Rng) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _SIDE), _vary(rng, (122, 74, 158)))
    draw = ImageDraw.Draw(image)
    pale = _vary(rng, (196, 164, 216))
    for inset in (5, 13):
        draw.rectangle((inset, inset, _SIDE - inset, _SIDE - inset), outline=pale, width=3)
    step, phase = _int(rng, 22, 28), _int(rng, 0, 6)
    for row, y in enumerate(range(26, _SIDE - 20, step)):
        for x in range(24 + (row % 2) * step // 2 + phase, _SIDE - 20, step):
            draw.polygon([(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)], _vary(rng, (222, 176, 96)))
    return image


def _autumn(rng: Rng) -> Image.Image:
    image, line = _horizon(rng, ((206, 214, 216), (240, 222, 186)), ((176, 120, 60), (146, 92, 44)), 0.7)
    draw = ImageDraw.Draw(image)
    for x in (_int(rng, 6, 34), _int(rng, 88, 116)):
        draw.rectangle((x - 4, 30, x + 4, line + 4), (92, 62, 42))
    for _ in range(70):
        x, y, size = _int(rng, -6, _SIDE), _int(rng, -6, 62), _int(rng, 8, 15)
        leaf = _vary(rng, [(222, 116, 40), (236, 168, 52), (190, 70, 40)][_int(rng, 3)])
        draw.ellipse((x, y, x + size, y + size * 0.7), leaf)
    return image


def _dirt(rng: Rng) -> Image.Image:
    image, line = _horizon(rng, ((150, 196, 232), (220, 232, 238)), ((124, 158, 78), (104, 134, 60)), 0.36)
    draw = ImageDraw.Draw(image)
    middle = _int(rng, 54, 74)
    draw.polygon(
        [(middle - 8, line), (middle + 8, line), (_SIDE + 14, _SIDE), (-14, _SIDE)], _vary(rng, (168, 124, 82))
    )
    for _ in range(28):
        x, y = _int(rng, 10, _SIDE - 14), _int(rng, line + 30, _SIDE)
        draw.ellipse((x, y, x + 5, y + 3), _vary(rng, (132, 94, 60)))
    return image


def _sunset(rng: Rng) -> Image.Image:
    image, line = _horizon(rng, ((106, 66, 130), (250, 150, 86)), ((72, 52, 92), (44, 34, 66)), 0.64)
    draw = ImageDraw.Draw(image)
    x, size = _int(rng, 16, _SIDE - 44), _int(rng, 26, 34)
    draw.pieslice((x, line - size // 2, x + size, line + size // 2), 180, 360, (255, 222, 120))
    for _ in range(9):
        y, x = _int(rng, line + 4, _SIDE), _int(rng, 0, _SIDE)
        draw.line((x, y, x + _int(rng, 12, 34), y), _vary(rng, (230, 140, 96)), 2)
    return image


_PAINTERS: dict[str, Callable[[Rng], Image.Image]] = {
    "jungle": _jungle,
    "snow": _snow,
    "beach": _beach,
    "cobblestone": _cobblestone,
    "fabric": _fabric,
    "wood": _wood,
    "city": _city,
    "mountain": _mountain,
    "wheat": _wheat,
    "water": _water,
    "grass": _grass,
    "desert": _desert,
    "night": _night,
    "brick": _brick,
    "white": _white,
    "house": _house,
    "rug": _rug,
    "autumn": _autumn,
    "dirt": _dirt,
    "sunset": _sunset,
}
