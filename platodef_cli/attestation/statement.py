"""A report as an in-toto Statement v1 about the model's files, and the checks of one against report and disk.

The statement is unsigned and its bytes depend on the report only. ``cosign attest-blob``, ``in-toto`` or any
other signer of DSSE envelopes can sign it; both the plain statement and the envelope (also inside a Sigstore
bundle) are read here. The contents are checked always; the signature only where a public key is given
(:mod:`platodef_cli.attestation.dsse`): identities and transparency logs are the signer's tool's matter.

Sources: https://in-toto.io/Statement/v1 and the specification of DSSE 1.0.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from securesystemslib.dsse import Envelope

from platodef_cli.attestation.dsse import parse_envelope
from platodef_cli.disk import open_regular, resolve_inside
from platodef_cli.errors import RefusedError, UsageError
from platodef_cli.records import SCHEMA_VERSION, AuditReport
from platodef_cli.report.escaping import plain
from platodef_cli.report.json import encodable
from platodef_cli.version import HOME, PLACEHOLDER

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_MAJOR = SCHEMA_VERSION.partition(".")[0]
PREDICATE_TYPE = f"{HOME}/schemas/audit-report-v{_MAJOR}.json"
"""Address of the JSON Schema of the predicate, which lies in ``examples/schemas`` of the repository."""
PREDICATE_TYPES: Mapping[str, str] = {
    "urn:platodef:audit-report:v1": "1",
    **{
        f"{home}/schemas/audit-report-v{major}.json": str(major)
        for home in (PLACEHOLDER, HOME)
        for major in range(1, int(_MAJOR) + 1)
    },
}
"""Type of a predicate that is read -> major version of its report; what was signed once stays readable."""
FOLDER = "."
"""Name of the subject that is the whole folder: its digest is the root digest of OpenSSF Model Signing."""
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_BYTES = 96 * 2**20
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Statement:
    """What an attestation says.

    Attributes:
        subjects: File name inside the model folder -> SHA-256 (hex).
        report: The report that it carries.
        root: Root digest (OpenSSF Model Signing) of the whole folder, where the statement names it.
        envelope: The envelope that it came in, or None for a plain statement.
    """

    subjects: dict[str, str]
    report: AuditReport
    envelope: Envelope | None = None
    root: str | None = None


@dataclass(frozen=True)
class Differences:
    """How the files on disk differ from those that were audited; names, sorted.

    Attributes:
        missing: Audited files that are gone.
        changed: Audited files with other bytes.
        extra: Entries that were not there when the model was audited.
        unexamined: Entries that the audit named as not examined: their bytes are not attested.
    """

    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    unexamined: tuple[str, ...] = ()


def write_statement(report: AuditReport, root: str | None = None) -> bytes:
    """Return the statement about the files of a report's target, as JSON; equal reports give equal bytes.

    Args:
        report: The report.
        root: Root digest of the whole folder, a further subject.

    Raises:
        UsageError: The report knows no files, because the audit ended before the model was loaded.
    """
    return statement_bytes(report, PREDICATE_TYPE, encodable(report.model_dump(mode="json")), root)


def statement_bytes(
    report: AuditReport, predicate_type: str, predicate: dict[str, Any], root: str | None = None
) -> bytes:
    """Return an in-toto statement about the files of a report's target with a predicate.

    Args:
        report: Names the files.
        predicate_type: Address of the kind of predicate.
        predicate: The predicate.
        root: Root digest of the whole folder; that of the publisher's signature where it was trusted.

    Raises:
        UsageError: The report knows no files.
    """
    if report.target is None or not report.target.files:
        raise UsageError("the report names no files of the model, so there is nothing to attest")
    files = sorted(report.target.files, key=lambda file: file.path)
    subjects: list[dict[str, Any]] = [
        {"name": encodable(file.path), "digest": {"sha256": file.sha256}} for file in files
    ]
    signature = None if report.context is None else report.context.signature
    if root is None and signature is not None and signature.status == "trusted":
        root = signature.root
    if root is not None:
        subjects.append({"name": FOLDER, "digest": {"sha256": root}})
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    text = json.dumps(statement, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.encode("ascii") + b"\n"


def read_statement(data: bytes) -> Statement:
    """Parse a statement, a DSSE envelope around one, or a Sigstore bundle; no signature is verified.

    Raises:
        UsageError: It is none of them, or a statement about something else than a platodef report.
    """
    if len(data) > MAX_BYTES:
        raise UsageError(f"the attestation is larger than any ({MAX_BYTES >> 20} MiB)")
    value = parse_object(data)
    inner = value.get("dsseEnvelope", value)
    envelope = None
    if isinstance(inner, dict) and "payload" in inner:
        envelope = parse_envelope(inner)
        if envelope.payload_type != PAYLOAD_TYPE:
            raise UsageError(f"the envelope holds {plain(envelope.payload_type, 80)!r}, not {PAYLOAD_TYPE}")
        value = parse_object(envelope.payload)
    for key, expected, known in (
        ("_type", STATEMENT_TYPE, {STATEMENT_TYPE}),
        ("predicateType", PREDICATE_TYPE, PREDICATE_TYPES.keys()),
    ):
        if str(value.get(key)) not in known:
            text = plain(str(value.get(key)), 80)
            raise UsageError(f"the attestation has the {key} {text!r}, not {expected!r}")
    try:
        # through JSON, as a report file is read
        report = AuditReport.model_validate_json(json.dumps(value.get("predicate")))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "predicate"
        raise UsageError(f"the attestation holds no platodef report: {where}: {first['msg']}") from None
    subjects = _subjects(value.get("subject"))
    root = subjects.pop(FOLDER, None)
    if not subjects:
        raise UsageError("the attestation has no subjects that are files")
    return Statement(subjects, report, envelope, root)


def parse_object(data: bytes) -> dict[str, Any]:
    """Return a JSON object; a key that stands twice is an error, since readers differ about it.

    Raises:
        UsageError: The data are no JSON object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("a key stands twice")
        return members

    try:
        value = json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the attestation is not JSON: {plain(str(error), 100)}") from None
    if not isinstance(value, dict):
        raise UsageError("the attestation is not a JSON object")
    return value


