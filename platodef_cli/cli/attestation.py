"""What ``platodef gate`` asks of an attestation: the same report, the same files, and the right signer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.exits import closing_line, one_line
from platodef_cli.cli.session import Session
from platodef_cli.errors import EXIT_REFUSED, RefusedError, UsageError

if TYPE_CHECKING:
    from platodef_cli.records import AuditReport

_MAX_KEY_BYTES = 2**16

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


def _read(path: Path, limit: int) -> bytes:
    try:
        if path.stat().st_size > limit:
            raise UsageError(f"{path} is larger than {limit} bytes; check the path")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def require(
    session: Session,
    report: "AuditReport",
    attestation: Path | None,
    model: Path | None,
    key: Path | None,
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
        if model is not None or key is not None:
            raise UsageError("--model and --attestation-key need --require-attestation FILE")
        return None
    if model is None:
        raise UsageError("--require-attestation needs --model DIR, the files that it is about")
    try:
        _check(session, report, attestation, model, key)
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


def _check(session: Session, report: "AuditReport", path: Path, model: Path, key: Path | None) -> None:
    from platodef_cli.attestation import dsse
    from platodef_cli.attestation import statement as statements

    statement = statements.read_statement(_read(path, statements.MAX_BYTES))
    if key is None:
        session.info("the signature of the attestation is not verified; --attestation-key KEY.pem does it")
    elif statement.envelope is None:
        raise RefusedError(f"{path} is not signed; sign it, or leave out --attestation-key")
    else:
        dsse.verify(statement.envelope, _read(key, _MAX_KEY_BYTES))
    statements.check_report(statement, report)
    differences = statements.check_files(statement, model)
    if differences.unexamined:
        session.info(f"not audited, and so not attested: {', '.join(differences.unexamined)}")
