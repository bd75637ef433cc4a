"""DSSE envelopes (Dead Simple Signing Envelope 1.0): parsing, and verification with a public key.

Source: the DSSE protocol specification, section "Signature Definition" (pre-authentication encoding).
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from platodef_cli.errors import RefusedError, UsageError

_EXTRA = "pip install 'platodef[sign]'"
_P256 = "secp256r1"


@dataclass(frozen=True)
class Envelope:
    """A signed document.

    Attributes:
        payload_type: What the payload is, a media type.
        payload: The document, as it was signed.
        signatures: The signatures; the names of their keys are unauthenticated hints and are ignored.
    """

    payload_type: str
    payload: bytes
    signatures: tuple[bytes, ...]


def parse_envelope(value: dict[str, Any]) -> Envelope:
    """Read the JSON form of an envelope.

    Raises:
        UsageError: A part is missing, of another type, or no base64.
    """
    kind, payload, signatures = value.get("payloadType"), value.get("payload"), value.get("signatures")
    if not isinstance(kind, str) or not isinstance(signatures, list) or not signatures:
        raise UsageError("the envelope has no payloadType or no signatures")
    found = [entry.get("sig") if isinstance(entry, dict) else None for entry in signatures]
    return Envelope(kind, _decode(payload), tuple(_decode(signature) for signature in found))


def _decode(text: Any) -> bytes:
    """Decode base64 with either of its alphabets, as the specification allows."""
    if not isinstance(text, str):
        raise UsageError("the envelope lacks a payload or a signature")
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("the envelope has a payload or a signature that is not base64") from None


def encode(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: ``DSSEv1 LEN(type) type LEN(payload) payload`` (PAE)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def verify(envelope: Envelope, pem: bytes) -> None:
    """Check that one of the signatures is by the holder of a public key.

    Args:
        envelope: The envelope.
        pem: The public key, PEM: Ed25519, or ECDSA on the curve P-256 (with SHA-256).

    Raises:
        UsageError: The key cannot be read or is of another kind, or the library ``cryptography`` is missing.
        RefusedError: No signature is valid.
    """
    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise UsageError(f"verifying a signature needs the library cryptography: {_EXTRA}") from None
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError("the attestation key is not a public key in PEM form") from None
    signed = encode(envelope.payload_type, envelope.payload)
    for signature in envelope.signatures:
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, signed)
            elif isinstance(key, EllipticCurvePublicKey) and key.curve.name == _P256:
                key.verify(signature, signed, ECDSA(SHA256()))
            else:
                raise UsageError("the attestation key is neither Ed25519 nor ECDSA P-256")
        except InvalidSignature:
            continue
        return
    raise RefusedError(
        "the signature of the attestation is not by the given key, or the attestation was changed"
    )
