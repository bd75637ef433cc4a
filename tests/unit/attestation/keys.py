"""Keys and certificates of tests, and models signed by the real ``model-signing``."""

import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def write_key(folder: Path, name: str = "key", curve: ec.EllipticCurve | None = None) -> tuple[Path, Path]:
    """Write a private and a public key, PEM; return both paths."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    return write_private(folder, name, key), write_public(folder, name, key)


def write_private(folder: Path, name: str, key: Any) -> Path:
    path = folder / f"{name}.private.pem"
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return path


def write_public(folder: Path, name: str, key: Any) -> Path:
    path = folder / f"{name}.pem"
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return path


def certificate(
    name: str, key: Any, issuer: Any = None, *, authority: bool = False, use: str | None = "signing"
) -> Any:
    """Return a certificate; ``issuer`` is (certificate, key), itself by default."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    parent, signing_key = issuer or (None, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.subject if parent else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(START + datetime.timedelta(days=3650 if authority else 30))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    usage = dict.fromkeys(
        (
            "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
            "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    usage["key_cert_sign" if authority else "digital_signature"] = True
    builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    if not authority:
        kind = {"signing": ExtendedKeyUsageOID.CODE_SIGNING, "server": ExtendedKeyUsageOID.SERVER_AUTH}
        builder = builder.add_extension(x509.ExtendedKeyUsage([kind[use or "signing"]]), critical=False)
    return builder.sign(signing_key, hashes.SHA256())


def write_certificate(folder: Path, name: str, value: Any) -> Path:
    path = folder / f"{name}.crt"
    path.write_bytes(value.public_bytes(serialization.Encoding.PEM))
    return path


def write_chain(folder: Path, use: str = "signing") -> tuple[Path, Path, Path, Path]:
    """Write a root, an authority between, and a signer: private key, certificate, middle, root."""
    root_key, middle_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    root = certificate("root", root_key, authority=True)
    middle = certificate("middle", middle_key, (root, root_key), authority=True)
    leaf = certificate("signer", key, (middle, middle_key), use=use)
    return (
        write_private(folder, "signer", key),
        write_certificate(folder, "signer", leaf),
        write_certificate(folder, "middle", middle),
        write_certificate(folder, "root", root),
    )
