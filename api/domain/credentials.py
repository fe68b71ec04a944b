"""The key and the certificates with which an installation signs the Content Credentials (C2PA) of its images.

An installation makes them once. The certificate file has the signing certificate, its issuer, and below them those of
keys that were replaced: their signatures still count as this installation's.
"""

import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID = timedelta(days=3650)
_C2PA_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
"""The extended key usage of a certificate that signs claims (C2PA 2.2, 14.5.1)."""
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


def make_credentials(certificate: Path, key: Path) -> bool:
    """Make a key and its certificates, unless the key exists. Return whether they were made.

    Only the owner can read the key. Certificates that the file already has stay in it, below the new ones.
    """
    if key.exists():
        return False
    name = f"OPAD installation {secrets.token_hex(4)}"
    root, signer = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _name(name, "OPAD root")
    chain = [
        _certificate(_name(name, "OPAD images"), signer.public_key(), issuer, root, is_root=False),
        _certificate(issuer, root.public_key(), issuer, root, is_root=True),
    ]
    former = certificate.read_bytes() if certificate.exists() else b""
    certificates = b"".join(each.public_bytes(Encoding.PEM) for each in chain) + former
    pem = signer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_credentials(certificate, key, certificates=certificates, pem=pem)
    return True


def write_credentials(certificate: Path, key: Path, *, certificates: bytes, pem: bytes) -> None:
    """Write both files, each at once. Only the owner can read the key."""
    _write(certificate, certificates, mode=0o644)
    _write(key, pem, mode=0o600)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates of a PEM file. Raises ValueError in words, and OSError."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} has no readable certificates in PEM") from error


def trusted_certificates(path: Path) -> str:
    """Return as PEM the certificates that sign for this installation; nothing if there is no file.

    Raises ValueError, which says in one sentence why the file cannot be read.
    """
    try:
        certificates = read_certificates(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates).decode()


def signing_chain(certificates: list[x509.Certificate]) -> list[x509.Certificate]:
    """Return the first certificate and its issuers, as far as they follow it."""
    chain = certificates[:1]
    for candidate in certificates[1:]:
        if chain[-1].issuer == chain[-1].subject or candidate.subject != chain[-1].issuer:
            break
        chain.append(candidate)
    return chain


def read_credentials(certificate: Path, key: Path) -> tuple[str, bytes, bytes]:
    """Return C2PA's name of the algorithm, the chain and the key, both as PEM.

    Raises ValueError, which says in one sentence why these files cannot sign.
    """
    for path in (certificate, key):
        if not path.is_file():
            raise ValueError(f"there is no {path}")
    try:
        chain, pem = signing_chain(read_certificates(certificate)), key.read_bytes()
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{key} is not a private key in PEM without a password") from error
    if private.public_key() != chain[0].public_key():
        raise ValueError(f"the first certificate of {certificate} is not that of the key {key}")
    now = datetime.now(UTC)
    if not chain[0].not_valid_before_utc <= now < chain[0].not_valid_after_utc:
        raise ValueError(
            f"the certificate {certificate} is valid from {chain[0].not_valid_before_utc:%Y-%m-%d} to "
            f"{chain[0].not_valid_after_utc:%Y-%m-%d}; today is {now:%Y-%m-%d}"
        )
    match private:
        case ec.EllipticCurvePrivateKey() if private.curve.name in _CURVES:
            algorithm = _CURVES[private.curve.name]
        case ed25519.Ed25519PrivateKey():
            algorithm = "ed25519"
        case rsa.RSAPrivateKey():
            algorithm = "ps256"
        case _:
            raise ValueError(f"{key} is not a key that C2PA can sign with; use P-256, P-384, P-521, Ed25519 or RSA")
    return algorithm, b"".join(each.public_bytes(Encoding.PEM) for each in chain), pem


def _name(organization: str, common: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
        x509.NameAttribute(NameOID.COMMON_NAME, common),
    ])  # fmt: skip


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_root: bool,
) -> x509.Certificate:
    start = datetime.now(UTC) - timedelta(days=1)  # valid for readers whose clock is late
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + _VALID)
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=0 if is_root else None), critical=True)
        .add_extension(_key_usage(is_root=is_root), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not is_root:
        usage = x509.ExtendedKeyUsage([_C2PA_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(usage, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _key_usage(*, is_root: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=is_root, crl_sign=is_root, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _write(path: Path, content: bytes, *, mode: int) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        os.fsync(file.fileno())
    new.replace(path)
