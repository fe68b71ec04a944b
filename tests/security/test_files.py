"""Every bad upload gets an error that names the file, and leaves nothing behind."""

import io
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.api.reference_images import animated, bomb, encoded, png_of, reference
from tests.security.bad_files import (
    avif_name,
    jpeg_header,
    many_text_chunks,
    webp_header,
    with_gps,
    ycck,
)
from tests.security.conftest import NOTHING
from tests.security.faulty_metadata import faulty

FIELDS = {"name": "x", "class_noun": "mug", "consent": "true"}
BAD_FILES: list[tuple[str, bytes, int, str, str]] = [
    ("empty.jpg", b"", 422, "image_damaged", "is empty"),
    ("notes.txt", b"just words", 415, "image_format", "send JPEG, PNG"),
    ("page.svg", b"<svg onload='alert(1)'/>", 415, "image_format", "is an SVG"),
    ("a.gif", animated("GIF"), 415, "image_format", "is a GIF"),
    ("scan.jpg", encoded(Image.new("RGB", (64, 64)), "TIFF"), 415, "image_format", "is a TIFF"),
    ("cut.jpg", reference(9, side=256)[:2000], 422, "image_damaged", "cut off"),
    ("cut.png", reference(9, file_format="PNG")[:800], 422, "image_damaged", "cut off"),
    ("bomb.png", bomb(), 422, "image_too_many_pixels", "is 30000x30000"),
    ("moving.png", animated("PNG"), 422, "image_animated", "send a still image"),
    ("moving.webp", animated("WEBP"), 422, "image_animated", "send a still image"),
    ("tiny.png", encoded(Image.new("RGB", (31, 31)), "PNG"), 422, "image_too_small", "is 31x31"),
    ("thin.png", encoded(Image.new("RGB", (20_000, 2)), "PNG"), 422, "image_too_small", "is 20000x2"),
    ("wide.jpg", jpeg_header(65_535, 65_535), 422, "image_too_many_pixels", "is 65535x65535"),
    ("canvas.webp", webp_header(16_383, 16_383), 422, "image_too_many_pixels", "is 16383x16383"),
    ("long.gif", animated("GIF") * 1000, 415, "image_format", "is a GIF"),
    ("print.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", 415, "image_format", "is a PostScript file"),
    ("paper.pdf", b"%PDF-1.7\n", 415, "image_format", "is a PDF"),
    ("xml.svg", b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>", 415,
     "image_format", "is an XML file"),
    ("layers.psd", b"8BPS\0\1", 415, "image_format", "is a Photoshop file"),
    ("app.ico", b"\0\0\1\0\1\0", 415, "image_format", "is an icon"),
    ("web.avif", avif_name(b"avif"), 415, "image_format", "is an AVIF image"),
    ("archive.png", b"PK\3\4" + bytes(60), 415, "image_format", "is a ZIP archive"),
    ("dot.png", encoded(Image.new("RGB", (1, 1)), "PNG"), 422, "image_too_small", "is 1x1"),
    ("narrow.png", encoded(Image.new("RGB", (8192, 40)), "PNG"), 422, "image_too_small", "too narrow"),
]  # fmt: skip


def test_a_bad_file_is_named_with_its_remedy_and_nothing_is_stored(
    upload: Callable[..., Any], stored: Callable[[], dict[str, int]], subtests: pytest.Subtests
) -> None:
    for name, data, status, code, words in BAD_FILES:
        with subtests.test(name):
            answer = upload(reference(1), (name, data), reference(3))

            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"
            body = answer.json()
            assert body["code"] == code
            assert f'image 2 ("{name}")' in body["detail"]
            assert words in body["detail"]
            assert [error["field"] for error in body["errors"]] == ["images[1]"]
    assert stored() == NOTHING


