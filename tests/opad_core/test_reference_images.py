"""Photos with every kind of metadata, through the decoder that the command line, the demo and the service share."""

import io
import random
import struct
import subprocess
import sys

import pytest
from PIL import Image

from opad_core.reference_images import Refused, decode, duplicates, formats, kind_of, reads_heic
from tests.api.reference_images import animated, encoded, reference
from tests.security.bad_files import jpeg_header
from tests.security.faulty_metadata import faulty, png_chunk, png_with, profile_of_two_megabytes, sideways, upright

FAULTY = faulty()


@pytest.mark.parametrize("fault", FAULTY)
def test_whole_pixels_are_read_whatever_is_wrong_with_the_metadata(fault):
    """JPEG of quality 100 without subsampling rounds by one or two levels; edges on its blocks of 8x8 stay sharp."""
    image = decode(FAULTY[fault], heic=False)

    assert (image.mode, image.size, image.info) == ("RGB", (48, 32), {})
    most = 2 if fault.startswith("JPEG") else 0
    differences = zip(image.tobytes(), upright().tobytes(), strict=True)
    assert max(abs(ours - theirs) for ours, theirs in differences) <= most


def test_a_profile_above_one_megabyte_is_used():
    """With red and green of sRGB exchanged in the profile, a red pixel is a green one."""
    profile = bytearray(profile_of_two_megabytes())
    tags = {
        profile[at : at + 4].decode(): at for at in range(132, 132 + 12 * struct.unpack(">I", profile[128:132])[0], 12)
    }
    red, green = (profile[tags[name] + 4 : tags[name] + 12] for name in ("rXYZ", "gXYZ"))
    profile[tags["rXYZ"] + 4 : tags["rXYZ"] + 12] = green
    profile[tags["gXYZ"] + 4 : tags["gXYZ"] + 12] = red

    data = encoded(Image.new("RGB", (48, 32), (255, 0, 0)), "PNG", icc_profile=bytes(profile))

    assert decode(data, heic=False).getpixel((5, 5)) == (0, 255, 0)


def test_damaged_pixels_are_refused_for_what_they_are():
    whole = png_with(png_chunk(b"tEXt", b"k\0v"))
    pixels = whole.index(b"IDAT")
    for data in (whole[: pixels + 20], whole[:pixels] + b"IDAX" + whole[pixels + 4 :], reference(1)[:-40]):
        with pytest.raises(Refused, match="is damaged or cut off; send the whole file") as refusal:
            decode(data, heic=False)
        assert refusal.value.kind == "damaged"


def test_a_palette_image_without_a_palette_is_refused():
    """Pillow would show it black."""
    saved = io.BytesIO()
    upright().quantize(16).save(saved, "PNG")
    at = saved.getvalue().index(b"PLTE") - 4
    length = int.from_bytes(saved.getvalue()[at : at + 4], "big")
    without = saved.getvalue()[:at] + saved.getvalue()[at + 12 + length :]
    assert decode(saved.getvalue(), heic=False).size == upright().size
    with pytest.raises(Refused, match="has lost its palette") as refused:
        decode(without, heic=False)
    assert refused.value.kind == "damaged"


def test_a_gamma_changes_no_pixel():
    gamma = png_chunk(b"gAMA", (100_000).to_bytes(4, "big"))
    assert decode(png_with(gamma), heic=False).tobytes() == upright().tobytes()


def test_a_photo_of_192_megapixels_is_refused_before_its_pixels_are_read():
    with pytest.raises(Refused, match="is 16000x12000; scale it down to at most 25 million pixels"):
        decode(jpeg_header(16_000, 12_000), heic=False)


def test_animations_are_counted():
    for file_format in ("PNG", "WEBP"):
        with pytest.raises(Refused, match=r"is animated \(3 frames\); send a still image"):
            decode(animated(file_format), heic=False)


def test_random_metadata_never_costs_the_pixels():
    chance = random.Random(0)
    for _ in range(200):
        body = chance.randbytes(chance.randrange(200))
        chunks = [
            png_chunk(name, body) for name in (b"eXIf", b"tEXt", b"zTXt", b"iCCP", b"gAMA", b"pHYs", b"tIME", b"xXxx")
        ]
        assert decode(png_with(*chunks), heic=False).tobytes() == upright().tobytes()


def test_bytes_are_named_for_what_they_are():
    box = struct.pack(">I", 24) + b"ftyp"
    assert kind_of(box + b"mif1\0\0\0\0mif1heic") == "HEIC"
    assert kind_of(box + b"mif1\0\0\0\0mif1avif") == "an AVIF image"
    assert kind_of(box + b"qt  \0\0\0\0qt  qt  ") == "a video"
    assert kind_of(b"\0\0\0\x0cJXL \r\n\x87\n") == "a JPEG XL image"
    assert kind_of(b"") == kind_of(b"words") == ""


def test_repeated_images_are_found_with_the_first_of_them():
    assert duplicates("abcab") == {3: 0, 4: 1}
    assert duplicates("abc") == {}


def test_the_decoder_is_imported_without_torch_or_numpy():
    code = "import sys, opad_core.reference_images; print({'torch', 'numpy', 'diffusers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def heic(image, **options):
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=-1, chroma=444, **options)
    return file.getvalue()


def test_heic_is_read():
    """HEVC is lossless here but for the conversion to YCbCr and back."""
    image = decode(heic(upright().resize((96, 64), Image.Resampling.NEAREST)), heic=True)

    assert (image.mode, image.size, image.info) == ("RGB", (96, 64), {})
    for place, expected in (((5, 5), (0, 0, 255)), ((90, 60), (0, 255, 0)), ((90, 5), (255, 0, 0))):
        assert max(abs(ours - theirs) for ours, theirs in zip(image.getpixel(place), expected, strict=True)) <= 3


def test_heic_with_garbage_for_exif_or_profile_is_read():
    for metadata in ({"exif": b"Exif\0\0\xde\xad\xbe\xef"}, {"icc_profile": b"\0\1\2", "icc_profile_type": "prof"}):
        assert decode(heic(sideways(), **metadata), heic=True).size == (32, 48)


def test_heic_without_transparency_shows_white():
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert decode(heic(clear), heic=True).getpixel((9, 9)) == (255, 255, 255)


def test_a_cut_heic_is_damaged():
    data = heic(upright())
    for tenth in range(1, 10):
        with pytest.raises(Refused) as refusal:
            decode(data[: len(data) * tenth // 10], heic=True)
        assert refusal.value.kind == "damaged"


def test_where_heic_is_not_read_the_sentence_says_how_to_convert_it():
    remedy = "save it as JPEG (iPhone: Settings > Camera > Formats > Most Compatible)"
    with pytest.raises(Refused) as refusal:
        decode(struct.pack(">I", 24) + b"ftypheic" + bytes(100), heic=False)
    assert refusal.value.kind == "format"
    assert str(refusal.value) == f"is a HEIC image, which is not read here; {remedy}, or send PNG or WebP"
    assert formats(heic=False) == f"JPEG, PNG or WebP (not HEIC: {remedy})"
    assert formats(heic=True) == "JPEG, PNG, WebP or HEIC"
    assert not reads_heic(wanted=False)
