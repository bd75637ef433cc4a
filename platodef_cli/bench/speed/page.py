"""The page of a benchmark of speed."""

import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from platodef_cli.bench.speed import CONTESTS
from platodef_cli.bench.speed.contest import FEW, SpeedResult, SpeedRow, run
from platodef_cli.errors import UsageError
from platodef_cli.progress import SILENT, Progress
from platodef_cli.version import __version__

_LIBRARIES = ("torch", "timm", "scikit-learn", "numpy", "pillow")


def measure(
    size: str,
    names: tuple[str, ...],
    repeats: int,
    progress: Progress = SILENT,
    *,
    finished: SpeedResult | None = None,
    keep: Callable[[SpeedResult], None] = lambda result: None,
) -> SpeedResult:
    """Run contests one after the other.

    Args:
        size: One of :data:`platodef_cli.bench.speed.SIZES`.
        names: Rows of :data:`platodef_cli.bench.speed.CONTESTS`.
        repeats: Measured runs of each side.
        progress: Receives the step.
        finished: What an earlier call measured; its rows are kept, and not measured again.
        keep: Is given the result after every contest.

    Raises:
        UsageError: ``finished`` was measured at another size, by another version or on another machine.
    """
    result = SpeedResult(
        tool_version=__version__,
        size=size,
        machine=machine(),
        libraries={name: version(name) for name in _LIBRARIES},
        rows=(),
    )
    if finished is not None:
        _check_same(finished, result)
        result = finished
    with progress.step("measuring", len(names)) as task:
        for name in names:
            if all(row.name != name for row in result.rows):
                row = run(name, CONTESTS.load(name)(size), repeats)
                rows = sorted((*result.rows, row), key=lambda row: CONTESTS.names().index(row.name))
                result = result.model_copy(update={"rows": tuple(rows)})
                keep(result)
            task.advance(note=name)
    return result


def _check_same(finished: SpeedResult, now: SpeedResult) -> None:
    for name in ("size", "tool_version", "machine", "libraries"):
        before, here = getattr(finished, name), getattr(now, name)
        if before != here:
            raise UsageError(
                f"the finished contests have another {name.replace('_', ' ')} ({before}, now {here}); "
                "leave --resume out to measure them again"
            )
    unknown = [row.name for row in finished.rows if row.name not in CONTESTS.names()]
    if unknown:
        raise UsageError(
            f"the finished contests hold {unknown[0]!r}, which is none of {', '.join(CONTESTS.names())}; "
            "leave --resume out to measure them again"
        )


def read_result(path: Path) -> SpeedResult:
    """Read what ``--json`` wrote.

    Raises:
        UsageError: It is no such file.
    """
    try:
        return SpeedResult.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror})") from None
    except ValidationError:
        raise UsageError(f"{path} was not written by bench speed --json; name another file") from None


def machine() -> str:
    """Return the processor and what it has for bfloat16."""
    model = platform.processor() or platform.machine()
    flags: set[str] = set()
    with suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
            elif name.strip() == "flags":
                flags = set(value.split())
    built_for = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return model + (f" ({', '.join(built_for)})" if built_for else "")


def draw(result: SpeedResult, others: Sequence[SpeedResult] = ()) -> str:
    """Return the page as Markdown.

    Args:
        result: The first table.
        others: Of other sizes, or from another machine; each has a table of its own.
    """
    lines = ["# Speed, side by side", "", *_table(result)]
    lines += [
        "Both sides run in turn in one process; times are processor seconds, medians; a ratio is the",
        "median over neighbouring runs, with the smallest and the largest. Where a peer takes more than a",
        f"minute, runs are {FEW} at most and the first one counts, else it only warms up. Memory is what the",
        "first run of each side adds at its peak. The goals are those of `--size real`; smaller sizes leave",
        "fixed costs a larger share.",
        "",
    ]
    for other in others:
        lines += [f"## The size `{other.size}`", "", *_table(other)]
    return "\n".join(lines)


def _table(result: SpeedResult) -> list[str]:
    libraries = ", ".join(f"{name} {number}" for name, number in result.libraries.items())
    repeats = max((row.repeats for row in result.rows), default=0)
    missed = [row for row in result.rows if not row.met]
    there = [row.name for row in result.rows]
    absent = [name for name in CONTESTS.names() if name not in there]
    lines = [
        f"platodef {result.tool_version} on one thread of {result.machine},",
        f"with {libraries}; made by",
        f"`platodef bench speed --size {result.size} --repeats {repeats} -o examples/SPEED.md`.",
        "",
        "| | work | peer | ratio | goal | runs | seconds | peer | MB | peer | quality |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_row(row) for row in result.rows),
        "",
    ]
    if absent:
        lines += [f"Not measured in this run: {', '.join(absent)}.", ""]
    if missed:
        lines += [
            "Goals that are missed, and where our time goes (operators of torch; P7: its encoders):",
            "",
        ]
        lines += [_missed(row) for row in missed]
        lines.append("")
    return lines


def _missed(row: SpeedRow) -> str:
    why = f". {row.note}" if row.note else ""
    return f"- {row.name}, {row.ratio:.2g} of {row.goal:.2g}: {row.profile}{why}"


def _row(row: SpeedRow) -> str:
    mark = "" if row.met else " (missed)"
    ends = f"({row.lowest:.2f} to {row.highest:.2f})"
    return (
        f"| {row.name} | {row.work} | {row.peer} | **{row.ratio:.2f}** {ends} "
        f"| {row.goal:.2g}{mark} | {row.repeats} | {row.seconds:.3g} | {row.peer_seconds:.3g} "
        f"| {row.memory_mb:.0f} | {row.peer_memory_mb:.0f} | {row.quality} |"
    )
