"""Drawings with transparency, from two freely licensed sets.

Fluent Emoji 3D (MIT) comes from npm, Noto Color Emoji (OFL) from Debian. Only this module uses the network, and only if
the build folder does not have the drawings yet.
"""

import colorsys
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFont

from opad_core.nano.build.own_drawings import OWN_DRAWINGS

SIDE = 128
_FLUENT_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
_NOTO_PACKAGE = "fonts-noto-color-emoji"
_NOTO_FONT = Path("usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


def fetch_drawings(folder: Path) -> Path:
    """Fetch and unpack both sets below `folder` unless they are there. Return the folder with the drawings."""
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    if not (raw / "fluent").exists():
        subprocess.run(["npm", "pack", "--silent", _FLUENT_PACKAGE], cwd=raw, check=True)
        (archive,) = raw.glob("lobehub-fluent-emoji-3d-*.tgz")
        subprocess.run(["tar", "xzf", archive.name], cwd=raw, check=True)
        (raw / "package").rename(raw / "fluent")
    if not (raw / "noto").exists():
        subprocess.run(["apt-get", "download", _NOTO_PACKAGE], cwd=raw, check=True)
        (archive,) = raw.glob(f"{_NOTO_PACKAGE}_*.deb")
        subprocess.run(["dpkg", "-x", archive.name, "noto"], cwd=raw, check=True)
    return raw


def fetched_drawing(folder: Path, name: str) -> Image.Image:
    """Return a drawing by name. Fetches both sets into the build folder first if they are missing."""
    if name.startswith("own:"):
        return OWN_DRAWINGS[name.removeprefix("own:")]()
    return load_drawing(fetch_drawings(folder), name)


@cache
def _font(path: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), 109)  # the only size of the font's bitmaps


def load_drawing(raw: Path, name: str) -> Image.Image:
    """Load a drawing, for example "fluent:1f392", as RGBA, cropped and scaled to 128 pixels on the longest side."""
    source, code = name.split(":")
    if source == "fluent":
        (path,) = (p for p in (raw / f"fluent/assets/{code}{end}.webp" for end in ("", "-fe0f")) if p.exists())
        image = Image.open(path).convert("RGBA")
    else:
        image = Image.new("RGBA", (136, 136))
        glyph = "".join(chr(int(part, 16)) for part in code.split("-"))
        ImageDraw.Draw(image).text((0, 0), glyph, font=_font(raw / "noto" / _NOTO_FONT), embedded_color=True)
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox()
    cropped = image.crop(box)
    scale = SIDE / max(cropped.size)
    return cropped.resize((round(cropped.width * scale), round(cropped.height * scale)), Image.Resampling.LANCZOS)


def tint(image: Image.Image, hue: float) -> Image.Image:
    """Give the drawing one hue. Light and dark stay; gray and white take on some of the color."""
    pixels = np.asarray(image).astype(np.float32) / 255
    rgb, alpha = pixels[..., :3], pixels[..., 3:]
    value = rgb.max(-1, keepdims=True)
    saturation = (value - rgb.min(-1, keepdims=True)) / np.maximum(value, 1e-4)
    pure: NDArray[np.float32] = np.asarray(colorsys.hsv_to_rgb(hue, 1.0, 1.0), dtype=np.float32)
    strength = 0.3 + 0.65 * saturation
    tinted = value * (1 - strength * (1 - pure))
    return Image.fromarray((np.concatenate([tinted, alpha], -1) * 255).round().astype(np.uint8), "RGBA")


def patterned(image: Image.Image, pattern: str, color: tuple[int, int, int]) -> Image.Image:
    """Put "stripes", "dots" or "checks" on the drawing, inside its outline and shaded like it."""
    mask = Image.new("L", image.size)
    draw = ImageDraw.Draw(mask)
    if pattern == "stripes":
        for y in range(10, image.height, 28):
            draw.rectangle((0, y, image.width, y + 13), fill=255)
    elif pattern == "dots":
        for row, y in enumerate(range(10, image.height, 22)):
            for x in range(8 + 11 * (row % 2), image.width, 22):
                draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=255)
    else:
        for row, y in enumerate(range(0, image.height, 21)):
            for x in range(21 * (row % 2), image.width, 42):
                draw.rectangle((x, y, x + 20, y + 20), fill=255)
    shade = image.convert("L").point(lambda value: min(255, 90 + value))
    plain = Image.new("RGB", image.size, color)
    shaded = ImageChops.multiply(plain, Image.merge("RGB", (shade, shade, shade)))
    result = image.copy()
    result.paste(shaded, (0, 0), ImageChops.multiply(mask, image.getchannel("A")))
    result.putalpha(image.getchannel("A"))
    return result
