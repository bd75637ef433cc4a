"""The report as Markdown, for a pull request, an issue or a step summary."""

import re

from platodef_cli.records import AuditReport
from platodef_cli.report.blocks import Block, Bullets, Drawing, Grid, KeyValueTable, Section
from platodef_cli.report.escaping import cut, plain
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.view import MARKS, headline, reasons, sections, target_name, verdict_line

_DRAWING_WIDTH = 78
_MAX_COMMENT = 65_536
"""Characters that GitHub takes in a comment."""
_SPECIAL = re.compile(r"[\\`*_\[\]|~$]")
_LINE_START = re.compile(r"^([-+#=]|\d+[.)](?=\s|$))")
_REFERENCE = re.compile(r"@|(?<!&)#(?=\d)|\bGH-(?=\d)", re.IGNORECASE)
_LINK = re.compile(r":(?=\S)|(?<=www)\.", re.IGNORECASE)
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def escape(text: str) -> str:
    """Return foreign text so that Markdown shows it literally, in one line, with no live link or mention."""
    escaped = "".join(_ENTITIES.get(char, char) for char in plain(text).strip())
    escaped = _SPECIAL.sub(r"\\\g<0>", escaped)
    # Entities keep bare addresses ("https:", "www.") from becoming links.
    escaped = _LINK.sub(lambda match: f"&#{ord(match[0])};", escaped)
    # Mentions and references (@team, #1, GH-1) are found after entities are decoded; an empty comment stops
    # them from notifying anybody and from leaving a trace in another discussion.
    escaped = _REFERENCE.sub(lambda match: f"{match[0]}<!-- -->", escaped)
    # A block marker at the start would open a list or a heading; a backslash before its sign stops that.
    return _LINE_START.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", escaped)


def fenced(lines: tuple[str, ...]) -> str:
    """Return a code block whose fence is longer than any run of backticks inside it."""
    body = "\n".join(plain(line) for line in lines)
    fence = "```"
    while fence in body:
        fence += "`"
    return f"{fence}text\n{body}\n{fence}"


def _grid(grid: Grid) -> str:
    header = "| " + " | ".join(escape(column.title) for column in grid.columns) + " |"
    rule = "|" + "|".join("---:" if column.numeric else ":---" for column in grid.columns) + "|"
    rows = []
    for index, row in enumerate(grid.rows):
        cells = [escape(cell) for cell in row]
        if index in grid.alarms:
            cells[0] = f"{MARKS['fail']} **{cells[0]}**"
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([header, rule, *rows])


def _key_values(table: KeyValueTable) -> str:
    lines: list[str] = []
    for label, text in table.pairs:
        if label:
            lines.append(f"- **{escape(label)}** {escape(text)}")
        else:
            lines[-1] += f"<br>{escape(text)}"
    return "\n".join(lines)


def _block(block: Block) -> str:
    match block:
        case Grid():
            return _grid(block)
        case KeyValueTable():
            return _key_values(block)
        case Bullets():
            return "\n".join(f"- {escape(item)}" for item in block.items)
        case Drawing():
            return fenced(block.lines)


def _section(section: Section) -> str:
    parts = [f"## {escape(section.title)}"]
    if section.note:
        parts.append(escape(section.note))
    parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts)


def render(report: AuditReport, options: RenderOptions) -> str:
    """Return GitHub-flavoured Markdown."""
    name = escape(cut(target_name(report), 200))
    title = f"# {MARKS[report.verdict]} platodef: {verdict_line(report)} – {name}"
    subtitle = f"**{escape(headline(report))}**"
    deciding = [
        f"- {reason.mark} {escape(reason.text)} \\[{escape(cut(reason.id, 100))}\\]"
        for reason in reasons(report)
    ]
    kept = _within(deciding, _MAX_COMMENT // 2, "\n")
    if len(kept) < len(deciding):
        kept.append(f"- {len(deciding) - len(kept)} more reasons are in the JSON report")
    head = "\n\n".join([title, subtitle, "\n".join(kept)])
    body = [_section(section) for section in sections(report, width=_DRAWING_WIDTH, details=options.details)]
    whole = "\n\n".join([head, *body]) + "\n"
    if len(whole) <= _MAX_COMMENT:
        return whole
    kept = _within(body, _MAX_COMMENT - len(head) - 100, "\n\n")
    note = f"_{len(body) - len(kept)} more sections did not fit here; they are in the JSON report._"
    return "\n\n".join([head, *kept, note]) + "\n"


def _within(parts: list[str], limit: int, separator: str) -> list[str]:
    """Return the parts, in order, without those that no longer fit into so many characters."""
    kept: list[str] = []
    for part in parts:
        needed = len(part) + len(separator)
        if needed <= limit:
            kept.append(part)
            limit -= needed
    return kept
