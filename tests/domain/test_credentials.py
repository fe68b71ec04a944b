"""The key and certificates that sign images."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from api.domain.credentials import (
    make_credentials,
    read_certificates,
    read_credentials,
    signing_chain,
    trusted_certificates,
)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "c2pa" / "certificate.pem", tmp_path / "c2pa" / "key.pem"
    assert make_credentials(certificate, key)
    return certificate, key


def test_they_are_made_once_and_the_key_is_its_owners_alone(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    before = certificate.read_bytes(), key.read_bytes()
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)

    assert not make_credentials(certificate, key)
    assert (certificate.read_bytes(), key.read_bytes()) == before


def test_the_first_certificate_is_the_keys_and_its_issuer_signed_it(pair: tuple[Path, Path]) -> None:
    leaf, root = read_certificates(pair[0])
    private = load_pem_private_key(pair[1].read_bytes(), password=None)
    assert private.public_key() == leaf.public_key()
    leaf.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert leaf.subject != root.subject
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (leaf.not_valid_after_utc - datetime.now(UTC)).days > 3600


def test_a_new_key_keeps_the_former_certificates_and_signs_with_its_own(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    former = read_certificates(certificate)
    key.unlink()
    assert make_credentials(certificate, key)

    found = read_certificates(certificate)
    assert found[2:] == former
    assert signing_chain(found) == found[:2]
    algorithm, chain, _ = read_credentials(certificate, key)
    assert algorithm == "es256"
    assert x509.load_pem_x509_certificates(chain) == found[:2]


def test_files_that_cannot_sign_are_told_apart(pair: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = pair
    other = tmp_path / "other-certificate.pem", tmp_path / "other-key.pem"
    make_credentials(*other)
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    old = tmp_path / "dsa.pem"
    old.write_bytes(dsa.generate_private_key(2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    for files, words in {
        (tmp_path / "none.pem", key): "there is no ",
        (certificate, tmp_path / "none.pem"): "there is no ",
        (empty, key): "has no readable certificates in PEM",
        (certificate, empty): "is not a private key in PEM without a password",
        (certificate, other[1]): "is not that of the key",
        (certificate, old): "is not that of the key",
    }.items():
        with pytest.raises(ValueError, match=words):
            read_credentials(*files)


def test_a_certificate_file_that_is_broken_or_a_folder_is_named_and_a_missing_one_is_fine(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    certificate, _ = pair
    assert trusted_certificates(certificate).encode() == certificate.read_bytes()
    assert trusted_certificates(tmp_path / "none.pem") == ""
    certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\n\xff")
    with pytest.raises(ValueError, match=f"{certificate} has no readable certificates in PEM"):
        trusted_certificates(certificate)
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be read: Is a directory"):
        trusted_certificates(tmp_path)
