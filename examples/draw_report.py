"""Draws a JSON report: python examples/draw_report.py REPORT.json OUT.

OUT ends in .svg (the terminal), .html (the page) or .png (the top of the page, photographed by Chromium:
needs the package playwright and a Chromium or Chrome on the PATH).
"""

import argparse
import io
import re
import shutil
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
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser_path = next(filter(None, map(shutil.which, names)), None)
    if browser_path is None:
        raise SystemExit(f"no browser on the PATH; install one of: {', '.join(names)}")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page_path = Path(folder) / "report.html"
        draw_page(report, page_path)
        # root cannot use Chromium's own sandbox; the page is ours and holds no scripts
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": PAGE[0], "height": PAGE[1]}, color_scheme="light")
        page.goto(page_path.as_uri())
        page.screenshot(path=str(output))
        browser.close()


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
