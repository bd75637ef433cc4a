"""Draws the terminal report of a JSON report as SVG: python examples/draw_report.py REPORT OUT.svg."""

import argparse
import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

from platodef_cli.records import AuditReport
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.terminal import render

WIDTH = 80


def excerpt(lines: list[Text], headings: tuple[str, ...]) -> list[Text]:
    """Return the verdict on top and the sections with the given headings."""
    starts = [number for number, line in enumerate(lines) if number == 0 or _is_heading(lines, number)]
    kept: list[Text] = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        if start == 0 or lines[start].plain.startswith(headings):
            kept += lines[start:end]
    return kept


def _is_heading(lines: list[Text], number: int) -> bool:
    text = lines[number].plain
    return not lines[number - 1].plain.strip() and bool(text) and text[0].isalpha()


def main() -> None:
    """Read the report, draw it, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    report = AuditReport.model_validate_json(arguments.report.read_text(encoding="utf-8"))
    drawn = render(report, RenderOptions(width=WIDTH, color=True, unicode=True, details=False))
    lines = list(Text.from_ansi(drawn).split("\n", allow_blank=True))
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text(f"$ platodef audit {report.target.uri}", style="bold"))
    for line in excerpt(lines, ("Histogram: energy", "Trigger search", "Purification")):
        console.print(line)
    console.print(Text(report.summary, style="bold red" if report.exit_code else "bold green"))
    console.print(Text("$ echo $?", style="bold"))
    console.print(str(report.exit_code))
    picture = console.export_svg(title="platodef", unique_id="platodef")
    # no web fonts: the picture must not fetch anything
    arguments.output.write_text(
        re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
