"""Every bad upload is refused in words that name the file, and leaves nothing behind."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.api.pictures import animated, bomb, encoded, photo, png_of

NOTHING = {"concept": 0, "job": 0, "reference": 0, "objects": 0}

BAD_FILES: list[tuple[str, bytes, int, str, str]] = [
    ("empty.jpg", b"", 422, "image_damaged", "is empty"),
    ("notes.txt", b"just words", 415, "image_format", "send JPEG, PNG or WebP"),
    ("page.svg", b"<svg onload='alert(1)'/>", 415, "image_format", "is an SVG"),
    ("a.gif", animated("GIF"), 415, "image_format", "is a GIF"),
    ("scan.jpg", encoded(Image.new("RGB", (64, 64)), "TIFF"), 415, "image_format", "is a TIFF"),
    ("cut.jpg", photo(9, side=256)[:2000], 422, "image_damaged", "cut off"),
    ("cut.png", photo(9, file_format="PNG")[:800], 422, "image_damaged", "cut off"),
    ("bomb.png", bomb(), 422, "image_too_many_pixels", "is 30000x30000"),
    ("moving.png", animated("PNG"), 422, "image_animated", "send a still picture"),
    ("moving.webp", animated("WEBP"), 422, "image_animated", "send a still picture"),
    ("tiny.png", encoded(Image.new("RGB", (31, 31)), "PNG"), 422, "image_too_small", "is 31x31"),
    ("thin.png", encoded(Image.new("RGB", (20_000, 2)), "PNG"), 422, "image_too_small", "is 20000x2"),
    ("narrow.png", encoded(Image.new("RGB", (8192, 40)), "PNG"), 422, "image_too_small", "too narrow"),
]


def test_a_bad_file_is_named_with_its_remedy_and_nothing_is_stored(
    upload: Callable[..., Any], stored: Callable[[], dict[str, int]], subtests: pytest.Subtests
) -> None:
    for name, data, status, code, words in BAD_FILES:
        with subtests.test(name):
            answer = upload(photo(1), (name, data), photo(3))

            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"
            body = answer.json()
            assert body["code"] == code
            assert f'image 2 ("{name}")' in body["detail"]
            assert words in body["detail"]
            assert [error["field"] for error in body["errors"]] == ["images[1]"]
    assert stored() == NOTHING


def test_all_bad_files_are_named_at_once(upload: Callable[..., Any]) -> None:
    answer = upload(("a.txt", b"words"), photo(2), ("c.png", photo(3, file_format="PNG")[:500]))

    assert answer.status_code == 415
    assert [error["field"] for error in answer.json()["errors"]] == ["images[0]", "images[2]"]


def test_three_to_five_images_are_needed(
    upload: Callable[..., Any], client: TestClient, stored: Callable[[], dict[str, int]], subtests: pytest.Subtests
) -> None:
    for count in (1, 2, 6):
        with subtests.test(f"{count} images"):
            answer = upload(*[photo(n) for n in range(count)])

            assert answer.status_code == 422
            assert answer.json()["code"] == "image_count"
            assert f"needs 3-5 reference images in the field `images`, got {count}" in answer.json()["detail"]
    with subtests.test("no images"):
        answer = client.post("/v1/concepts", files={"name": (None, "x"), "class_noun": (None, "mug")})
        assert answer.json()["code"] == "image_count"
    assert stored() == NOTHING


def test_the_same_picture_thrice_is_not_three_pictures(
    upload: Callable[..., Any], stored: Callable[[], dict[str, int]]
) -> None:
    answer = upload(photo(1), photo(1), photo(1))

    assert answer.status_code == 422
    assert answer.json()["code"] == "identical_images"
    assert stored() == NOTHING


def test_a_file_over_the_limit_is_refused(upload: Callable[..., Any], stored: Callable[[], dict[str, int]]) -> None:
    answer = upload(photo(1), ("huge.jpg", b"\xff\xd8\xff" + bytes(1024**2)), photo(3))  # the limit here is 1 MB

    assert answer.status_code == 413
    assert answer.json()["code"] == "file_too_large"
    assert answer.json()["detail"].startswith('image 2 ("huge.jpg") is larger than 1 MB')
    assert stored() == NOTHING


def test_hostile_file_names_are_shown_harmlessly(upload: Callable[..., Any]) -> None:
    answer = upload(photo(1), ("../../etc/<b>passwd\u202e", b"words"), photo(3))

    assert 'image 2 ("bpasswd") is not a picture' in answer.json()["detail"]


def test_other_bodies_are_refused_in_words(client: TestClient) -> None:
    as_json = client.post("/v1/concepts", json={"name": "x"})
    assert as_json.status_code == 415
    assert as_json.json()["code"] == "not_multipart"

    no_boundary = client.post("/v1/concepts", content=b"--x", headers={"Content-Type": "multipart/form-data"})
    assert no_boundary.status_code == 422
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
    """Orientation 6 means: turn by 90 degrees clockwise to see it upright."""
    picture = Image.new("RGB", (80, 40), (200, 30, 30))
    exif = picture.getexif()
    exif[0x0112] = 6
    exif[0x010E] = "<script>alert(1)</script>"
    turned = encoded(picture, "JPEG", exif=exif, comment=b"<script>", quality=95)
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


def test_a_large_photo_is_scaled_to_1024(client: TestClient, upload: Callable[..., Any]) -> None:
    wide = encoded(Image.linear_gradient("L").resize((2048, 1024)).convert("RGB"), "JPEG")

    concept = upload(wide, photo(2), photo(3)).json()["concept"]

    assert (concept["references"][0]["width"], concept["references"][0]["height"]) == (1024, 512)