def _subjects(value: Any) -> dict[str, str]:
    """Return file -> SHA-256, of a well-formed list of subjects."""
    subjects: dict[str, str] = {}
    for entry in value if isinstance(value, list) else []:
        name = entry.get("name") if isinstance(entry, dict) else None
        digests = entry.get("digest") if isinstance(entry, dict) else None
        digest = digests.get("sha256") if isinstance(digests, dict) else None
        if not isinstance(name, str) or not isinstance(digest, str) or name in subjects:
            raise UsageError("the attestation has a subject without name or sha256, or one that stands twice")
        if len(digest) != 64 or not set(digest) <= _HEX:
            raise UsageError(f"the attestation has a sha256 of {plain(name, 80)!r} that is none")
        subjects[name] = digest
    if not subjects:
        raise UsageError("the attestation has no subjects")
    return subjects


def check_report(statement: Statement, report: AuditReport) -> None:
    """Check that a statement is about this very report and the files that it names.

    Raises:
        RefusedError: It carries another report, or its subjects are not the report's files.
    """
    if statement.report != report:
        raise RefusedError(
            f"the attestation is about another report (sha256 {digest(statement.report)[:12]}, this one has "
            f"{digest(report)[:12]}); attest this report, or give the one that was attested"
        )
    files = {} if report.target is None else {file.path: file.sha256 for file in report.target.files}
    if statement.subjects != files:
        raise RefusedError("the subjects of the attestation are not the files that its report names")


def digest(report: AuditReport) -> str:
    """Return the SHA-256 of a report, whatever the layout of its file was."""
    text = json.dumps(
        encodable(report.model_dump(mode="json")), sort_keys=True, ensure_ascii=True, allow_nan=False
    )
    return sha256(text.encode("ascii")).hexdigest()


def compare_files(statement: Statement, directory: Path) -> Differences:
    """Compare the subjects with the files of a model folder.

    Raises:
        UsageError: There is no such folder.
        RefusedError: A file cannot be read, or is a link that leads out of the folder.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such model folder; give the folder that the attestation is about")
    present = {entry.name for entry in directory.iterdir()}
    # an audit that followed links is about the files that they lead to
    follow = statement.report.configuration.get("follow_links") is True
    missing, changed = [], []
    for name, expected in statement.subjects.items():
        path = resolve_inside(directory, name, follow_links=follow)
        if not path.exists():
            missing.append(name)
        elif _sha256(path) != expected:
            changed.append(name)
    others = present - set(statement.subjects)
    named = {name for name in others if any(e.startswith(f"{name}: ") for e in statement.report.not_examined)}
    return Differences(*(tuple(sorted(names)) for names in (missing, changed, others - named, named)))


def check_files(statement: Statement, directory: Path) -> Differences:
    """Compare as :func:`compare_files` does, and refuse any difference.

    Returns:
        Differences with ``unexamined`` entries at most.

    Raises:
        RefusedError: Files are missing, changed or new; the message names them.
    """
    differences = compare_files(statement, directory)
    kinds = {"missing": differences.missing, "changed": differences.changed, "new": differences.extra}
    text = [
        f"{kind}: {', '.join(plain(name, 100) for name in names[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in kinds.items()
        if names
    ]
    if text:
        raise RefusedError(
            f"the files in {directory} are not those that were audited ({'; '.join(text)}); audit them again"
        )
    return differences


def _sha256(path: Path) -> str:
    total = sha256()
    with open_regular(path) as (descriptor, _), open(descriptor, "rb", closefd=False) as stream:
        while chunk := stream.read(2**22):
            total.update(chunk)
    return total.hexdigest()
