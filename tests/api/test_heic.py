"""HEIC photos: accepted where their decoder is installed and wanted, else refused with the way to convert them."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from api.domain.settings import Settings
from tests.api.reference_images import png_of, reference
from tests.security.bad_files import avif_name

CONVERT = "save it as JPEG (iPhone: Settings > Camera > Formats > Most Compatible)"


def heic(image: Image.Image) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=-1, chroma=444)
    return file.getvalue()


@pytest.fixture(params=[True])
def api_settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.model_copy(update={"heic": request.param})


def test_heic_is_taken_like_every_photo(client: TestClient, upload: Callable[..., Any]) -> None:
    photo = heic(png_of(reference(1, side=96)))

    answer = upload(("IMG_1.HEIC", photo), reference(2), reference(3))

    assert answer.status_code == 202, answer.text
    first = answer.json()["concept"]["references"][0]
    assert png_of(client.get(first["url"]).content).size == (96, 96)


def test_a_photo_in_two_formats_is_one_photo(upload: Callable[..., Any]) -> None:
    flat = Image.new("RGB", (64, 64), (128, 128, 128))  # gray survives the conversion to YCbCr
    png = io.BytesIO()
    flat.save(png, "PNG")
    answer = upload(heic(flat), png.getvalue(), reference(3))
    assert answer.json()["code"] == "identical_images"


def test_a_broken_heic_is_damaged(upload: Callable[..., Any]) -> None:
    photo = heic(png_of(reference(1)))
    for data in (photo[: len(photo) // 2], avif_name(b"heic")):
        answer = upload(("IMG_1.HEIC", data), reference(2), reference(3))
        assert (answer.status_code, answer.json()["code"]) == (422, "image_damaged")


@pytest.mark.parametrize("api_settings", [False], indirect=True)
def test_where_heic_is_off_every_place_that_names_formats_says_how_to_convert(
    client: TestClient, upload: Callable[..., Any]
) -> None:
    answer = upload(("IMG_1.HEIC", avif_name(b"heic")), reference(2), reference(3))
    assert (answer.status_code, answer.json()["code"]) == (415, "image_format")
    assert answer.json()["detail"] == (
        f'image 1 ("IMG_1.HEIC") is a HEIC image, which is not read here; {CONVERT}, or send PNG or WebP'
    )

    formats = f"JPEG, PNG or WebP (not HEIC: {CONVERT})"
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/concepts"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert formats in body["schema"]["properties"]["images"]["description"]
    client.post("/dashboard/sign-in", data={"key": client.headers["Authorization"].removeprefix("Bearer ")})
    form = client.get("/dashboard/concepts/new").text
    assert formats.replace(">", "&gt;") in form
    assert "image/heic" not in form


def test_where_heic_is_on_the_form_takes_it(client: TestClient) -> None:
    pytest.importorskip("pillow_heif")
    client.post("/dashboard/sign-in", data={"key": client.headers["Authorization"].removeprefix("Bearer ")})
    form = client.get("/dashboard/concepts/new").text
    assert "JPEG, PNG, WebP or HEIC" in form
    assert "image/heic,image/heif,.heic,.heif" in form
