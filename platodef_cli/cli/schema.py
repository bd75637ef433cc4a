"""``platodef schema``."""

from typing import Annotated

import typer

from platodef_cli.cli.outputs import to_stdout
from platodef_cli.cli.session import Session
from platodef_cli.errors import UsageError


def schema(
    session: Session,
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[TYPE]",
            help="Type of an attestation's predicate, or first part of a report's version. Default: now.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of the report (version 2), or of what an attestation's predicate says it is.

    Nothing is fetched: the schemas of all versions are part of the package.
    """
    from platodef_cli.attestation.statement import PREDICATE_TYPES
    from platodef_cli.records import SCHEMA_VERSION, AuditReport
    from platodef_cli.report.json import dumps
    from platodef_cli.resources import data_dir

    now = SCHEMA_VERSION.partition(".")[0]
    version = PREDICATE_TYPES.get(kind or "", (kind or now).partition(".")[0])
    if version == now:
        to_stdout(dumps(AuditReport.model_json_schema()))
        return
    if version not in PREDICATE_TYPES.values():
        versions = ", ".join(sorted(set(PREDICATE_TYPES.values())))
        raise UsageError(
            f"{kind!r} is no type of a report that is known here; give one of the versions {versions}, "
            f"or one of {', '.join(PREDICATE_TYPES)}"
        )
    to_stdout((data_dir("schemas") / f"audit-report-v{version}.json").read_text(encoding="utf-8"))
