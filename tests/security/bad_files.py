"""Malformed and hostile image files, byte by byte."""

import random
import struct
import zlib

from PIL import Image

from tests.api.reference_images import encoded, reference


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG of 64x64 whose header says another size."""
    data = bytearray(encoded(Image.new("RGB", (64, 64)), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_header(width: int, height: int) -> bytes:
    """A lossless WebP whose header asks for a canvas of this size."""
    data = bytearray(encoded(Image.new("RGB", (64, 64)), "WEBP", lossless=True))
    start = data.index(b"VP8L") + 9
    data[start : start + 4] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(data)


def many_text_chunks(*, compressed: bool) -> bytes:
    """A PNG with 10,000 chunks of text; compressed, they expand to 640 MB."""
    data = encoded(Image.new("RGB", (64, 64)), "PNG")
    text = zlib.compress(b"x" * 64 * 1024, 9)

    def chunk(number: int) -> bytes:
        name = b"zTXt" if compressed else b"tEXt"
        body = f"k{number}".encode() + (b"\0\0" + text if compressed else b"\0x")
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    after_header = 8 + 25
    return data[:after_header] + b"".join(map(chunk, range(10_000))) + data[after_header:]


def avif_name(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1" + brand + bytes(100)


def with_gps(file_format: str) -> bytes:
    image = Image.new("RGB", (64, 64), {"JPEG": "red", "PNG": "green", "WEBP": "blue"}[file_format])
    exif = image.getexif()
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)}
    return encoded(image, file_format, exif=exif)


def ycck(colour: tuple[int, int, int, int]) -> bytes:
    """A CMYK JPEG with Adobe's marker for YCCK; its samples are the inverted image in YCbCr, and K."""
    cyan, magenta, yellow, black = colour
    y, cb, cr = Image.new("RGB", (1, 1), (cyan, magenta, yellow)).convert("YCbCr").getpixel((0, 0))
    planes = Image.new("CMYK", (64, 64), (255 - y, 255 - cb, 255 - cr, black))
    data = bytearray(encoded(planes, "JPEG", quality=95))
    adobe = data.index(b"Adobe")
    data[adobe + 11] = 2
    return bytes(data)


def mutations(count: int, *, seed: int = 0) -> list[bytes]:
    """Yield valid images with some bytes flipped, cut, doubled or overwritten; the same ones for the same seed."""
    chance = random.Random(seed)
    good = [reference(n, side=48, file_format=kind) for n, kind in enumerate(("JPEG", "PNG", "WEBP"))]
    return [_mutated(bytearray(chance.choice(good)), chance) for _ in range(count)]


def _mutated(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(2, len(data))
        match chance.randrange(4):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at : at + 4] = chance.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"])
            case 2:
                del data[at : at + chance.randint(1, 32)]
            case _:
                data[at:at] = data[at : at + chance.randint(1, 32)]
    return bytes(data)
