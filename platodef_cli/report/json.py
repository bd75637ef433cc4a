"""The JSON report, version 1: the record itself, byte-stable for equal reports."""

import json

from platodef_cli.records import AuditReport
from platodef_cli.report.interface import RenderOptions


def dumps(value: object) -> str:
    r"""Return JSON text, ending in a newline.

    ASCII only, so that no text from a model can send control or direction characters to a terminal
    (``json`` escapes them as ``\uXXXX``); keys keep the order of the records.

    Raises:
        ValueError: A number is NaN or infinite, which JSON cannot say.
    """
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def render(report: AuditReport, options: RenderOptions) -> str:
    """Return report version 1; ``AuditReport.model_validate_json`` reads it back without loss."""
    return dumps(report.model_dump(mode="json"))
