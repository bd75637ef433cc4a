"""One table of many reports, ordered by suspicion: one file per format, one row per format in the table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from platodef_cli.registry import Registry

if TYPE_CHECKING:
    from platodef_cli.report.interface import RenderOptions
    from platodef_cli.report.summary.rows import Row

SUMMARIES = Registry(
    "summary format",
    {
        "terminal": "platodef_cli.report.summary.table:terminal",
        "html": "platodef_cli.report.summary.table:html",
        "csv": "platodef_cli.report.summary.data:csv_text",
        "json": "platodef_cli.report.summary.data:json_text",
        "sarif": "platodef_cli.report.summary.sarif:render",
    },
)


def render(rows: "Sequence[Row]", form: str, options: "RenderOptions") -> str:
    """Return the table in a format.

    Raises:
        UnknownNameError: There is no such format; the message lists the choices.
    """
    text: str = SUMMARIES.load(form)(rows, options)
    return text
