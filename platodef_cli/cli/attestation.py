"""What ``platodef gate`` asks of an attestation: the same report, the same files, and the right signer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.exits import closing_line, one_line
from platodef_cli.cli.outputs import check_output
from platodef_cli.cli.session import Session
from platodef_cli.disk import real_path, replacing
from platodef_cli.errors import EXIT_REFUSED, RefusedError, UsageError

if TYPE_CHECKING:
    from platodef_cli.attestation.predicates import Kind
    from platodef_cli.records import AuditReport

Attestation = Annotated[
    Path | None,
    typer.Option(
        "--require-attestation",
        metavar="FILE",
        help="Refuse (5) unless this in-toto statement or DSSE envelope is about this report and --model.",
        rich_help_panel=options.RESULT,
    ),
]
ModelFolder = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="DIR",
        help="Model folder whose files must be those of --require-attestation.",
        rich_help_panel=options.RESULT,
    ),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--attestation-key",
        metavar="KEY.pem",
        help="Public key (Ed25519 or ECDSA) that must have signed --require-attestation.",
        rich_help_panel=options.RESULT,
    ),
]


Signers = Annotated[
    list[str] | None,
    typer.Option(
        "--attestation-signer",
        metavar="SIGNER",
        help="Who must have signed --require-attestation: key:FILE.pem, certificate:ROOTS.pem or "
        "'sigstore:IDENTITY ISSUER [TRUST.json]'; repeat it, one is enough.",
        rich_help_panel=options.RESULT,
    ),
]
Attest = Annotated[
    list[str] | None,
    typer.Option(
        "--attest",
        metavar="[KIND=]FILE",
        help="Write an unsigned in-toto statement about the hashes of the model's files; repeat it. "
        "KIND: report (default, all of it), test-result, vsa (SLSA), svr.",
        rich_help_panel=options.RESULT,
    ),
]
AttestedFolder = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="DIR",
        help="Model folder; --attest names its root digest (OpenSSF Model Signing) as well.",
        rich_help_panel=options.RESULT,
    ),
]


def parse_attest(words: Sequence[str], report: Path, model: Path | None) -> "list[tuple[Kind, Path]]":
    """Return what shall be attested where.

    Raises:
        UsageError: A file cannot be written, stands twice, or there is nothing to attest.
    """
    if not words:
        if model is not None:
            raise UsageError("--model needs --attest FILE, the statement that shall name its root digest")
        return []
    from platodef_cli.attestation.predicates import KINDS

    wanted: list[tuple[Kind, Path]] = []
    for word in words:
        kind = next((kind for kind in KINDS if word.startswith(f"{kind}=")), None)
        path = Path(word if kind is None else word.partition("=")[2])
        check_output(path, inputs=[report])
        if real_path(path) in [real_path(other) for _, other in wanted]:
            raise UsageError(f"two attestations would be written to {path}; give each a file of its own")
        wanted.append((kind or "report", path))
    return wanted


def write_all(
    session: Session, report: "AuditReport", wanted: "Sequence[tuple[Kind, Path]]", model: Path | None
) -> None:
    """Write unsigned statements, each whole or not at all.

    Raises:
        UsageError: The report names no files of the model, or the folder cannot be hashed.
        RefusedError: The files in the folder are not those of the report.
    """
    if not wanted:
        return
    from platodef_cli.attestation import oms
    from platodef_cli.attestation import statement as statements
    from platodef_cli.attestation.predicates import write_attestation

    root = None
    if model is not None:
        whole = statements.read_statement(statements.write_statement(report))
        statements.check_files(whole, model)
        root = oms.root_of(model)
        session.info(f"root digest of {model}: sha256 {root}")
    made = [(path, write_attestation(report, kind, root)) for kind, path in wanted]
    for path, data in made:
        with replacing(path) as temporary:
            temporary.write_bytes(data)


def require(
    session: Session,
    report: "AuditReport",
    attestation: Path | None,
    model: Path | None,
    key: Path | None,
    signers: Sequence[str] = (),
) -> "AuditReport | None":
    """Check an attestation, if one is required.

    Returns:
        None, or the report with the verdict *refused*: the attestation is about another report, the files
        differ from those that were audited, or the signature is not by the key. No waiver and no option
        forgives that.

    Raises:
        UsageError: A file cannot be read, is no attestation or no key, or an option is missing.
    """
    if attestation is None:
        if model is not None or key is not None or signers:
            raise UsageError(
                "--model, --attestation-key and --attestation-signer need --require-attestation FILE"
            )
        return None
    if model is None:
        raise UsageError("--require-attestation needs --model DIR, the files that it is about")
    try:
        _check(session, report, attestation, model, [*([f"key:{key}"] if key else []), *signers])
    except RefusedError as error:
        from platodef_cli.records import Reason

        message = one_line(str(error))
        reason = Reason(id="attestation", outcome="refused", message=message)
        return report.model_copy(
            update={
                "verdict": "refused",
                "exit_code": EXIT_REFUSED,
                "summary": closing_line(EXIT_REFUSED, message),
                "reasons": (reason, *report.reasons),
            }
        )
    return None


def _check(session: Session, report: "AuditReport", path: Path, model: Path, signers: Sequence[str]) -> None:
    from platodef_cli.attestation import oms
    from platodef_cli.attestation import statement as statements
    from platodef_cli.attestation.signers import parse_signer, read_small, verify_any

    trusted = [parse_signer(text) for text in signers]
    raw = read_small(path, statements.MAX_BYTES)
    statement = statements.read_statement(raw)
    if not trusted:
        session.info(
            "the signature of the attestation is not verified; --attestation-key KEY.pem or "
            "--attestation-signer does it"
        )
    elif statement.envelope is None:
        raise RefusedError(f"{path} is not signed; sign it, or leave out --attestation-key")
    else:
        verify_any(statements.parse_object(raw), statement.envelope, raw, trusted)
    statements.check_report(statement, report)
    differences = statements.check_files(statement, model)
    if statement.root is not None:
        oms.check_root(statement.root, model, differences.unexamined)
    elif differences.unexamined:
        session.info(f"not audited, and so not attested: {', '.join(differences.unexamined)}")