def test_all_bad_files_are_named_at_once(upload: Callable[..., Any]) -> None:
    answer = upload(("a.txt", b"words"), reference(2), ("c.png", reference(3, file_format="PNG")[:500]))

    assert answer.status_code == 415
    assert [error["field"] for error in answer.json()["errors"]] == ["images[0]", "images[2]"]


def test_three_to_five_images_are_needed(
    upload: Callable[..., Any], client: TestClient, stored: Callable[[], dict[str, int]], subtests: pytest.Subtests
) -> None:
    for count in (1, 2, 6):
        with subtests.test(f"{count} images"):
            answer = upload(*[reference(n) for n in range(count)])

            assert answer.status_code == 422
            assert answer.json()["code"] == "image_count"
            assert f"needs 3-5 reference images in the field `images`, got {count}" in answer.json()["detail"]
    with subtests.test("no images"):
        answer = client.post("/v1/concepts", files={name: (None, value) for name, value in FIELDS.items()})
        assert answer.json()["code"] == "image_count"
    assert stored() == NOTHING


def test_the_same_image_twice_is_refused_even_in_another_format(
    upload: Callable[..., Any], stored: Callable[[], dict[str, int]]
) -> None:
    answer = upload(reference(1), reference(2, file_format="PNG"), reference(3), ("again.png", reference(1)),
                    reference(2, file_format="WEBP", lossless=True))  # fmt: skip

    assert answer.status_code == 422
    assert answer.json()["code"] == "identical_images"
    assert answer.json()["detail"] == (
        'image 4 ("again.png") is the same image as image 1 ("photo1.jpg"); leave one out. '
        'image 5 ("photo5.jpg") is the same image as image 2 ("photo2.jpg"); leave one out'
    )
    assert [error["field"] for error in answer.json()["errors"]] == ["images[3]", "images[4]"]
    assert stored() == NOTHING


def test_a_file_over_the_limit_is_refused(upload: Callable[..., Any], stored: Callable[[], dict[str, int]]) -> None:
    answer = upload(
        reference(1), ("huge.jpg", b"\xff\xd8\xff" + bytes(1024**2)), reference(3)
    )  # the limit here is 1 MB

    assert answer.status_code == 413
    assert answer.json()["code"] == "file_too_large"
    assert answer.json()["detail"].startswith('image 2 ("huge.jpg") is larger than 1 MB')
    assert stored() == NOTHING


def test_hostile_file_names_are_shown_harmlessly(upload: Callable[..., Any]) -> None:
    answer = upload(reference(1), ("../../etc/<b>passwd\u202e", b"words"), reference(3))

    assert 'image 2 ("bpasswd") is not an image' in answer.json()["detail"]


def test_other_bodies_are_refused_in_words(client: TestClient) -> None:
    as_json = client.post("/v1/concepts", json={"name": "x"})
    assert as_json.status_code == 415
    assert as_json.json()["code"] == "not_multipart"

    no_boundary = client.post("/v1/concepts", content=b"--x", headers={"Content-Type": "multipart/form-data"})
    assert no_boundary.status_code == 400
    assert no_boundary.json()["code"] == "malformed_multipart"

    many = client.post("/v1/concepts", files=[("images", ("a.jpg", b"x"))] * 50)
    assert many.json()["code"] == "malformed_multipart"


def test_no_byte_is_read_before_the_key_is_known(anonymous: TestClient) -> None:
    def endless() -> Any:
        raise AssertionError("the body was asked for")
        yield b""

    answer = anonymous.post(
        "/v1/concepts", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"}
    )

    assert answer.status_code == 401


