"""Whole photos whose metadata is damaged, byte by byte. A browser shows each of them."""

import struct
import zlib

from PIL import Image, ImageCms

from tests.api.reference_images import encoded

_LETTERS = "the quick brown fox jumps over the lazy dog "


def upright() -> Image.Image:
    """The pixels of every lossless file here: 48x32, and different in all four corners."""
    image = Image.new("RGB", (48, 32), "red")
    image.paste("blue", (0, 0, 24, 16))
    image.paste("lime", (24, 16, 48, 32))
    return image


def tiff(*entries: tuple[int, int, int, bytes], gps: tuple[tuple[int, int, int, bytes], ...] = ()) -> bytes:
    """EXIF with these entries (tag, type, count, four bytes) in its first directory, and these in that of GPS."""

    def directory(rows: tuple[tuple[int, int, int, bytes], ...]) -> bytes:
        packed = b"".join(struct.pack("<HHI4s", *row) for row in rows)
        return struct.pack("<H", len(rows)) + packed + bytes(4)

    first = 8
    if gps:
        after = first + 2 + 12 * (len(entries) + 1) + 4
        entries = (*entries, (0x8825, 4, 1, struct.pack("<I", after)))
    return b"II*\0" + struct.pack("<I", first) + directory(entries) + (directory(gps) if gps else b"")


TURNED = (0x0112, 3, 1, b"\6\0\0\0")
"""Orientation 6: the photo is shown turned by 90 degrees clockwise."""


def sideways() -> Image.Image:
    return upright().transpose(Image.Transpose.ROTATE_90)


def png_chunk(name: bytes, body: bytes, *, right: bool = True) -> bytes:
    checksum = zlib.crc32(name + body) ^ (not right)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def png_with(*chunks: bytes, image: Image.Image | None = None) -> bytes:
    """A PNG with these chunks after its header."""
    data = encoded(upright() if image is None else image, "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def jpeg_with(marker: int, body: bytes, *, image: Image.Image | None = None) -> bytes:
    """A JPEG with this segment at its start."""
    data = encoded(upright() if image is None else image, "JPEG", quality=100, subsampling=0)
    return data[:2] + struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body + data[2:]


def webp_with(name: bytes, body: bytes, *, flag: int, image: Image.Image | None = None) -> bytes:
    """A lossless WebP with this chunk after its pixels, and the flag that announces it."""
    simple = encoded(upright() if image is None else image, "WEBP", lossless=True)
    width, height = (image or upright()).size
    canvas = struct.pack("<B3x", flag) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)
    rest = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + canvas + simple[12:] + chunk
    return b"RIFF" + struct.pack("<I", len(rest)) + rest


def one_frame_webp() -> bytes:
    """An animated WebP of a single frame. Pillow writes a still image for one frame, so the second one is cut out."""
    other = upright().transpose(Image.Transpose.ROTATE_180)
    data = encoded(upright(), "WEBP", save_all=True, append_images=[other], lossless=True, kmin=1, kmax=1)
    first = data.index(b"ANMF")
    second = data.index(b"ANMF", first + 4)
    return data[:4] + struct.pack("<I", second - 8) + data[8:second]


def profile_of_two_megabytes() -> bytes:
    """The sRGB profile with two million bytes of zeros behind its tags."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile += bytes(2_000_000)
    profile[:4] = struct.pack(">I", len(profile))
    return bytes(profile)


def faulty() -> dict[str, bytes]:
    """Photos that are shown as `upright()`, by what is wrong with them."""
    text = b"Comment\0\0" + zlib.compress(_LETTERS.encode() * 40_000)  # 1.8 MB
    strange_gps = (
        (1, 3, 1, b"\1\0\0\0"),  # the hemisphere is a number
        (2, 2, 4, b"48N\0"),  # the latitude is a text
        (4, 7, 4, b"\xff\xfe\xfd\xfc"),
        (5, 2, 2, b"0\0\0\0"),  # the reference of the altitude is a text
        (7, 12, 3, b"\xff\xff\xff\x7f"),  # and the time lies behind the end of the file
    )
    return {
        "JPEG, GPS of unexpected types": jpeg_with(0xE1, b"Exif\0\0" + tiff(TURNED, gps=strange_gps), image=sideways()),
        "JPEG, garbage for EXIF": jpeg_with(0xE1, b"Exif\0\0" + b"\xde\xad\xbe\xef" * 50),
        "JPEG, EXIF whose directory points to itself": jpeg_with(
            0xE1, b"Exif\0\0" + tiff((0x8769, 4, 1, struct.pack("<I", 8)), (0x8825, 4, 1, struct.pack("<I", 8)))
        ),
        "JPEG, short JFIF header": jpeg_with(0xE0, b"JFIF\0\1"),
        "JPEG, piece of a profile without its others": jpeg_with(0xE2, b"ICC_PROFILE\0\3\7" + bytes(90)),
        "JPEG, index of views that are not there": jpeg_with(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff" + bytes(20)),
        "JPEG, short Photoshop block": jpeg_with(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\xff\xff\xff\xff"),
        "WebP, garbage for EXIF": webp_with(b"EXIF", b"\xff\xd8\xff\xe1 no exif", flag=0x08),
        "WebP, EXIF with a cut directory": webp_with(b"EXIF", tiff(TURNED)[:16], flag=0x08),
        "WebP, turned by EXIF": webp_with(b"EXIF", b"Exif\0\0" + tiff(TURNED), flag=0x08, image=sideways()),
        "WebP, garbage for a profile": webp_with(b"ICCP", b"\0\1\2", flag=0x20),
        "WebP, one animated frame": one_frame_webp(),
        "PNG, garbage for EXIF": png_with(png_chunk(b"eXIf", b"Exif\0\0\0\0\0\0")),
        "PNG, turned by EXIF with strange GPS": png_with(
            png_chunk(b"eXIf", tiff(TURNED, gps=strange_gps)), image=sideways()
        ),
        "PNG, compressed text above 1 MB": png_with(png_chunk(b"zTXt", text)),
        "PNG, text that does not decompress": png_with(png_chunk(b"zTXt", b"Comment\0\0 none")),
        "PNG, international text above 1 MB": png_with(
            png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(_LETTERS.encode() * 40_000))
        ),
        "PNG, profile above 1 MB": png_with(png_chunk(b"iCCP", b"p\0\0" + zlib.compress(profile_of_two_megabytes()))),
        "PNG, profile that does not decompress": png_with(png_chunk(b"iCCP", b"p\0\0 none")),
        "PNG, profile of an unknown compression": png_with(png_chunk(b"iCCP", b"p\0\7none")),
        "PNG, text with a wrong checksum": png_with(png_chunk(b"tEXt", b"Comment\0hello", right=False)),
        "PNG, short gAMA": png_with(png_chunk(b"gAMA", b"\0")),
        "PNG, short cHRM": png_with(png_chunk(b"cHRM", bytes(5))),
        "PNG, short pHYs": png_with(png_chunk(b"pHYs", bytes(3))),
        "PNG, empty sRGB": png_with(png_chunk(b"sRGB", b"")),
        "PNG, short transparency": png_with(png_chunk(b"tRNS", b"\0")),
        "PNG, short animation header": png_with(png_chunk(b"acTL", b"\0\0")),
        "PNG, no end": png_with()[:-12],
        "PNG, text that is cut off behind the pixels": png_with()[:-12] + png_chunk(b"tEXt", b"k\0v")[:-5],
    }
