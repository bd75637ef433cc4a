"""``platodef schema``."""

from platodef_cli.cli.outputs import to_stdout
from platodef_cli.cli.session import Session


def schema(session: Session) -> None:
    """Print the JSON Schema of the report (version 2)."""
    from platodef_cli.records import AuditReport
    from platodef_cli.report.json import dumps

    to_stdout(dumps(AuditReport.model_json_schema()))
