"""``platodef audit-many``."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from platodef_cli import environment
from platodef_cli.cli import options
from platodef_cli.cli.outputs import check_output_folder
from platodef_cli.cli.session import Session
from platodef_cli.cli.sharded import Address, ChosenExecutor, Executor, chosen
from platodef_cli.cli.tables import aligned
from platodef_cli.errors import EXIT_FAIL, EXIT_PASS, UsageError
from platodef_cli.report import REPORTS

if TYPE_CHECKING:
    from platodef_cli.jobs.manifest import Suspect
    from platodef_cli.jobs.many import Runner
    from platodef_cli.jobs.process import Ended

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")


def parse_shard(text: str) -> tuple[int, int]:
    """Return number and count of ``2/8``.

    Raises:
        UsageError: It is no shard.
    """
    match = _SHARD.fullmatch(text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"the shard {text!r} is none; give NUMBER/COUNT, from 1/COUNT to COUNT/COUNT")
    return number, count


def audit_many(
    session: Session,
    manifest: Annotated[
        Path, typer.Argument(metavar="MANIFEST.toml", help="What is common, and the list of suspects.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for the reports; an earlier run goes on there."
        ),
    ],
    report: Annotated[
        list[str] | None,
        typer.Option(
            "--report",
            metavar="FORMAT",
            help=f"Report format beside json ({', '.join(REPORTS.names())}); repeat it.",
            rich_help_panel=options.RESULT,
        ),
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            metavar="NUMBER/COUNT",
            help="Only this part of the list: 1/8 to 8/8.",
            rich_help_panel=options.RUN,
        ),
    ] = "1/1",
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            max=256,
            help="Audits at once; cores are shared.",
            rich_help_panel=options.RUN,
        ),
    ] = 1,
    executor: ChosenExecutor = Executor.local,
    address: Address = None,
    cache_dir: options.CacheDir = None,
    offline: options.Offline = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List what would be audited, and end.", rich_help_panel=options.RUN),
    ] = False,
    exit_zero: options.ExitZero = False,
) -> None:
    """Audit a list of encoders against common references and images.

    Each audit is a process of its own, so that a suspect that is refused or fails stops no other; what they
    have in common is computed once and cached. An audit that has ended with an answer is not repeated by the
    same command, unless the suspect, the images, the references or the policy changed. The exit code is the
    worst of all: 5, 3, 2, 4, 1, 0.
    """
    number, count = parse_shard(shard)
    check_output_folder(output)
    for form in report or ():
        REPORTS.check(form)
    chosen(executor, address, None, "cpu")
    from platodef_cli.jobs.manifest import read_manifest

    listed = read_manifest(manifest)
    suspects = listed.shard(number, count)
    extra: dict[str, Any] = {"offline": True} if options.offline(offline) else {}
    if extra:
        environment.go_offline()
    if cache_dir is not None:
        extra["cache_dir"] = str(cache_dir)
    if dry_run:
        sys.stdout.write(aligned(("name", "model"), [(each.name, each.model) for each in suspects]))
        session.finish(
            f"{len(suspects)} of {len(listed.suspects)} suspects are in shard {shard}; nothing was audited"
        )
        return
    if not suspects:
        session.finish(f"shard {shard} of {len(listed.suspects)} suspects is empty; nothing to do")
        return
    from platodef_cli.jobs.audits import Place
    from platodef_cli.jobs.many import check, run_all

    check(listed)
    runner = _runner(executor, address, jobs)
    ended = 0

    def tell(suspect: "Suspect", result: "Ended", before: bool) -> None:
        nonlocal ended
        ended += 1
        when = "finished before" if before else f"{result.seconds:.0f} s"
        session.info(f"[{ended}/{len(suspects)}] {suspect.name} ({when}): {result.summary}")

    codes = run_all(
        listed,
        suspects,
        Place(output, tuple(report or ())),
        runner,
        extra=extra,
        tell=tell,
        warn=session.warn,
    )
    _conclude(session, output, codes, exit_zero=exit_zero)


def _runner(executor: Executor, address: str | None, jobs: int) -> "Runner":
    if executor is Executor.ray:
        from platodef_cli.jobs.ray_audits import RayRunner

        return RayRunner(address, jobs)
    from platodef_cli.jobs.many import LocalRunner

    return LocalRunner(jobs)


def _conclude(session: Session, folder: Path, codes: dict[str, int], *, exit_zero: bool) -> None:
    """Show the table of these suspects, and end with the worst code."""
    from platodef_cli.report.summary import render
    from platodef_cli.report.summary.rows import read_rows, worst_code
    from platodef_cli.report.summary.table import counted

    rows = read_rows(folder, codes) if any((folder / f"{name}.run.json").exists() for name in codes) else []
    if rows and not session.quiet:
        sys.stderr.write(render(rows, "terminal", session.render_options()))
        sys.stderr.flush()
    code = worst_code(list(codes.values()))
    forgiven = exit_zero and code == EXIT_FAIL
    text = counted(rows) if rows else f"{len(codes)} suspects, none was audited"
    session.finish(
        f"{text}; reports in {folder}" + (" (exit code 0 because of --exit-zero)" if forgiven else ""),
        code=EXIT_PASS if forgiven else code,
    )
