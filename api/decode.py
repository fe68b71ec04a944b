"""Decode one uploaded image from stdin and write a clean PNG to stdout: `python -m api.decode < photo.jpg`.

Image codecs are written in C and read untrusted bytes. So they run here and never in the api: in a process with limits
on memory and time, no environment and no files. Stdout is one line of JSON, then the PNG if that line says ok.
"""

import io
import json
import resource
import struct
import sys
import warnings
from typing import Any

from PIL import Image, ImageCms, ImageOps

MAX_MEGAPIXELS = 25
MAX_SIDE = 1024
MIN_SIDE = 32
_MEMORY_BYTES = 1 << 30
_CPU_SECONDS = 5

_MAGIC = {"JPEG": (0, b"\xff\xd8\xff"), "PNG": (0, b"\x89PNG\r\n\x1a\n"), "WEBP": (8, b"WEBP")}
_REFUSED_MAGIC = {
    "a GIF": (0, b"GIF8"),
    "a TIFF": (0, b"II*\0"),
    "a TIFF image": (0, b"MM\0*"),
    "a HEIC or AVIF image": (4, b"ftyp"),
    "a BMP image": (0, b"BM"),
    "a PDF": (0, b"%PDF"),
    "a PostScript file": (0, b"%!PS"),
    "a Photoshop file": (0, b"8BPS"),
    "an icon": (0, b"\0\0\1\0"),
    "an SVG drawing": (0, b"<svg"),
    "an XML file": (0, b"<?xml"),
    "a ZIP archive": (0, b"PK\3\4"),
}


class Refused(Exception):
    """`kind` is format, damaged, animated, too_many_pixels or too_small; the message completes "this image …"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def decode(data: bytes) -> Image.Image:
    """Return the image as upright 8-bit sRGB without transparency or metadata, at most 1024 pixels on a side."""
    image = _open(data, _format(data))
    _check_size(*image.size)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO is a photo with extra views: only the first is used
        raise Refused("animated", f"is animated ({frames} frames); send a still image")
    profile = image.info.get("icc_profile")
    image.draft(image.mode, (MAX_SIDE, MAX_SIDE))
    image.load()
    image = _to_8_bit(ImageOps.exif_transpose(image))
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    if min(image.size) < MIN_SIDE:
        raise Refused(
            "too_small",
            f"is too narrow; send one whose long side is less than {MAX_SIDE // MIN_SIDE} times its short side",
        )
    flat = _on_white(image, profile)
    return Image.frombytes("RGB", flat.size, flat.tobytes())  # copies the pixels and nothing else


def _format(data: bytes) -> str:
    for name, (offset, magic) in _MAGIC.items():
        if data[offset : offset + len(magic)] == magic:
            return name
    for description, (offset, magic) in _REFUSED_MAGIC.items():
        if data[offset : offset + len(magic)] == magic:
            raise Refused("format", f"is {description}; send JPEG, PNG or WebP")
    if not data:
        raise Refused("damaged", "is empty; send the image's bytes")
    raise Refused("format", "is not an image that can be read here; send JPEG, PNG or WebP")


def _open(data: bytes, file_format: str) -> Image.Image:
    """Read only the header. WebP's decoder allocates its canvas at once, so its size is checked first."""
    if file_format == "WEBP":
        _check_webp_header(data)
    Image.MAX_IMAGE_PIXELS = 1 << 40  # `_check_size` refuses far smaller images, and its message names the size
    return Image.open(io.BytesIO(data), formats=[file_format])


def _check_webp_header(data: bytes) -> None:
    chunk = data[12:16]
    if chunk == b"VP8X":
        if data[20] & 0x02:
            raise Refused("animated", "is animated; send a still image")
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif chunk == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", data[26:30]))
    else:
        raise Refused("damaged", "has a broken WebP header; save it again")
    _check_size(width, height)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise Refused(
            "too_many_pixels", f"is {width}x{height}; scale it down to at most {MAX_MEGAPIXELS} million pixels"
        )
    if min(width, height) < MIN_SIDE:
        raise Refused("too_small", f"is {width}x{height}; send one of at least {MIN_SIDE}x{MIN_SIDE} pixels")


def _to_8_bit(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16L", "I;16B", "F"):
        return image.point(lambda value: value * (1 / 257)).convert("L")
    if image.mode in ("P", "PA") or "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image


def _on_white(image: Image.Image, profile: bytes | None) -> Image.Image:
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    opaque = image.convert({"LA": "L", "RGBA": "RGB"}[image.mode]) if alpha else image
    srgb = _to_srgb(opaque, profile)
    if alpha is None:
        return srgb
    white = Image.new("RGB", srgb.size, (255, 255, 255))
    white.paste(srgb, mask=alpha)
    return white


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to sRGB. A broken profile, or one for another kind of image, counts as sRGB, as in browsers."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass
    return image.convert("RGB")


def _limit_resources() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))


def main() -> None:
    warnings.simplefilter("ignore")
    Image.preinit()  # the codecs are loaded before the limits forbid opening files
    _limit_resources()
    answer: dict[str, Any]
    png = b""
    try:
        image = decode(sys.stdin.buffer.read())
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=4)
        png = file.getvalue()
        answer = {"ok": True, "width": image.width, "height": image.height}
    except Refused as refusal:
        answer = {"ok": False, "kind": refusal.kind, "message": str(refusal)}
    except Exception:  # noqa: BLE001  the outermost loop: a codec may raise anything on untrusted bytes
        answer = {"ok": False, "kind": "damaged", "message": "is damaged or cut off; send the whole file"}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + png)


if __name__ == "__main__":
    main()
