"""Draws a JSON report: python examples/draw_report.py REPORT.json OUT.

OUT ends in .svg (the terminal), .html (the page) or .png (the top of the page, drawn by the Chromium of the
package PySide6).
"""

import argparse
import io
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from platodef_cli.records import AuditReport
from platodef_cli.report import html
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.terminal import render

WIDTH = 80
PAGE = (1120, 1200)  # CSS pixels of the photograph
PAINTING_MS = 2000  # from loaded to painted


def draw_terminal(report: AuditReport, output: Path) -> None:
    """Write the terminal's picture of a report as SVG."""
    drawn = render(report, RenderOptions(width=WIDTH, color=True, unicode=True, details=False))
    lines = list(Text.from_ansi(drawn).split("\n", allow_blank=True))
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text(f"$ platodef audit {target_uri(report)}", style="bold"))
    for line in lines:
        console.print(line)
    console.print(Text(report.summary, style="bold red" if report.exit_code else "bold green"))
    console.print(Text("$ echo $?", style="bold"))
    console.print(str(report.exit_code))
    picture = console.export_svg(title="platodef", unique_id="platodef")
    # no web fonts: the picture must not fetch anything
    output.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL), encoding="utf-8")


def draw_page(report: AuditReport, output: Path) -> None:
    """Write the report as an HTML page."""
    output.write_text(html.render(report, RenderOptions()), encoding="utf-8")


def photograph(report: AuditReport, output: Path) -> None:
    """Write the top of the HTML page as PNG."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    # Chromium's own sandbox does not work as root, and there may be no GPU; the page is ours, without scripts
    os.environ.setdefault("QTWEBENGINE_CHROMIUM_FLAGS", "--no-sandbox --disable-gpu")
    from PySide6.QtCore import QTimer, QUrl
    from PySide6.QtWebEngineCore import QWebEngineSettings
    from PySide6.QtWebEngineWidgets import QWebEngineView
    from PySide6.QtWidgets import QApplication

    with tempfile.TemporaryDirectory() as folder:
        page_path = Path(folder) / "report.html"
        draw_page(report, page_path)
        application, view = QApplication([]), QWebEngineView()
        view.settings().setAttribute(QWebEngineSettings.WebAttribute.ShowScrollBars, False)
        view.resize(*PAGE)
        view.show()

        def drawn(loaded: bool) -> None:
            if not loaded or not view.grab().save(str(output)):
                raise SystemExit(f"cannot draw {output}")
            application.quit()

        view.loadFinished.connect(lambda loaded: QTimer.singleShot(PAINTING_MS, lambda: drawn(loaded)))
        view.load(QUrl.fromLocalFile(str(page_path)))
        application.exec()


def target_uri(report: AuditReport) -> str:
    """Return what was asked for."""
    return str(report.configuration.get("model", "MODEL")) if report.target is None else report.target.uri


WRITERS: dict[str, Callable[[AuditReport, Path], None]] = {
    ".svg": draw_terminal,
    ".html": draw_page,
    ".png": photograph,
}


def main() -> None:
    """Read the report, draw it, write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    writer = WRITERS.get(arguments.output.suffix)
    if writer is None:
        parser.error(f"{arguments.output}: end the name in one of {', '.join(WRITERS)}")
    report = AuditReport.model_validate_json(arguments.report.read_text(encoding="utf-8"))
    writer(report, arguments.output)


if __name__ == "__main__":
    main()
