"""Drawings with transparency, from two freely licensed sets fetched by their registries' ordinary clients.

Fluent Emoji 3D (MIT) comes from npm, Noto Color Emoji (OFL) from Debian. Only this module touches the network, and
only when the build folder does not hold the drawings yet.
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
    """Fetch and unpack both sets below `folder` unless they are there; returns the folder with the drawings."""
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
    """`load_drawing`, after fetching both sets into the build folder if need be; this project's own need no set."""
    if name.startswith("own:"):
        return OWN_DRAWINGS[name.removeprefix("own:")]()
    return load_drawing(fetch_drawings(folder), name)


@cache
def _font(path: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), 109)  # the only size of the font's bitmaps


def load_drawing(raw: Path, name: str) -> Image.Image:
    """One drawing, e.g. "fluent:1f392", as RGBA cropped to what is visible, longest side 128 pixels."""
    source, code = name.split(":")
    if source == "fluent":
        (path,) = (p for p in (raw / f"fluent/assets/{code}{end}.webp" for end in ("", "-fe0f")) if p.exists())
        picture = Image.open(path).convert("RGBA")
    else:
        picture = Image.new("RGBA", (136, 136))
        glyph = "".join(chr(int(part, 16)) for part in code.split("-"))
        ImageDraw.Draw(picture).text((0, 0), glyph, font=_font(raw / "noto" / _NOTO_FONT), embedded_color=True)
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox()
    cropped = picture.crop(box)
    scale = SIDE / max(cropped.size)
    return cropped.resize((round(cropped.width * scale), round(cropped.height * scale)), Image.Resampling.LANCZOS)


def tint(picture: Image.Image, hue: float) -> Image.Image:
    """The same drawing in one hue: light and dark stay, grey and white take on some of the colour."""
    pixels = np.asarray(picture).astype(np.float32) / 255
    rgb, alpha = pixels[..., :3], pixels[..., 3:]
    value = rgb.max(-1, keepdims=True)
    saturation = (value - rgb.min(-1, keepdims=True)) / np.maximum(value, 1e-4)
    pure: NDArray[np.float32] = np.asarray(colorsys.hsv_to_rgb(hue, 1.0, 1.0), dtype=np.float32)
    strength = 0.3 + 0.65 * saturation
    tinted = value * (1 - strength * (1 - pure))
    return Image.fromarray((np.concatenate([tinted, alpha], -1) * 255).round().astype(np.uint8), "RGBA")


def patterned(picture: Image.Image, pattern: str, colour: tuple[int, int, int]) -> Image.Image:
    """The same drawing with "stripes", "dots" or "checks" in a colour on it, inside its outline and shaded by it."""
    mask = Image.new("L", picture.size)
    draw = ImageDraw.Draw(mask)
    if pattern == "stripes":
        for y in range(10, picture.height, 28):
            draw.rectangle((0, y, picture.width, y + 13), fill=255)
    elif pattern == "dots":
        for row, y in enumerate(range(10, picture.height, 22)):
            for x in range(8 + 11 * (row % 2), picture.width, 22):
                draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=255)
    else:
        for row, y in enumerate(range(0, picture.height, 21)):
            for x in range(21 * (row % 2), picture.width, 42):
                draw.rectangle((x, y, x + 20, y + 20), fill=255)
    shade = picture.convert("L").point(lambda value: min(255, 90 + value))
    plain = Image.new("RGB", picture.size, colour)
    shaded = ImageChops.multiply(plain, Image.merge("RGB", (shade, shade, shade)))
    result = picture.copy()
    result.paste(shaded, (0, 0), ImageChops.multiply(mask, picture.getchannel("A")))
    result.putalpha(picture.getchannel("A"))
    return result
