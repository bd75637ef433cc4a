"""The page of a benchmark of speed."""

import platform
from contextlib import suppress
from importlib.metadata import version

from platodef_cli.bench.speed import CONTESTS
from platodef_cli.bench.speed.contest import SpeedResult, SpeedRow, run
from platodef_cli.progress import SILENT, Progress
from platodef_cli.version import __version__

_LIBRARIES = ("torch", "timm", "scikit-learn", "numpy", "pillow")


def measure(size: str, names: tuple[str, ...], repeats: int, progress: Progress = SILENT) -> SpeedResult:
    """Run contests one after the other.

    Args:
        size: One of :data:`platodef_cli.bench.speed.SIZES`.
        names: Rows of :data:`platodef_cli.bench.speed.CONTESTS`.
        repeats: Measured runs of each side.
        progress: Receives the step.
    """
    rows = []
    with progress.step("measuring", len(names)) as task:
        for name in names:
            rows.append(run(name, CONTESTS.load(name)(size), repeats))
            task.advance(note=name)
    return SpeedResult(
        tool_version=__version__,
        size=size,
        machine=machine(),
        libraries={name: version(name) for name in _LIBRARIES},
        rows=tuple(rows),
    )


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


def draw(result: SpeedResult) -> str:
    """Return the page as Markdown."""
    libraries = ", ".join(f"{name} {number}" for name, number in result.libraries.items())
    repeats = max((row.repeats for row in result.rows), default=0)
    missed = [row for row in result.rows if not row.met]
    lines = [
        "# Speed, side by side",
        "",
        f"platodef {result.tool_version} on one thread of {result.machine},",
        f"with {libraries}; made by",
        f"`platodef bench speed --size {result.size} --repeats {repeats} -o examples/SPEED.md`.",
        "",
        "Both sides run in turn in one process; times are processor seconds, medians; a ratio is the",
        "median over neighbouring runs, with the smallest and the largest. Memory is what the first run of",
        "each side adds at its peak. The goals are those of `--size real`; smaller sizes leave fixed costs a",
        "larger share.",
        "",
        "| | work | peer | ratio | goal | seconds | peer | MB | peer | quality |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(row) for row in result.rows),
        "",
    ]
    if missed:
        lines += [
            "Goals that are missed, and where our time goes (operators of torch; P7: its encoders):",
            "",
        ]
        lines += [f"- {row.name}, {row.ratio:.2g} of {row.goal:.2g}: {row.profile}" for row in missed]
        lines.append("")
    return "\n".join(lines)


def _row(row: SpeedRow) -> str:
    mark = "" if row.met else " (missed)"
    ends = f"({row.lowest:.2f} to {row.highest:.2f})"
    return (
        f"| {row.name} | {row.work} | {row.peer} | **{row.ratio:.2f}** {ends} "
        f"| {row.goal:.2g}{mark} | {row.seconds:.3g} | {row.peer_seconds:.3g} | {row.memory_mb:.0f} "
        f"| {row.peer_memory_mb:.0f} | {row.quality} |"
    )
