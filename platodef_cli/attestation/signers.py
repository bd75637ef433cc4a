"""Who may have signed: keys, certificates, and identities of Sigstore; and the check of an envelope.

A signer is written in one line, in policies and on the command line::

    key:publisher.pem                      a public key in PEM form
    certificate:roots.pem                  a certificate that chains up to one of these
    sigstore:IDENTITY ISSUER [TRUST.json]  keyless signing with Sigstore

Keys and certificates are checked without network. Sigstore's own certificates and logs come from TRUST.json
(a ClientTrustConfig), or from the library's copy of the public ones.
"""

import base64
import binascii
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from securesystemslib.dsse import Envelope

from platodef_cli.attestation import certificates, dsse
from platodef_cli.disk import read_at_most
from platodef_cli.errors import RefusedError, UsageError

MAX_KEY_BYTES = 2**18
_MAX_TRUST_BYTES = 2**24
FORMS = "key:FILE.pem, certificate:ROOTS.pem or sigstore:IDENTITY ISSUER [TRUST.json]"


@dataclass(frozen=True)
class Signer:
    """Somebody whose signature is trusted.

    Attributes:
        text: As it was written.
        kind: How the signature is checked.
        file: Of the key or the root certificates, or the trust configuration of Sigstore.
        identity: Name in the certificate of Sigstore: an address or a workflow.
        issuer: Who vouched for that identity: address of an OpenID Connect provider.
    """

    text: str
    kind: Literal["key", "certificate", "sigstore"]
    file: Path | None = None
    identity: str = ""
    issuer: str = ""


def parse_signer(text: str) -> Signer:
    """Return a signer from its line.

    Raises:
        UsageError: It has none of the forms.
    """
    kind, _, rest = text.partition(":")
    if kind == "key" and rest.strip():
        return Signer(text, "key", Path(rest.strip()))
    if kind == "certificate" and rest.strip():
        return Signer(text, "certificate", Path(rest.strip()))
    if kind == "sigstore":
        try:
            words = shlex.split(rest)
        except ValueError:
            words = []
        if len(words) in (2, 3):
            return Signer(text, "sigstore", Path(words[2]) if words[2:] else None, words[0], words[1])
    raise UsageError(f"the trusted signer {text!r} has none of the forms {FORMS}")


def read_small(path: Path, limit: int = MAX_KEY_BYTES) -> bytes:
    """Return the content of a small file.

    Raises:
        UsageError: It cannot be read or is too large.
    """
    try:
        content = read_at_most(path, limit)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > limit:
        raise UsageError(f"{path} is larger than {limit} bytes; check the path")
    return content


def verify_signer(value: Mapping[str, Any], envelope: Envelope, raw: bytes, signer: Signer) -> None:
    """Check that an envelope is by a signer.

    Args:
        value: The whole JSON document: a Sigstore bundle, or the bare envelope.
        envelope: The envelope in it.
        raw: The document's bytes.
        signer: Who must have signed it.

    Raises:
        UsageError: A key or certificate cannot be read, or a library is missing.
        RefusedError: It is not by the signer, or was changed.
    """
    if signer.kind == "key":
        assert signer.file is not None
        dsse.verify(envelope, read_small(signer.file))
    elif signer.kind == "certificate":
        assert signer.file is not None
        chain = certificate_chain(value)
        if not chain:
            raise RefusedError(f"the signature carries no certificate, and {signer.text!r} needs one")
        dsse.verify(envelope, certificates.verified_key(chain, read_small(signer.file)))
    else:
        _verify_sigstore(raw, signer)


def verify_any(value: Mapping[str, Any], envelope: Envelope, raw: bytes, signers: Sequence[Signer]) -> Signer:
    """Return the first signer that an envelope is by; the arguments are those of :func:`verify_signer`.

    Raises:
        UsageError: As for :func:`verify_signer`.
        RefusedError: It is by none of them; the message of the only one, or of all.
    """
    reasons = []
    for signer in signers:
        try:
            verify_signer(value, envelope, raw, signer)
        except RefusedError as error:
            reasons.append(str(error) if len(signers) == 1 else f"{signer.text}: {error}")
            continue
        return signer
    raise RefusedError("; ".join(reasons))


def certificate_chain(value: Mapping[str, Any]) -> list[bytes]:
    """Return the certificates in a bundle, DER, the signer's first; none where it has none.

    Raises:
        RefusedError: They are no base64.
    """
    material = value.get("verificationMaterial")
    if not isinstance(material, dict):
        return []
    chain = material.get("x509CertificateChain")
    entries = chain.get("certificates") if isinstance(chain, dict) else None
    if not isinstance(entries, list):
        entries = [material["certificate"]] if "certificate" in material else []
    texts = [entry.get("rawBytes") if isinstance(entry, dict) else None for entry in entries]
    try:
        return [base64.b64decode(text, validate=True) for text in texts if isinstance(text, str)]
    except (binascii.Error, ValueError):
        raise RefusedError("the signature carries a certificate that is not base64") from None


def kind_of(value: Mapping[str, Any]) -> Literal["key", "certificate", "sigstore"]:
    """Return how a bundle was signed, as far as it says."""
    material = value.get("verificationMaterial")
    if isinstance(material, dict) and material.get("tlogEntries"):
        return "sigstore"
    return "certificate" if certificate_chain(value) else "key"


def _verify_sigstore(raw: bytes, signer: Signer) -> None:
    """Check a bundle with the library of Sigstore.

    Raises:
        UsageError: The library is missing, or the trust configuration is none.
        RefusedError: The bundle is not by the identity.
    """
    try:
        from sigstore.errors import Error
        from sigstore.models import Bundle, ClientTrustConfig
        from sigstore.verify import Verifier
        from sigstore.verify.policy import Identity
    except ImportError:
        raise UsageError(
            "verifying an identity of Sigstore needs the library sigstore: pip install 'platodef[sigstore]'"
        ) from None
    try:
        if signer.file is None:
            # the library's copy of the public roots: nothing is fetched
            verifier = Verifier.production(offline=True)
        else:
            text = read_small(signer.file, _MAX_TRUST_BYTES).decode()
            verifier = Verifier(trusted_root=ClientTrustConfig.from_json(text).trusted_root)
    except UsageError:
        raise
    except Exception as error:  # the library has no common base of errors for what it reads
        where = signer.file or "the library's copy of Sigstore's roots"
        raise UsageError(f"{where} is no trust configuration of Sigstore: {_first_line(error)}") from None
    try:
        bundle = Bundle.from_json(raw)
        verifier.verify_dsse(bundle, Identity(identity=signer.identity, issuer=signer.issuer))
    except (Error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RefusedError(
            f"the signature is not by {signer.identity} of {signer.issuer}: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
