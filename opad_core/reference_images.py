"""Decode reference images: one set of formats, limits and sentences for the command line, the demo and the service.

Only pixels decide whether a photo is accepted. A file is first reduced to the parts that hold pixels; orientation and
color profile are read from the rest where they can be read, so damaged metadata never costs a whole photo.
This module needs Pillow alone, and `pillow_heif` for HEIC where it is installed: the api, which has no torch, uses it.
"""

import importlib.util
import io
import struct
import zlib
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageCms

from opad_core.errors import OpadError

MIN_REFERENCES, MAX_REFERENCES = 1, 100
"""One reference is one-shot personalization; DreamBooth's sets have 4-6. We recommend 3-5."""
MAX_FILE_BYTES = 12 * 1024**2
"""The service's default, which OPAD_MAX_UPLOAD_MB changes."""
MAX_MEGAPIXELS = 25
MAX_SIDE = 1024
MIN_SIDE = 32
_MAX_PROFILE_BYTES = 16 << 20

READ = {"JPEG", "PNG", "WEBP"}
NO_IMAGES = {"a PDF", "a PostScript file", "an XML file", "a ZIP archive", "a video"}
_MAGIC = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("WEBP", 8, b"WEBP"),
    ("a GIF", 0, b"GIF8"),
    ("a TIFF or camera raw image", 0, b"II*\0"),
    ("a TIFF or camera raw image", 0, b"MM\0*"),
    ("a BMP image", 0, b"BM"),
    ("a JPEG XL image", 0, b"\xff\x0a"),
    ("a JPEG XL image", 4, b"JXL \r\n"),
    ("a JPEG 2000 image", 4, b"jP  \r\n"),
    ("a Photoshop file", 0, b"8BPS"),
    ("an icon", 0, b"\0\0\1\0"),
    ("an SVG drawing", 0, b"<svg"),
    ("a PDF", 0, b"%PDF"),
    ("a PostScript file", 0, b"%!PS"),
    ("an XML file", 0, b"<?xml"),
    ("a ZIP archive", 0, b"PK\3\4"),
)
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis", b"mif1", b"msf1"}
CONVERT_HEIC = "save it as JPEG (iPhone: Settings > Camera > Formats > Most Compatible)"


class Refused(OpadError):
    """An image that cannot be used; the message completes "this image …".

    `kind` is format, damaged, animated, too_many_pixels, too_small, too_costly, file_too_large or duplicate.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def reads_heic(wanted: bool = True) -> bool:
    """Return whether HEIC is read: it is wanted, and its decoder (`pip install 'opad[heic]'`) is installed."""
    return wanted and importlib.util.find_spec("pillow_heif") is not None


def formats(*, heic: bool) -> str:
    """Return the formats that are read, and for HEIC the remedy where it is not."""
    return "JPEG, PNG, WebP or HEIC" if heic else f"JPEG, PNG or WebP (not HEIC: {CONVERT_HEIC})"


def decode(data: bytes, *, heic: bool) -> Image.Image:
    """Return the image as upright 8-bit sRGB without transparency or metadata, at most 1024 pixels on a side.

    `heic` says whether HEIC is read; then `pillow_heif` has to be installed. Raises Refused.
    """
    file_format = _format(data, heic=heic)
    try:
        if file_format == "HEIC":
            return _to_reference(*_open_heic(data))
        parts = {"JPEG": _jpeg_parts, "PNG": _png_parts, "WEBP": _webp_parts}[file_format](data)
        for width, height in parts.sizes:  # before the codec, which may allocate a whole canvas at once
            _check_size(width, height)
        if parts.frames > 1:
            raise Refused("animated", f"is animated ({parts.frames} frames); send a still image")
        image = Image.open(io.BytesIO(parts.pixels), formats=[file_format])
        _check_size(*image.size)
        image.draft(image.mode, (MAX_SIDE, MAX_SIDE))
        image.load()
        return _to_reference(image, parts.profile, _TRANSPOSED.get(_orientation(parts.exif)))
    except Refused:
        raise
    except MemoryError as error:
        raise Refused("too_costly", "needs too much memory to decode; save it again as plain JPEG or PNG") from error
    except Exception as error:  # a codec may raise anything on broken bytes
        raise Refused("damaged", "is damaged or cut off; send the whole file") from error


def duplicates(images: Iterable[Hashable]) -> dict[int, int]:
    """Return the position of each repeated image, with the position of the first one like it."""
    first: dict[Hashable, int] = {}
    return {at: first[image] for at, image in enumerate(images) if first.setdefault(image, at) != at}


def same_image(other: str) -> str:
    """Return the sentence about an image that was there before; it completes "image 3 …"."""
    return f"is the same image as {other}; leave one out"


def kind_of(data: bytes) -> str:
    """Return JPEG, PNG, WEBP or HEIC, a description of another kind, or an empty text for unknown bytes.

    The first 256 bytes of a file are enough.
    """
    if data[4:8] == b"ftyp":  # ISO 14496-12: major brand, version, compatible brands
        box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
        brands = {box[at : at + 4] for at in range(0, len(box), 4) if at != 4}
        if brands & _HEIC_BRANDS:
            return "HEIC"
        return "an AVIF image" if brands & _AVIF_BRANDS else "a video"
    return next((kind for kind, at, magic in _MAGIC if data[at : at + len(magic)] == magic), "")


def _format(data: bytes, *, heic: bool) -> str:
    kind = kind_of(data)
    if kind in READ or (kind == "HEIC" and heic):
        return kind
    if not data:
        raise Refused("damaged", "is empty; send the image's bytes")
    if kind == "HEIC":
        raise Refused("format", f"is a HEIC image, which is not read here; {CONVERT_HEIC}, or send PNG or WebP")
    found = f"is {kind}" if kind else "is not an image that can be read here"
    raise Refused("format", f"{found}; send {'JPEG, PNG, WebP or HEIC' if heic else 'JPEG, PNG or WebP'}")


@dataclass
class _Parts:
    """A file reduced to its pixels, and what is used of the rest."""

    pixels: bytes = b""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Every size that the file's headers name."""
    exif: bytes = b""
    profile: bytes | None = None
    frames: int = 1


