"""Certificates of signers: the chain from a signing certificate to a root that the user trusts.

Follows RFC 5280 by the path validation of the library ``cryptography``; what it asks of web servers (a host
name) is not asked here, what a signer of code needs (digital signature or code signing) is. A signature bears
no trusted time, so that the chain is checked at the time from which the signing certificate is valid, as the
package ``model-signing`` does.
"""

from typing import Any

from platodef_cli.attestation.dsse import MISSING
from platodef_cli.errors import RefusedError, UsageError

_LONGEST_CHAIN = 8


def verified_key(chain: list[bytes], roots: bytes) -> bytes:
    """Return the public key (PEM) of a signing certificate that chains up to a trusted one.

    Args:
        chain: DER; the signing certificate first, then those between it and the root.
        roots: Trusted certificates, PEM.

    Raises:
        UsageError: The roots are no certificates, or the library is missing.
        RefusedError: There is no chain, or the certificate is not for signing.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.x509 import verification
    except ImportError:
        raise UsageError(MISSING) from None
    try:
        trusted = x509.load_pem_x509_certificates(roots)
    except ValueError:
        raise UsageError("the trusted certificates are not in PEM form") from None
    if len(chain) > _LONGEST_CHAIN:
        raise RefusedError(f"the signature carries more than {_LONGEST_CHAIN} certificates")
    try:
        leaf, *between = [x509.load_der_x509_certificate(der) for der in chain]
        _check_use(leaf)
        builder = verification.PolicyBuilder().store(verification.Store(trusted))
        builder = builder.time(leaf.not_valid_before_utc).max_chain_depth(_LONGEST_CHAIN)
        policy = builder.extension_policies(
            ee_policy=verification.ExtensionPolicy.permit_all(), ca_policy=_authorities()
        )
        policy.build_client_verifier().verify(leaf, between)
        return leaf.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except verification.VerificationError as error:
        text = (str(error).splitlines() or [""])[0][:200]
        raise RefusedError(f"the certificate of the signature is not by a trusted one: {text}") from None
    except ValueError:
        raise RefusedError("the signature carries a certificate that cannot be read") from None


def _check_use(leaf: Any) -> None:
    """Refuse a certificate that is not for signatures.

    Raises:
        RefusedError: Neither digital signature nor code signing is among its uses.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    def extension(kind: Any) -> Any:
        try:
            return leaf.extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return None

    usage, extended = extension(x509.KeyUsage), extension(x509.ExtendedKeyUsage)
    constraints = extension(x509.BasicConstraints)
    signs = usage is not None and usage.digital_signature
    code = extended is not None and ExtendedKeyUsageOID.CODE_SIGNING in extended
    forbidden = (usage is not None and not signs) or (extended is not None and not code)
    if forbidden or not (signs or code) or (constraints is not None and constraints.ca):
        raise RefusedError("the certificate of the signature is not one for signing code")


def _authorities() -> Any:
    """Return what a certificate between the signer and the root must be: a certificate authority."""
    from cryptography import x509
    from cryptography.x509.verification import Criticality, ExtensionPolicy

    def may_issue(policy: Any, certificate: Any, usage: Any) -> None:
        if usage is not None and not usage.key_cert_sign:
            raise ValueError("a certificate of the chain may not issue others")

    def is_authority(policy: Any, certificate: Any, constraints: Any) -> None:
        if not constraints.ca:
            raise ValueError("a certificate of the chain is not an authority's")

    policy = ExtensionPolicy.permit_all()
    policy = policy.require_present(x509.BasicConstraints, Criticality.AGNOSTIC, is_authority)
    return policy.may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, may_issue)
