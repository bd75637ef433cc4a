"""Report formats: one file per format, one row per file in the table."""

from typing import TYPE_CHECKING

from platodef_cli.errors import IncompleteError
from platodef_cli.plugins import blaming
from platodef_cli.registry import Registry

if TYPE_CHECKING:
    from platodef_cli.records import AuditReport
    from platodef_cli.report.interface import RenderOptions

REPORTS = Registry(
    "report format",
    {
        "terminal": "platodef_cli.report.terminal:render",
        "json": "platodef_cli.report.json:render",
        "markdown": "platodef_cli.report.markdown:render",
        "sarif": "platodef_cli.report.sarif:render",
        "junit": "platodef_cli.report.junit:render",
        "html": "platodef_cli.report.html:render",
        "cyclonedx": "platodef_cli.report.cyclonedx:render",
    },
    group="platodef.report_formats",
    requires=("(report, options)",),
)


def render(report: "AuditReport", form: str, options: "RenderOptions") -> str:
    """Return a report in a format of the table.

    Raises:
        UnknownNameError: There is no such format; the message lists the choices.
        UsageError: It is a plug-in's that cannot be loaded.
        IncompleteError: It is a plug-in's that fails, or gives something else than text.
    """
    draw, plugin = REPORTS.load(form), REPORTS.plugin(form)
    with blaming(plugin):
        text: str = draw(report, options)
        if plugin is not None:
            if not isinstance(text, str):
                raise IncompleteError(f"{plugin} gave {type(text).__name__} for a report, not a text")
            text.encode()
    return text
