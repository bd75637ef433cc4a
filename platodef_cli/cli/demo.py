"""``platodef demo``: a clean and a backdoored encoder, audited side by side."""

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.outputs import check_output, write_text
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import show_rows
from platodef_cli.errors import IncompleteError, UsageError

if TYPE_CHECKING:
    from platodef_cli.records import AuditReport

EXPECTED = {"clean": "pass", "backdoored": "fail"}
"""Embedded encoder -> what an audit says of it."""


def demo(
    session: Session,
    folder: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Where the two reports go.", rich_help_panel=options.RESULT
        ),
    ] = Path("platodef-demo"),
    seed: options.Seed = 0,
    cache_dir: options.CacheDir = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Show both pages in the browser.", rich_help_panel=options.RESULT)
    ] = False,
) -> None:
    """Audit a clean and a backdoored encoder side by side, in about two minutes, without network.

    Both are small, embedded here and run on drawn shapes. The pages with the pictures are written to DIR.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder with -o DIR")
    if not folder.parent.is_dir():
        raise UsageError(f"the folder {folder.parent} of {folder.name} does not exist; create it first")
    folder.mkdir(exist_ok=True)
    pages = {name: check_output(folder / f"{name}.html") for name in EXPECTED}
    for name in EXPECTED:
        check_output(folder / f"{name}.json")
    from platodef_cli.audit.config import AuditConfig
    from platodef_cli.audit.run import audit
    from platodef_cli.report import render

    reports = {}
    for name in EXPECTED:
        session.say(f"auditing builtin:{name}")
        # the quick battery covers every kind of trigger; two minutes are for both audits
        config = AuditConfig(f"builtin:{name}", battery="quick", seed=seed, cache_dir=cache_dir)
        reports[name] = audit(config, progress=session.progress)
        for form in ("json", "html"):
            text = render(reports[name], form, session.render_options(width=80, color=False))
            write_text(folder / f"{name}.{form}", text)
    show_rows(("", *reports), compare(reports), as_json=False)
    for path in pages.values():
        session.say(f"page with the pictures: {path}")
    if open_:
        for path in pages.values():
            if not webbrowser.open(path.resolve().as_uri()):
                session.warn(f"no browser could be opened; open {path}")
    wrong = [name for name, report in reports.items() if report.verdict != EXPECTED[name]]
    if wrong:
        told = ", ".join(f"{name}: {reports[name].verdict}" for name in wrong)
        raise IncompleteError(f"the demo did not go as it should ({told}); run `platodef doctor`")
    session.finish("the clean encoder passed, the backdoored one failed; the pages show why")


def compare(reports: "dict[str, AuditReport]") -> list[tuple[str, ...]]:
    """Return the audits side by side, one row per fact, its name first."""
    from platodef_cli.report.numbers import number
    from platodef_cli.report.screen import worst_change
    from platodef_cli.report.view import verdict_line

    rows = [("verdict", *(verdict_line(report) for report in reports.values()))]
    worst = [worst_change(report) for report in reports.values()]
    rows.append(("worst change", *("none" if w is None else w.name for w in worst)))
    rows.append(("its collapse", *("\u2013" if w is None else number(w.collapse.value) for w in worst)))
    refs = [number(max(w.control_collapse.values(), default=None)) if w else "\u2013" for w in worst]
    rows.append(("of references", *refs))
    accused = [report.context.accused if report.context else None for report in reports.values()]
    kept = [
        "no accused change" if a is None else ", ".join(number(said.kept.value) for said in a.said)
        for a in accused
    ]
    rows.append(("kept of an image: suspect, references", *kept))
    rows.append(("seconds", *(f"{r.timing.seconds.get('total', 0.0):.0f}" for r in reports.values())))
    return rows