def _png_parts(data: bytes) -> _Parts:
    """Keep header, palette, transparency and pixels. A chunk that is cut off stays so, and the codec reports it.

    gAMA and cHRM are ignored on purpose: many programs write them wrongly, and browsers show most such files as sRGB.
    Raises Refused for a palette image without a palette.
    """
    parts, kept, at, cut = _Parts(), [data[:8]], 8, False
    color_type = data[25:26]
    while at + 8 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body, end = data[at + 8 : at + 8 + length], at + 12 + length
        if name == b"IEND":
            break
        if name in (b"IHDR", b"PLTE", b"IDAT"):
            kept.append(data[at:end])
            cut = end > len(data)
            if name == b"IHDR" and length >= 8:
                parts.sizes.append((int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")))
        elif data[end - 4 : end] == struct.pack(">I", zlib.crc32(name + body)):
            if name == b"tRNS" and (
                color_type == b"\3" or len(body) == {b"\0": 2, b"\2": 6}.get(color_type)
            ):  # the sizes of the PNG specification, 11.3.2.1
                kept.append(data[at:end])
            elif name == b"iCCP":
                parts.profile = _inflated(body.partition(b"\0")[2][1:])
            elif name == b"eXIf":
                parts.exif = body
            elif name == b"acTL" and length == 8:
                parts.frames = int.from_bytes(body[:4], "big")
        at = end
    names = {chunk[4:8] for chunk in kept[1:]}
    if color_type == b"\3" and b"IDAT" in names and b"PLTE" not in names:
        raise Refused("damaged", "has lost its palette, so its colors are unknown; save it again as plain JPEG or PNG")
    if not cut:
        kept.append(b"\0\0\0\0IEND\xaeB\x60\x82")
    parts.pixels = b"".join(kept)
    return parts


def _inflated(data: bytes) -> bytes | None:
    """Decompress a color profile; None if it is broken or larger than any profile."""
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(data, _MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if inflater.eof else None


def _jpeg_parts(data: bytes) -> _Parts:
    """Keep every segment but the application's and comments; of those the two that say how colors are coded."""
    parts, kept, at = _Parts(), [b"\xff\xd8"], 2
    profile: dict[int, bytes] = {}
    while 0 <= at < len(data) - 3:
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0, 1, 0xFF) or 0xD0 <= marker <= 0xD8:  # fill, or between segments
            at = data.find(b"\xff", at + 1)
            continue
        if marker in (0xD9, 0xDA):  # the scans: from here on the file stays as it is
            kept.append(data[at:])
            break
        length = max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        segment, body = data[at : at + 2 + length], data[at + 4 : at + 2 + length]
        if marker == 0xE1 and body.startswith(b"Exif\0"):
            parts.exif = parts.exif or body[6:]
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            profile[body[12]] = body[14:]
        elif (marker == 0xE0 and body.startswith(b"JFIF\0") and length >= 16) or (
            marker == 0xEE and body.startswith(b"Adobe") and length >= 14
        ):
            kept.append(segment)
        elif not 0xE0 <= marker <= 0xEF and marker != 0xFE:
            kept.append(segment)
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) >= 5:
                parts.sizes.append((int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")))
        at += 2 + length
    parts.pixels = b"".join(kept)
    parts.profile = b"".join(piece for _, piece in sorted(profile.items())) or None
    return parts


def _webp_parts(data: bytes) -> _Parts:
    """Keep canvas, pixels, transparency and frames. One frame is a still image."""
    parts, kept, flags, at = _Parts(frames=0), list[bytes](), 0, 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body, end = data[at + 8 : at + 8 + length], at + 8 + length
        if name == b"VP8X" and len(body) >= 10:
            flags = body[0] & 0x12  # transparency and animation; the others announce metadata
            parts.sizes.append(_webp_size(body[4:10]))
        elif name in (b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L"):
            kept.append(data[at:end] + b"\0" * (length & 1))
            if name == b"ANMF":
                parts.frames += 1
                parts.sizes.append(_webp_size(body[6:12]))
            elif name == b"VP8 " and len(body) >= 10:
                width, height = struct.unpack("<HH", body[6:10])
                parts.sizes.append((width & 0x3FFF, height & 0x3FFF))
            elif name == b"VP8L" and len(body) >= 5:
                bits = int.from_bytes(body[1:5], "little")
                parts.sizes.append((1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)))
        elif name == b"EXIF" and end <= len(data):
            parts.exif = body
        elif name == b"ICCP" and end <= len(data):
            parts.profile = body
        at = end + (length & 1)
    if flags:
        width, height = parts.sizes[0]
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        kept.insert(0, b"VP8X" + struct.pack("<IB3x", 10, flags) + canvas)
    body = b"WEBP" + b"".join(kept)
    parts.pixels = b"RIFF" + struct.pack("<I", len(body)) + body
    return parts


def _webp_size(body: bytes) -> tuple[int, int]:
    return 1 + int.from_bytes(body[:3], "little"), 1 + int.from_bytes(body[3:6], "little")


def _open_heic(data: bytes) -> tuple[Image.Image, bytes | None]:
    """Return the primary image, which libheif turns upright itself, and its color profile."""
    import pillow_heif  # an optional package

    heif = pillow_heif.open_heif(io.BytesIO(data))
    _check_size(*heif.size)
    image = Image.frombuffer(heif.mode, heif.size, heif.data, "raw", heif.mode, heif.stride, 1)
    return image, heif.info.get("icc_profile")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise Refused(
            "too_many_pixels", f"is {width}x{height}; scale it down to at most {MAX_MEGAPIXELS} million pixels"
        )
    if min(width, height) < MIN_SIDE:
        raise Refused("too_small", f"is {width}x{height}; send one of at least {MIN_SIDE}x{MIN_SIDE} pixels")


_TRANSPOSED = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
               5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
               8: Image.Transpose.ROTATE_90}  # fmt: skip


def _orientation(exif: bytes) -> int:
    """Return the orientation of EXIF's first directory (TIFF 6.0, tag 274), or 1 where there is none to be read.

    Pillow reads and rewrites every tag, so one of an unexpected type costs it the photo.
    """
    while exif.startswith(b"Exif\0\0"):  # some programs write it twice, and into WebP
        exif = exif[6:]
    order: Any = {b"II*\0": "little", b"MM\0*": "big"}.get(exif[:4])
    if order is None:
        return 1
    start = int.from_bytes(exif[4:8], order)
    for at in range(start + 2, start + 2 + 12 * int.from_bytes(exif[start : start + 2], order), 12):
        if int.from_bytes(exif[at : at + 2], order) == 274:
            size = {3: 2, 4: 4}.get(int.from_bytes(exif[at + 2 : at + 4], order), 0)  # SHORT, or LONG
            return int.from_bytes(exif[at + 8 : at + 8 + size], order)
    return 1


def _to_reference(image: Image.Image, profile: bytes | None, transposed: Image.Transpose | None = None) -> Image.Image:
    image = _to_8_bit(image if transposed is None else image.transpose(transposed))
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    if min(image.size) < MIN_SIDE:
        raise Refused(
            "too_small",
            f"is too narrow; send one whose long side is less than {MAX_SIDE // MIN_SIDE} times its short side",
        )
    flat = _on_white(image, profile)
    return Image.frombytes("RGB", flat.size, flat.tobytes())  # copies the pixels and nothing else


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
