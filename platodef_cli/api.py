"""The Python API: what ``from platodef_cli import ...`` gives."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import cleandoc, signature
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from platodef_cli import environment
from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.option import Option
from platodef_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from platodef_cli.encoders.checks.preflight import Preflight
    from platodef_cli.records import AuditReport
    from platodef_cli.report.interface import RenderOptions

P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True)
class _Call(AuditConfig):
    """The arguments of :func:`audit`: every field of the configuration, and where progress goes."""

    progress: Progress = SILENT


def _called_like(
    arguments: Callable[P, _Call],
) -> "Callable[[Callable[[_Call], AuditReport]], Callable[P, AuditReport]]":
    """Give a function the typed keyword arguments of a dataclass, so that they are stated there only."""

    def decorate(function: "Callable[[_Call], AuditReport]") -> "Callable[P, AuditReport]":
        def call(*values: P.args, **options: P.kwargs) -> "AuditReport":
            return function(arguments(*values, **options))

        call.__name__ = call.__qualname__ = function.__name__
        call.__module__ = function.__module__
        call.__doc__ = cleandoc(function.__doc__ or "").replace("    OPTIONS", _described_options())
        call.__signature__ = signature(arguments).replace(  # type: ignore[attr-defined]
            return_annotation="AuditReport"
        )
        return call

    return decorate


def _described_options() -> str:
    """Return one line per option for a docstring."""
    lines = []
    for entry in fields(AuditConfig):
        if entry.metadata:
            option: Option = entry.metadata["option"]
            text = option.help if isinstance(option.help, str) else "See the help of the command."
            lines.append(f"    {entry.name}: {'If false: ' * option.switches_off}{text}")
    return "\n".join(lines)


@_called_like(_Call)
def audit(call: _Call) -> "AuditReport":  # noqa: D417
    """Audit a vision encoder, as ``platodef audit`` does; nothing is printed.

    Libraries that load models are set to send no telemetry and to convert no pickles, through environment
    variables of this process.

    Args:
        OPTIONS
        policy: Limits of the verdict, or a TOML file of them.
        progress: Receives steps and warnings.

    Returns:
        The report that ``-o json`` writes: ``verdict`` pass, fail or inconclusive, ``exit_code``,
        ``reasons``, measurements and provenance.

    Raises:
        UsageError: An input is wrong.
        RefusedError: The model's files are unsafe; nothing of it was loaded.
        HubError: The hub does not give a model or the images.
        IncompleteError: Memory, time or disk ran out, or the process of the model ended.
        InconclusiveError: There are too few images to begin.
    """
    environment.prepare()
    config = AuditConfig(**{entry.name: getattr(call, entry.name) for entry in fields(AuditConfig)})
    from platodef_cli.audit.run import audit as run

    with environment.offline_while(config.offline):
        return run(config, progress=call.progress)


def preflight(
    model: str | Path,
    *,
    revision: str | None = None,
    offline: bool = False,
    follow_links: bool = False,
    progress: Progress = SILENT,
) -> "Preflight":
    """Check the files of a model without loading anything of it, as ``platodef preflight`` does.

    Args:
        model: Folder or name on the hub; of the latter, only files that an encoder may need are downloaded.
        revision: Branch, tag or commit of ``model``.
        offline: Never use the network.
        follow_links: Links of a folder to files elsewhere are followed, and those files examined.
        progress: Receives the steps.

    Returns:
        Files with hashes, architecture, findings, and what was not examined.

    Raises:
        UsageError: There is no such model.
        RefusedError: A file is unsafe.
        HubError: The hub does not give the model.
    """
    environment.prepare()
    from platodef_cli.encoders.reference import parse
    from platodef_cli.encoders.resolve import examine, resolve

    with environment.offline_while(offline):
        resolved = resolve(parse(str(model), revision), offline=offline, progress=progress)
        return examine(resolved, follow_links=follow_links)


def read_report(path: str | Path) -> "AuditReport":
    """Read a JSON report of this or an earlier version.

    Raises:
        UsageError: The file is missing, too large, of a newer version, or is not a report.
    """
    from platodef_cli.report.reading import read_report as read

    return read(Path(path))


def render(report: "AuditReport", form: str, options: "RenderOptions | None" = None) -> str:
    """Return a report as text.

    Args:
        report: From :func:`audit` or :func:`read_report`.
        form: A format of ``platodef report -o``: terminal, json, markdown, html, sarif, junit,
            cyclonedx.
        options: Width, colour and details; for a file by default.

    Raises:
        UsageError: There is no such format; the message lists the choices.
        IncompleteError: The format is that of a plug-in, which fails.
    """
    from platodef_cli.report import render as draw
    from platodef_cli.report.interface import RenderOptions

    return draw(report, form, options or RenderOptions())
