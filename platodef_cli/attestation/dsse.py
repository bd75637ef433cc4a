"""DSSE envelopes (Dead Simple Signing Envelope 1.0): parsing, and verification with a public key.

The library ``securesystemslib`` does both; what an envelope may be, and which keys are taken, is said here.
"""

from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signature, SSlibKey

from platodef_cli.errors import RefusedError, UsageError

_EXTRA = "pip install 'platodef[sign]'"
_SCHEMES = ("ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
MISSING = f"verifying a signature needs the library cryptography: {_EXTRA}"


def parse_envelope(value: dict[str, Any]) -> Envelope:
    """Read the JSON form of an envelope.

    Raises:
        UsageError: A part is missing, of another type, or no base64.
    """
    kind, payload, entries = value.get("payloadType"), value.get("payload"), value.get("signatures")
    if not isinstance(kind, str) or not isinstance(entries, list) or not entries:
        raise UsageError("the envelope has no payloadType or no signatures")
    signatures = [entry.get("sig") if isinstance(entry, dict) else None for entry in entries]
    if not all(isinstance(text, str) for text in (payload, *signatures)):
        raise UsageError("the envelope lacks a payload or a signature")
    # the names of keys are unauthenticated hints that may be absent or stand twice: numbers take their place
    numbered = [{"keyid": str(number), "sig": text} for number, text in enumerate(signatures)]
    try:
        return Envelope.from_dict({"payloadType": kind, "payload": payload, "signatures": numbered})
    except ValueError:
        raise UsageError("the envelope has a payload or a signature that is not base64") from None


def verify(envelope: Envelope, pem: bytes) -> None:
    """Check that one of the signatures is by the holder of a public key.

    Args:
        envelope: The envelope.
        pem: The public key, PEM: Ed25519, or ECDSA on P-256, P-384 or P-521 (with SHA-256, -384, -512).

    Raises:
        UsageError: The key cannot be read or is of another kind, or the library ``cryptography`` is missing.
        RefusedError: No signature is valid.
    """
    key = _read_key(pem)
    signed = envelope.pae()
    for signature in envelope.signatures.values():
        try:
            key.verify_signature(Signature(key.keyid, signature.signature), signed)
        except UnverifiedSignatureError:
            continue
        return
    raise RefusedError(
        "the signature of the attestation is not by the given key, or the attestation was changed"
    )


def _read_key(pem: bytes) -> SSlibKey:
    """Return the key of a PEM file.

    Raises:
        UsageError: As for :func:`verify`.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise UsageError(MISSING) from None
    try:
        loaded = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError("the attestation key is not a public key in PEM form") from None
    try:
        key = SSlibKey.from_crypto(loaded)
    except ValueError:
        key = None
    if key is None or key.scheme not in _SCHEMES:
        raise UsageError("the attestation key is neither Ed25519 nor ECDSA P-256, P-384 or P-521")
    return key
