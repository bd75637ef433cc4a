"""Report formats: one file per format, one row per file in the table."""

from platodef_cli.registry import Registry

REPORTS = Registry(
    "report format",
    {
        "terminal": "platodef_cli.report.terminal:render",
        "json": "platodef_cli.report.json:render",
        "markdown": "platodef_cli.report.markdown:render",
        "sarif": "platodef_cli.report.sarif:render",
        "junit": "platodef_cli.report.junit:render",
        "html": "platodef_cli.report.html:render",
    },
    group="platodef.report_formats",
)
