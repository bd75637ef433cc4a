"""The publisher's signature beside a model: found, checked, and put into words."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from platodef_cli.attestation import oms
from platodef_cli.attestation.dsse import parse_envelope
from platodef_cli.attestation.signers import Signer, kind_of, parse_signer, verify_any
from platodef_cli.attestation.statement import parse_object
from platodef_cli.disk import open_regular, real_path, resolve_inside
from platodef_cli.errors import RefusedError, UsageError
from platodef_cli.records import FileRecord, Finding, SignatureRecord
from platodef_cli.report.escaping import plain


def check_signature(
    directory: Path,
    files: Iterable[FileRecord],
    trusted: Sequence[str],
    *,
    follow_links: bool = False,
    listing: Mapping[str, int] | None = None,
) -> SignatureRecord:
    """Look for ``model.sig`` in a model folder and check it.

    Args:
        directory: The model folder.
        files: The files that a load reads, with their hashes: every one must be signed.
        trusted: Lines of :mod:`platodef_cli.attestation.signers`.
        follow_links: Links may lead out of the folder.
        listing: Files of the whole repository, where it is known.

    Raises:
        UsageError: A signer is malformed, a key cannot be read or lies in the folder, a library is missing.
    """
    signers = [parse_signer(text) for text in trusted]
    for signer in signers:
        if signer.file is not None and real_path(signer.file).is_relative_to(real_path(directory)):
            raise UsageError(f"{signer.file} lies in the model folder; a model cannot vouch for itself")
    if not (directory / oms.SIGNATURE).is_file():
        elsewhere = oms.SIGNATURE in (listing or {})
        note = "the repository has one that was not downloaded; run with the network" if elsewhere else ""
        return SignatureRecord(status="absent", message=note or f"the model has no {oms.SIGNATURE}")
    known = {record.path: record.sha256 for record in files}
    try:
        with open_regular(resolve_inside(directory, oms.SIGNATURE, follow_links=follow_links)) as (
            descriptor,
            size,
        ):
            if size > oms.MAX_BYTES:
                raise RefusedError(f"{oms.SIGNATURE}: has {size} bytes, more than {oms.MAX_BYTES}")
            with open(descriptor, "rb", closefd=False) as stream:
                raw = stream.read(oms.MAX_BYTES)
    except RefusedError as error:
        return SignatureRecord(status="invalid", file=oms.SIGNATURE, message=str(error))
    found = SignatureRecord(status="invalid", file=oms.SIGNATURE, sha256=sha256(raw).hexdigest())
    try:
        value = parse_object(raw)
        inner = value.get("dsseEnvelope")
        if not isinstance(inner, dict):
            raise UsageError("it is no bundle of Sigstore with an envelope")
        envelope = parse_envelope(inner)
        manifest = oms.parse_manifest(envelope.payload_type, envelope.payload)
        kind = kind_of(value)
    except (UsageError, RefusedError) as error:
        text = str(error).replace("the attestation", oms.SIGNATURE)
        return found.model_copy(update={"message": f"{oms.SIGNATURE} cannot be read: {text}"})
    found = found.model_copy(update={"kind": kind, "root": manifest.root})
    try:
        difference = oms.compare(manifest, directory, known, follow_links=follow_links)
    except RefusedError as error:
        return found.model_copy(update={"message": str(error)})
    wrong = _words(difference)
    if wrong:
        return found.model_copy(update={"message": f"the files are not those that were signed ({wrong})"})
    if not signers:
        message = "the files are those that were signed, by whom was not checked; name trusted_signers"
        return found.model_copy(update={"status": "unverified", "message": message})
    try:
        signer = verify_any(value, envelope, raw, signers)
    except RefusedError as error:
        return found.model_copy(update={"status": "untrusted", "message": str(error)})
    message = _trusted(signer, difference)
    return found.model_copy(update={"status": "trusted", "signer": signer.text, "message": message})


def _words(difference: oms.Comparison) -> str:
    kinds = {"changed": difference.changed, "not signed": difference.unsigned}
    return "; ".join(
        f"{kind}: {', '.join(plain(name, 100) for name in names[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in kinds.items()
        if names
    )


def _trusted(signer: Signer, difference: oms.Comparison) -> str:
    absent = len(difference.absent)
    rest = f"; {absent} more signed files are not here and were not needed" if absent else ""
    return f"every file is signed by {signer.text}{rest}"


def refuse_unsigned(record: SignatureRecord, *, required: bool, trusted: Sequence[str]) -> None:
    """Stop before anything is loaded where a signature does not vouch for the model.

    Raises:
        SignatureError: One is required and none is trusted, or there is one by nobody who may have signed
            these files.
    """
    from platodef_cli.errors import SignatureError

    if required and record.status != "trusted":
        raise SignatureError(f"the policy requires a signature by a trusted signer: {record.message}")
    if trusted and record.status == "invalid":
        raise SignatureError(f"the publisher's signature does not fit: {record.message}")


def signature_findings(record: SignatureRecord) -> tuple[Finding, ...]:
    """Return what a reader should know about a signature that decides nothing."""
    if record.status == "invalid":
        return (Finding(id="signature", severity="high", message=record.message),)
    if record.status == "untrusted":
        message = f"signed, but by nobody whom the policy trusts: {record.message}"
        return (Finding(id="signature", severity="medium", message=message),)
    return ()
