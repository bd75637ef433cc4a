"""The report for a terminal: readable at 80 columns, without colour, and in plain ASCII."""

import io

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from platodef_cli.records import AuditReport
from platodef_cli.report.blocks import Block, Bullets, Drawing, Grid, KeyValueTable, Section
from platodef_cli.report.escaping import ascii_only, plain, wrap
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.screen import audited, screen, short_reasons
from platodef_cli.report.view import STYLES, headline, reasons, sections, target_name, verdict_line

_INDENT = 2
_GAP = 2
_NARROWEST = 8
_COLORS = {"pass": "bold green", "fail": "bold red", "warn": "bold yellow", "none": "dim"}


def _banner(report: AuditReport, *, details: bool) -> Panel:
    style = _COLORS[STYLES[report.verdict]]
    lines = [Text(f"{verdict_line(report)}  {headline(report)}", style=style)]
    lines.append(Text() if details else Text(plain(audited(report), 200), style="dim"))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    shown, rest = (reasons(report), "") if details else short_reasons(report)
    for reason in shown:
        text = Text(plain(reason.text))
        text.append(f" [{plain(reason.id, 60)}]", style="dim")
        grid.add_row(Text(reason.mark, style=_COLORS[reason.style]), text)
    if rest:
        grid.add_row(Text(" "), Text(plain(rest), style="dim"))
    title = Text(f" {plain(target_name(report), 50)} ")
    return Panel(Group(*lines, grid), box=box.HEAVY, title=title, title_align="left", padding=(0, 1))


def _text_widths(grid: Grid, width: int) -> dict[int, int]:
    """Share what the numbers leave of ``width`` among the text columns, the narrowest served first."""
    natural = [
        max(len(plain(cell)) for cell in (column.title, *(row[index] for row in grid.rows)))
        for index, column in enumerate(grid.columns)
    ]
    texts = [index for index, column in enumerate(grid.columns) if not column.numeric]
    left = width - _GAP * len(grid.columns) - sum(natural[i] for i in range(len(natural)) if i not in texts)
    widths = {}
    for served, index in enumerate(sorted(texts, key=lambda index: natural[index])):
        widths[index] = max(_NARROWEST, min(natural[index], left // (len(texts) - served)))
        left -= widths[index]
    return widths


def _grid(grid: Grid, width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    if grid.alarms:
        table.add_column("", no_wrap=True)
    for column in grid.columns:
        table.add_column(
            Text(plain(column.title)), justify="right" if column.numeric else "left", no_wrap=column.numeric
        )
    widths = _text_widths(grid, width - (_GAP + 1 if grid.alarms else 0))
    for index, row in enumerate(grid.rows):
        alarm = index in grid.alarms
        mark = [Text("✗" if alarm else " ")] if grid.alarms else []
        cells = [
            Text(wrap(plain(cell), widths[place]) if place in widths else plain(cell))
            for place, cell in enumerate(row)
        ]
        table.add_row(*mark, *cells, style="red" if alarm else None)
    return table


def _key_values(pairs: KeyValueTable) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in pairs.pairs:
        table.add_row(Text(plain(label), style="bold"), Text(plain(text), style="" if label else "dim"))
    return table


def _bullets(bullets: Bullets) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for item in bullets.items:
        table.add_row(Text("·"), Text(plain(item)))
    return table


def _block(block: Block, width: int) -> RenderableType:
    match block:
        case Grid():
            return _grid(block, width)
        case KeyValueTable():
            return _key_values(block)
        case Bullets():
            return _bullets(block)
        case Drawing():
            return Text("\n".join(plain(line) for line in block.lines), no_wrap=True, overflow="crop")


def _section(section: Section, width: int) -> Group:
    parts: list[RenderableType] = [Text(), Text(plain(section.title), style="bold underline")]
    if section.note:
        parts.append(Padding(Text(plain(section.note), style="dim"), (0, 0, 0, _INDENT)))
    for index, block in enumerate(section.blocks):
        parts.append(Padding(_block(block, width), (1 if index else 0, 0, 0, _INDENT)))
    return Group(*parts)


def render(report: AuditReport, options: RenderOptions) -> str:
    """Return the report as terminal text, with ANSI escapes only where ``options.color`` allows them."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=options.width,
        force_terminal=options.color,
        color_system="standard" if options.color else None,
        no_color=not options.color,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    inner = options.width - _INDENT
    console.print(_banner(report, details=options.details))
    if options.details:
        parts = sections(report, width=inner, details=True)
    else:
        parts = [section for section in screen(report, width=inner - _INDENT) if section.blocks]
    for section in parts:
        console.print(_section(section, inner))
    lines = (line.rstrip() for line in stream.getvalue().splitlines())
    text = "\n".join(lines) + "\n"
    return text if options.unicode else ascii_only(text)
