"""Reference images for the tests, good and bad."""

import io
import struct
import zlib

from PIL import Image


def reference(number: int, *, side: int = 64, file_format: str = "JPEG", **options: object) -> bytes:
    """Return a different image for each number."""
    image = Image.linear_gradient("L").resize((side, side)).rotate(37 * number)
    colored = Image.merge("RGB", (image, image.rotate(90), image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)))
    return encoded(colored, file_format, **options)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def animated(file_format: str) -> bytes:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "green", "blue")]
    return encoded(frames[0], file_format, save_all=True, append_images=frames[1:])


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A PNG of a few kB whose header asks for 2.7 GB of pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes((1 + width * 3) * 40), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def png_of(answer: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(answer))
    image.load()
    return image
