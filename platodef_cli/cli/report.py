"""``platodef report``, and the writing of reports that ``platodef audit`` shares."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import attestation, options
from platodef_cli.cli.exits import one_line
from platodef_cli.cli.outputs import Output, parse_outputs, to_stdout, write_text
from platodef_cli.cli.session import Session
from platodef_cli.disk import real_path
from platodef_cli.errors import EXIT_FAIL, EXIT_PASS, IncompleteError, PlatodefError
from platodef_cli.report import REPORTS, render
from platodef_cli.report.reading import read_report

if TYPE_CHECKING:
    from platodef_cli.audit.partial_report import PartialReport
    from platodef_cli.records import AuditReport

_REASONS = {
    "RefusedError": "refused",
    "SignatureError": "signature",
    "HubError": "hub",
    "IncompleteError": "incomplete",
    "InconclusiveError": "too-little-evidence",
    "MemoryError": "memory",
}
"""Error -> stable name of the reason in the report of an audit that it ended; anything else is a crash."""


def write_report(session: Session, report: "AuditReport", outputs: Sequence[Output]) -> None:
    """Write a report in every format that was asked for: built-in formats first, of each the files first.

    Raises:
        IncompleteError: The format of a plug-in failed; everything else has been written.
    """
    failures = []
    added = REPORTS.plugins()
    for output in sorted(outputs, key=lambda output: (output.format in added, output.path is None)):
        if output.format == "terminal" and output.path is None:
            if not session.quiet:
                sys.stderr.write(render(report, output.format, session.render_options()))
                sys.stderr.flush()
            continue
        try:
            text = render(report, output.format, session.render_options(width=80, color=False))
        except PlatodefError as error:
            if output.format not in added:
                raise
            failures.append(str(error))
            continue
        if output.path is not None:
            path = real_path(output.path)
            previous = session.set_aside.get(path)
            write_text(path, text, like=previous)
            if previous is not None:
                previous.unlink(missing_ok=True)
                del session.set_aside[path]
        else:
            to_stdout(text)
    if failures:
        raise IncompleteError("; ".join(dict.fromkeys(failures)))


def reports_of_errors(
    session: Session, model: str, outputs: Sequence[Output]
) -> Callable[[], "PartialReport"]:
    """Let an error of this run leave its verdict (error, inconclusive, refused) in every file asked for.

    Usage errors and interruptions are no verdicts and write nothing; a terminal report is not drawn, since
    the last line says it all.

    Args:
        session: The run.
        model: What is audited.
        outputs: Where reports go.

    Returns:
        Gives the partial report, for the audit to fill in.
    """
    partials: list[PartialReport] = []

    def partial() -> "PartialReport":
        from platodef_cli.audit.partial_report import PartialReport

        if not partials:
            partials.append(PartialReport(model))
        return partials[0]

    def write(code: int, error: BaseException, message: str, line: str) -> None:
        from platodef_cli.audit.partial_report import ENDINGS

        wanted = [output for output in outputs if output.path is not None or output.format != "terminal"]
        if code in ENDINGS and wanted:
            reason = _REASONS.get(type(error).__name__, "crash")
            write_report(session, partial().unfinished(code, reason, one_line(message), line), wanted)

    session.on_error = write
    return partial


def explain_run(session: Session, report: "AuditReport") -> None:
    """Say where the time of an audit went, what was used of the machine, and what the cache saved: ``-v``."""
    timing = report.timing
    steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in timing.seconds.items())
    memory = "" if timing.peak_memory_mb is None else f"; peak memory {timing.peak_memory_mb:.0f} MB"
    session.detail(f"steps: {steps}{memory}")
    if timing.processors:
        used = ", ".join(
            f"{name} {spent / max(timing.seconds[name] * timing.processors, 1e-9):.0%}"
            + (f" ({timing.ready[name]:.0%})" if name in timing.ready else "")
            for name, spent in timing.processor_seconds.items()
        )
        session.detail(f"use of {timing.processors} processors (and share ready to run): {used}")
    session.detail(f"cache: {timing.cache_hits} entries used, {timing.cache_misses} computed")


def finish_with(session: Session, report: "AuditReport", *, exit_zero: bool) -> None:
    """End an audit with the verdict of its report.

    Raises:
        typer.Exit: The verdict's exit code is not 0.
    """
    forgiven = exit_zero and report.exit_code == EXIT_FAIL
    session.say(report.summary + (" (exit code 0 because of --exit-zero)" if forgiven else ""), style="bold")
    if report.exit_code != EXIT_PASS and not forgiven:
        raise typer.Exit(report.exit_code)


def report(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="REPORT.json", help="A JSON report of `platodef audit`.")],
    output: options.Reports = None,
    anchor: options.Anchor = None,
    attest: attestation.Attest = None,
    model_folder: attestation.AttestedFolder = None,
) -> None:
    """Show a JSON report again, in any format, without computing anything.

    Ends with 0 when the report could be shown, whatever its verdict was.
    """
    outputs = parse_outputs(output or (), REPORTS, default="terminal")
    wanted = attestation.parse_attest(attest or (), path, model_folder)
    session.anchor = anchor
    loaded = read_report(path)
    attestation.write_all(session, loaded, wanted, model_folder)
    write_report(session, loaded, outputs)
    session.finish(f"the verdict of this report: {loaded.summary}")
