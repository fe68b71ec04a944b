"""Marks of generated images: signed, or XMP alone, or none."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from PIL import Image
from starlette.testclient import TestClient

from api.domain.credentials import _certificate, _name, make_credentials
from api.domain.engine_answer import Generated
from api.domain.provenance import Provenance, default_marks
from api.domain.settings import Settings
from api.read_marks import read_marks
from tests.forged_credentials import undecodable_actions
from tests.random_base import make_512_px, write_random_base
from worker.inference.app import create_app
from worker.inference.encoding import MEDIA_TYPES, Format
from worker.inference.marking import Marking

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
CONCEPT = UUID("0198c0de-7e57-7000-8000-000000000001")
ORIGIN = Provenance("nano", CONCEPT, "ab" * 32, 7)


@pytest.fixture
def signing(tmp_path: Path) -> Settings:
    made = Settings(home=tmp_path, provenance="signed")
    make_credentials(made.signing_certificates, made.signing_key)
    return made


@pytest.fixture
def marking(signing: Settings) -> Marking:
    found = Marking.of(signing, resolution=64)
    assert (found.marks, found.reason) == ("signed", None)
    return found


def pixels_of(file: bytes, folder: Path) -> np.ndarray:
    path = folder / "image"
    path.write_bytes(file)
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("image_format", MEDIA_TYPES)
def test_a_signed_file_says_who_made_it_and_with_what(
    marking: Marking, signing: Settings, image_format: Format
) -> None:
    found = read_marks(marking.file(PIXELS, image_format, ORIGIN), trusted=signing.signing_certificates.read_text())
    assert (found["credentials"], found["ours"], found["generated"]) == ("valid", True, True)
    assert found["signer"].startswith("OPAD installation ")
    assert found["origin"] == {
        "model": "nano", "concept": str(CONCEPT), "bundle": "ab" * 32, "seed": "7", "decoder": "full",
    }  # fmt: skip


@pytest.mark.parametrize("image_format", MEDIA_TYPES)
def test_signing_changes_no_pixel(marking: Marking, signing: Settings, tmp_path: Path, image_format: Format) -> None:
    unsigned = Marking.of(signing.model_copy(update={"provenance": "xmp"}), resolution=64)
    signed, plain = (each.file(PIXELS, image_format, ORIGIN) for each in (marking, unsigned))
    assert np.array_equal(pixels_of(signed, tmp_path), pixels_of(plain, tmp_path))


def states_in_another_process(certificates: Path, *files: Path) -> str:
    """Read JPEGs with the library's own reader: no second implementation is on the package index."""
    code = (
        "import sys, c2pa\n"
        "context = c2pa.Context.from_dict({'trust': {'trust_anchors': open(sys.argv[1]).read()}})\n"
        "print([c2pa.Reader('image/jpeg', open(path, 'rb'), context=context).get_validation_state()"
        " for path in sys.argv[2:]])"
    )
    command = [sys.executable, "-c", code, str(certificates), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_another_process_finds_one_flipped_byte(marking: Marking, signing: Settings, tmp_path: Path) -> None:
    file = bytearray(marking.file(PIXELS, "jpeg", ORIGIN))
    (tmp_path / "signed.jpg").write_bytes(file)
    file[-300] ^= 1  # in the compressed pixels, at the end of the file
    (tmp_path / "flipped.jpg").write_bytes(file)
    files = tmp_path / "signed.jpg", tmp_path / "flipped.jpg"
    assert states_in_another_process(signing.signing_certificates, *files) == "['Trusted', 'Invalid']\n"
    assert read_marks(bytes(file), trusted="")["credentials"] == "altered"


def test_signed_actions_that_are_no_actions_are_invalid(signing: Settings) -> None:
    unmarked = Marking.of(signing.model_copy(update={"provenance": "off"}), resolution=64)
    forged = undecodable_actions(
        unmarked.file(PIXELS, "jpeg", ORIGIN), signing.signing_certificates, signing.signing_key
    )
    assert read_marks(forged, trusted="")["credentials"] == "invalid"


def test_a_strangers_signature_is_not_ours(marking: Marking, signing: Settings, tmp_path: Path) -> None:
    stranger = Settings(home=tmp_path / "other")
    make_credentials(stranger.signing_certificates, stranger.signing_key)
    found = read_marks(marking.file(PIXELS, "png", ORIGIN), trusted=stranger.signing_certificates.read_text())
    assert (found["credentials"], found["ours"]) == ("valid", False)


def test_another_certificate_of_the_same_issuer_is_not_ours(tmp_path: Path) -> None:
    """An operator's issuer may have many customers."""
    root, issuer = ec.generate_private_key(ec.SECP256R1()), _name("An authority", "root")
    authority = _certificate(issuer, root.public_key(), issuer, root, is_root=True).public_bytes(Encoding.PEM)

    def customer(name: str) -> Settings:
        key, made = ec.generate_private_key(ec.SECP256R1()), Settings(home=tmp_path / name, provenance="signed")
        own = _certificate(_name(name, "images"), key.public_key(), issuer, root, is_root=False)
        made.signing_key.parent.mkdir(parents=True)
        made.signing_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        made.signing_certificates.write_bytes(own.public_bytes(Encoding.PEM) + authority)
        return made

    one, other = customer("one"), customer("other")
    file = Marking.of(one, resolution=64).file(PIXELS, "png", ORIGIN)
    for reader, ours in ((one, True), (other, False)):
        found = read_marks(file, trusted=reader.signing_certificates.read_text())
        assert (found["credentials"], found["signer"], found["ours"]) == ("valid", "one", ours)


def test_a_file_of_a_former_key_is_still_ours(marking: Marking, signing: Settings) -> None:
    file = marking.file(PIXELS, "png", ORIGIN)
    signing.signing_key.unlink()
    make_credentials(signing.signing_certificates, signing.signing_key)
    assert read_marks(file, trusted=signing.signing_certificates.read_text())["ours"]


def test_many_threads_sign_at_once(marking: Marking, signing: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        origins = [Provenance("nano", None, None, seed) for seed in range(24)]
        files = list(pool.map(lambda origin: marking.file(PIXELS, "jpeg", origin), origins))
    found = [read_marks(file, trusted="") for file in files]
    assert [each["credentials"] for each in found] == ["valid"] * 24
    assert [each["origin"]["seed"] for each in found] == [str(seed) for seed in range(24)]


def test_without_its_key_an_engine_marks_with_xmp_and_says_why(signing: Settings) -> None:
    signing.signing_key.unlink()
    marking = Marking.of(signing, resolution=64)
    assert marking.facts() == {"marks": "xmp", "marks_reason": f"there is no {signing.signing_key}"}
    found = read_marks(marking.file(PIXELS, "png", ORIGIN), trusted="")
    assert (found["credentials"], found["xmp"], found["origin"]["seed"]) == ("none", True, "7")


def test_off_marks_nothing(signing: Settings) -> None:
    off = Marking.of(signing.model_copy(update={"provenance": "off"}), resolution=64)
    for image_format in MEDIA_TYPES:
        file = off.file(PIXELS, image_format, ORIGIN)
        found = read_marks(file, trusted="")
        assert (found["credentials"], found["xmp"], found["generated"]) == ("none", False, False)
        assert b"opad" not in file


def test_images_of_512_px_are_signed_by_default_and_smaller_ones_are_not() -> None:
    assert [default_marks(resolution) for resolution in (64, 256, 512, 1024)] == ["xmp", "xmp", "signed", "signed"]


def test_an_engine_signs_what_it_generates(engine_settings: Settings, signing: Settings) -> None:
    chosen = engine_settings.model_copy(
        update={"provenance": "signed", "c2pa_cert": signing.signing_certificates, "c2pa_key": signing.signing_key}
    )
    with TestClient(create_app(chosen, bind="test")) as client:
        body = {"bundle": None, "prompt": "a dog", "seeds": [1, 2], "format": "jpeg", "deadline_ms": 60_000}
        answer = Generated.unpack(client.post("/generate", json=body).content)
    trusted = signing.signing_certificates.read_text()
    found = [read_marks(file, trusted=trusted) for file in answer.images]
    assert [(each["ours"], each["origin"]["seed"]) for each in found] == [(True, "1"), (True, "2")]
    assert all("dog" not in str(file) for file in answer.images)


@pytest.mark.slow
def test_an_engine_of_512_px_signs_without_being_asked(
    engine_settings: Settings, signing: Settings, tmp_path: Path
) -> None:
    """Nano's networks, with random weights, on 64 x 64 latents: an image takes seconds."""
    make_512_px(write_random_base(tmp_path / "large"))
    chosen = engine_settings.model_copy(
        update={
            "base": str(tmp_path / "large"),
            "c2pa_cert": signing.signing_certificates,
            "c2pa_key": signing.signing_key,
        }
    )
    assert chosen.provenance is None
    with TestClient(create_app(chosen, bind="test")) as client:
        body = {"bundle": None, "prompt": "a dog", "seeds": [1], "format": "jpeg", "deadline_ms": 60_000}
        [image] = Generated.unpack(client.post("/generate", json=body).content).images
    (tmp_path / "image.jpg").write_bytes(image)
    with Image.open(tmp_path / "image.jpg") as opened:
        assert opened.size == (512, 512)
    assert states_in_another_process(signing.signing_certificates, tmp_path / "image.jpg") == "['Trusted']\n"