def test_what_is_kept_is_upright_srgb_without_metadata(client: TestClient, upload: Callable[..., Any]) -> None:
    """Orientation 6: rotate by 90 degrees clockwise."""
    image = Image.new("RGB", (80, 40), (200, 30, 30))
    exif = image.getexif()
    exif[0x0112] = 6
    exif[0x010E] = "<script>alert(1)</script>"
    turned = encoded(image, "JPEG", exif=exif, comment=b"<script>", quality=95)
    ghost = encoded(Image.new("RGBA", (64, 64), (0, 0, 0, 0)), "PNG")
    deep = encoded(Image.new("I;16", (64, 64), 32_896), "PNG")  # 32,896 / 257 = 128
    cmyk = encoded(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG", quality=95)

    concept = upload(turned, ghost, deep, cmyk).json()["concept"]
    kept = [client.get(reference["url"]).content for reference in concept["references"]]
    images = [png_of(data) for data in kept]

    assert [image.size for image in images] == [(40, 80), (64, 64), (64, 64), (64, 64)]
    assert [image.mode for image in images] == ["RGB"] * 4
    assert [image.info for image in images] == [{}] * 4
    assert b"script" not in kept[0]
    assert images[1].getpixel((5, 5)) == (255, 255, 255)
    assert images[2].getpixel((5, 5)) == (128, 128, 128)
    red, green, blue = images[3].getpixel((32, 32))
    assert red > 200 > 60 > max(green, blue)  # full magenta and yellow are red


def test_damaged_metadata_never_costs_a_whole_photo(kept: Callable[..., list[bytes]]) -> None:
    """One of each format; tests/opad_core/test_reference_images.py has every fault."""
    for fault in ("JPEG, GPS of unexpected types", "WebP, one animated frame", "PNG, profile above 1 MB"):
        (data,) = kept(faulty()[fault])
        assert png_of(data).size == (48, 32), fault
    (data,) = kept(many_text_chunks(compressed=True))
    assert png_of(data).size == (64, 64)


@pytest.fixture
def kept(client: TestClient, upload: Callable[..., Any]) -> Callable[..., list[bytes]]:
    """Upload these files, three at a time with fillers, and return what is stored of them."""
    names = iter(range(100))

    def send(*files: bytes) -> list[bytes]:
        filled = [*files, *(reference(20 + n) for n in range(3 - len(files)))]
        answer = upload(*filled, name=f"concept {next(names)}")
        assert answer.status_code == 202, answer.text
        references = answer.json()["concept"]["references"]
        return [client.get(reference["url"]).content for reference in references][: len(files)]

    return send


def test_all_eight_orientations_are_stored_as_one_image(kept: Callable[..., list[bytes]]) -> None:
    upright = Image.new("RGB", (96, 64), "red")
    upright.paste("blue", (0, 0, 48, 32))
    undo = {1: (), 2: ("FLIP_LEFT_RIGHT",), 3: ("ROTATE_180",), 4: ("FLIP_TOP_BOTTOM",), 5: ("TRANSPOSE",),
            6: ("ROTATE_90",), 7: ("TRANSVERSE",), 8: ("ROTATE_270",)}  # fmt: skip
    for orientation, steps in undo.items():
        image = upright
        for step in steps:
            image = image.transpose(Image.Transpose[step])
        exif = image.getexif()
        exif[0x0112] = orientation
        (data,) = kept(encoded(image, "PNG", exif=exif))
        assert png_of(data).tobytes() == upright.tobytes(), f"orientation {orientation}"


def test_the_place_of_a_photo_is_stored_nowhere(kept: Callable[..., list[bytes]]) -> None:
    photos = [with_gps("JPEG"), with_gps("PNG"), with_gps("WEBP")]
    assert all(Image.open(io.BytesIO(data)).getexif().get_ifd(0x8825) for data in photos), "they do carry it"

    for data in kept(*photos):
        assert not Image.open(io.BytesIO(data)).getexif()
        assert b"eXIf" not in data


def test_an_image_that_is_also_an_archive_is_stored_as_an_image_only(kept: Callable[..., list[bytes]]) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("index.html", "<script>alert(1)</script>")
    both = encoded(Image.new("RGB", (64, 64), "red"), "PNG") + archive.getvalue()
    assert zipfile.is_zipfile(io.BytesIO(both))

    (data,) = kept(both)

    assert not zipfile.is_zipfile(io.BytesIO(data))
    assert b"script" not in data


def test_print_colors_keep_their_look(kept: Callable[..., list[bytes]]) -> None:
    """Full cyan and yellow are green; JPEG's rounding and the conversion's are a few levels of 255."""
    cmyk = encoded(Image.new("CMYK", (64, 64), (255, 0, 255, 0)), "JPEG", quality=95)

    for data in kept(cmyk, ycck((255, 0, 255, 0))):
        red, green, blue = png_of(data).getpixel((32, 32))
        assert green > 240, (red, green, blue)
        assert max(red, blue) < 15


def test_every_kind_of_png_becomes_8_bit_rgb(kept: Callable[..., list[bytes]]) -> None:
    grey = Image.new("L", (64, 64), 128)
    kinds = {
        "palette": encoded(Image.new("RGB", (64, 64), (128, 128, 128)).quantize(4), "PNG"),
        "one bit": encoded(Image.new("1", (64, 64), 1), "PNG"),
        "grey with alpha": encoded(Image.merge("LA", (grey, Image.new("L", (64, 64), 255))), "PNG"),
        "transparent palette": encoded(grey.convert("P"), "PNG", transparency=128),
        "sixteen bits": encoded(Image.new("I;16", (64, 64), 128 * 257), "PNG"),
        "grey": encoded(grey, "PNG"),
    }
    expected = dict.fromkeys(kinds, (128, 128, 128)) | {"one bit": (255,) * 3, "transparent palette": (255,) * 3}
    for name, file in kinds.items():
        (data,) = kept(file)
        image = png_of(data)
        assert (image.mode, image.getpixel((9, 9))) == ("RGB", expected[name]), name


def test_a_broken_color_profile_is_read_as_srgb(kept: Callable[..., list[bytes]]) -> None:
    image = Image.new("RGB", (64, 64), (10, 200, 30))
    for profile in (b"x", bytes(200), b"\xff" * 5000):
        (data,) = kept(encoded(image, "PNG", icc_profile=profile))
        assert png_of(data).getpixel((5, 5)) == (10, 200, 30)


def test_a_truncated_photo_is_never_trained_on(
    upload: Callable[..., Any], stored: Callable[[], dict[str, int]]
) -> None:
    for file_format in ("JPEG", "PNG", "WEBP"):
        data = reference(9, side=160, file_format=file_format)
        cut = [data[: len(data) * tenth // 10] for tenth in range(1, 10)]
        for three in (cut[:3], cut[3:6], cut[6:]):
            answer = upload(*three)
            assert answer.status_code == 422, answer.text
            assert [error["field"] for error in answer.json()["errors"]] == ["images[0]", "images[1]", "images[2]"]
    assert stored() == NOTHING


def test_neither_name_nor_declared_type_of_a_file_is_believed(client: TestClient, stored: Any) -> None:
    names = ["../../etc/passwd", "a\x00b.php", "\u202egpj.exe", "n" * 4000 + ".jpg", "\U0001f600.png"]
    answer = client.post(
        "/v1/concepts",
        files=[("images", (name, reference(n), "text/html")) for n, name in enumerate(names)],
        data={**FIELDS, "class_noun": "mug"},
    )

    assert answer.status_code == 202, answer.text
    for stored_reference in answer.json()["concept"]["references"]:
        assert client.get(stored_reference["url"]).headers["content-type"] == "image/png"


def test_a_large_photo_is_scaled_to_1024(client: TestClient, upload: Callable[..., Any]) -> None:
    wide = encoded(Image.linear_gradient("L").resize((2048, 1024)).convert("RGB"), "JPEG")

    concept = upload(wide, reference(2), reference(3)).json()["concept"]

    assert (concept["references"][0]["width"], concept["references"][0]["height"]) == (1024, 512)
