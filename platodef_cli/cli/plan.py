"""The plan of an audit as people and programs read it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from platodef_cli.audit.duration import in_words
from platodef_cli.cli.outputs import Output, to_stdout, write_text
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import aligned
from platodef_cli.errors import UsageError

if TYPE_CHECKING:
    from platodef_cli.audit.plan.plan import EncoderPlan, Plan

_FORMATS = ("terminal", "json")
_PHASES = {
    "features": "features of clean and changed images",
    "heads": "heads, thresholds, alignment",
    "search": "search of the suspect",
    "controls": "searching planted references",
    "references": "search of the references",
    "measure": "found triggers, last measurements",
    "base": "features of the base",
}
_HEADER = ("encoder", "passes", "cached", "ms", "gradients", "ms", "precision")
_WIDTH, _NAME = 80, 20  # columns of text, and of the name of an encoder


def check_plan_outputs(outputs: Sequence[Output]) -> None:
    """Raise unless a plan can be written in every format.

    Raises:
        UsageError: A format is not for plans.
    """
    for output in outputs:
        if output.format not in _FORMATS:
            raise UsageError(f"-o {output.format}: a plan is written as {' or '.join(_FORMATS)}")


def write_plan(session: Session, plan: "Plan", outputs: Sequence[Output]) -> None:
    """Write a plan in every format that was asked for, and end the command."""
    from platodef_cli.report.json import dumps

    to_screen = [output for output in outputs if output.path is None]
    for output in outputs:
        text = dumps(plan.to_json()) if output.format == "json" else text_of(plan)
        if output.path is not None:
            write_text(Path(output.path), text)
        elif output.format == "terminal" and len(to_screen) > 1:
            session.console.file.write(text)
        else:
            to_stdout(text)
    session.finish(f"the audit takes {_time(plan)}; nothing was computed but speeds")


def tell_plan(session: Session, plan: "Plan", left: Callable[[], float]) -> None:
    """Show a plan on stderr, and the time left from now on."""
    session.progress.left = left
    for line in text_of(plan).splitlines():
        if not session.quiet:
            session.console.print(line, style="dim", soft_wrap=True)


def text_of(plan: "Plan") -> str:
    """Return a plan as text: what, by which encoder, and how long.

    Searches in the cache are those with an ``s``; gradients in brackets wait for the suspect to give cause.
    Two precisions are those of forward passes and of gradients.
    """
    roles = ", ".join(f"{count} {role}" for role, count in plan.images.items())
    images = sum(plan.images.values())
    searches = plan.encoders[0].work.search.searches + plan.encoders[0].work.cached_searches
    lines = [
        f"plan: {images} images ({roles});",
        f"      {plan.changes} changes of {plan.probe_images} images, {searches} searches",
        *aligned(_HEADER, [_row(encoder) for encoder in plan.encoders]).splitlines(),
        *aligned(("phase", "time"), list(_phases(plan))).splitlines(),
    ]
    said = [f"{each.work.name} in {each.precision}: {each.why}" for each in plan.encoders if each.why]
    said += [f"left out: {words}" for words in plan.left_out]
    if plan.options:
        options = " ".join(f"{name} {value}" for name, value in plan.options.items())
        said.append(f"the same without a budget: {options}")
    for words in said:
        lines += wrap(words, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _phases(plan: "Plan") -> Iterator[tuple[str, str]]:
    for phase in plan.phases:
        name = _PHASES[phase.name]
        if phase.certain:
            yield name, in_words(phase.seconds)
        elif phase.seconds:
            yield f"({name}, if needed)", f"at most {in_words(phase.seconds)}"
    yield "in all", _time(plan)
    yield "memory, all processes", f"about {plan.memory_mb / 1024:.1f} GB"


def _time(plan: "Plan") -> str:
    about = f"about {in_words(plan.seconds)}"
    longer = plan.at_most > 1.05 * plan.seconds
    return about + (f", at most {in_words(plan.at_most)}" if longer else "")


def _row(plan: "EncoderPlan") -> tuple[str, ...]:
    work, speed = plan.work, plan.speed
    name = work.name if len(work.name) <= _NAME else f"{work.name[: _NAME - 3]}..."
    cached = f"{work.cached}" + (f" + {work.cached_searches}s" if work.cached_searches else "")
    gradients = work.search.gradients
    precision = plan.precision.partition("-")[0]
    if gradients and plan.gradient_precision != precision:
        precision += f"/{plan.gradient_precision}"
    return (
        name,
        str(work.passes),
        cached,
        _milliseconds(speed.forward),
        f"({gradients})" if work.only_if_needed and gradients else str(gradients),
        _milliseconds(speed.gradient),
        precision,
    )


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.3g}"
