"""Options that several commands share, each with its help text and its check."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args, get_type_hints

import typer

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.option import Option
from platodef_cli.cli import completion
from platodef_cli.defences import DETECTORS
from platodef_cli.environment import offline_requested
from platodef_cli.errors import UsageError
from platodef_cli.report import REPORTS

IMAGES = "Images"
RUN = "Running"
RESULT = "Result"
JUDGING = "Judging"


def _check_anchor(value: str | None) -> str | None:
    parts = PurePosixPath(value or "x").parts
    if value is not None and (not value.strip() or value.startswith("/") or ".." in parts or "\\" in value):
        raise UsageError(
            f"the anchor {value!r} is not a file below the repository's root; give a relative path"
        )
    return value


def offline(flag: bool) -> bool:
    """Return whether to work without network: the flag, or HF_HUB_OFFLINE as the hub client reads it."""
    return flag or offline_requested()


_OPTIONS: dict[str, Option] = {
    entry.name: entry.metadata["option"] for entry in fields(AuditConfig) if entry.metadata
}


def shared(name: str) -> Any:
    """Return the typer option, or argument, for a field of :class:`AuditConfig`."""
    option = _OPTIONS[name]
    presentation: dict[str, Any] = {
        "help": option.text(),
        "metavar": option.metavar,
        "autocompletion": None if option.completion is None else getattr(completion, option.completion),
    }
    if option.argument:
        return typer.Argument(**presentation)
    flags = option.flags or (f"--{name.replace('_', '-')}",)
    return typer.Option(
        *flags,
        min=option.low,
        max=option.high,
        envvar=option.variable,
        file_okay=not option.folder,
        # what may be repeated is checked when all of it is there
        callback=None if option.several else option.check,
        rich_help_panel=option.panel,
        **presentation,
    )


Revision = Annotated[str | None, shared("revision")]
References = Annotated[list[str] | None, shared("references")]
Pooling = Annotated[list[str] | None, shared("pooling")]
FollowLinks = Annotated[bool, shared("follow_links")]
Images = Annotated[str | None, shared("images")]
Limit = Annotated[int | None, shared("limit")]
ImageColumn = Annotated[str | None, shared("image_column")]
LabelColumn = Annotated[str | None, shared("label_column")]
Captions = Annotated[str | None, shared("captions")]
CaptionColumn = Annotated[str | None, shared("caption_column")]
Templates = Annotated[str, shared("templates")]
CaptionModel = Annotated[str | None, shared("captioner")]
Recaption = Annotated[bool, shared("recaption")]
NoLabels = Annotated[bool, shared("use_labels")]
MaxBroken = Annotated[float, shared("max_broken_share")]
Seed = Annotated[int, shared("seed")]
Searches = Annotated[list[str] | None, shared("searches")]
CacheDir = Annotated[Path | None, shared("cache_dir")]
NoCache = Annotated[bool, shared("use_cache")]
Offline = Annotated[bool, shared("offline")]
Device = Annotated[str, shared("device")]
Precision = Annotated[Literal["float32", "bfloat16"], shared("dtype")]
ForwardPrecision = Annotated[Literal["auto", "float32", "bfloat16"], shared("precision")]
BatchSize = Annotated[int, shared("batch_size")]
MemoryLimit = Annotated[float, shared("memory_limit_gb")]
TimeLimit = Annotated[float | None, shared("time_limit_s")]
RequireIsolation = Annotated[bool, shared("require_isolation")]
FalsePositiveRate = Annotated[float, shared("false_positive_rate")]
PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE.toml",
        help="Limits of the verdict; also from PLATODEF_POLICY, platodef.toml or pyproject.toml.",
        rich_help_panel=JUDGING,
    ),
]
SetKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One limit of the policy; repeat it. `platodef policy check` lists the keys.",
        rich_help_panel=JUDGING,
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        "--alpha",
        metavar="RATE",
        help="Share of clean encoders that may fail. Default: the policy's, 0.01.",
        rich_help_panel=JUDGING,
    ),
]
FailIf = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-if",
        metavar="'METRIC OP VALUE'",
        help="Fail also if this holds, e.g. 'poisoned-accuracy < 0.5'; repeat it. "
        "`platodef policy metrics` lists the metrics.",
        rich_help_panel=JUDGING,
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="REPORT.json",
        help="Fail only on what is worse than in this report of the same images and references.",
        rich_help_panel=JUDGING,
    ),
]
WaiverFile = Annotated[
    Path | None,
    typer.Option(
        "--waivers",
        metavar="FILE.toml",
        help="What somebody answers for until a date; it stays visible.",
        rich_help_panel=JUDGING,
    ),
]
Reports = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FORMAT[=PATH]",
        help=f"Report format ({', '.join(REPORTS.names())}); repeat it. Default: terminal.",
        autocompletion=completion.formats,
        rich_help_panel=RESULT,
    ),
]
Anchor = Annotated[
    str | None,
    typer.Option(
        "--anchor",
        metavar="FILE",
        help="File that SARIF results point to, relative to the repository's root. "
        "Default: platodef.toml, or pyproject.toml where only that exists.",
        callback=_check_anchor,
        rich_help_panel=RESULT,
    ),
]
ExitZero = Annotated[
    bool,
    typer.Option(
        "--exit-zero", help="Exit with 0 instead of 1 on FAIL; other codes stay.", rich_help_panel=JUDGING
    ),
]
Detector = Annotated[
    str,
    typer.Option(
        "--detector",
        help=f"One of {', '.join(DETECTORS.names())}.",
        callback=DETECTORS.check,
        autocompletion=completion.detectors,
        rich_help_panel=RESULT,
    ),
]
DetectorMode = Annotated[
    Literal["default", "published"],
    typer.Option(
        "--mode", help="published: the choices of the original, flaws included.", rich_help_panel=RESULT
    ),
]
RequiredHead = Annotated[
    str,
    typer.Option(
        "--head",
        metavar="NAME|DIR",
        autocompletion=completion.heads,
        help="Heads from `platodef fit`, or shipped ones.",
    ),
]
Calibrate = Annotated[
    str | None,
    typer.Option(
        "--calibrate",
        metavar="FILE",
        help="Clean features for the threshold; default: the clean scores in the heads.",
        rich_help_panel=RESULT,
    ),
]
FeaturesIn = Annotated[str, typer.Argument(metavar="FEATURES", help="Feature file, or - for standard input.")]
FeaturesOut = Annotated[
    str,
    typer.Option("--output", "-o", metavar="FILE", help="Feature file, or - for standard output."),
]
SourceKey = Annotated[
    str, typer.Option("--source-key", metavar="TENSOR", help="Source tensor in files of other tools.")
]
ReferenceKeys = Annotated[
    list[str] | None,
    typer.Option("--reference-key", metavar="TENSOR", help="Reference tensor in such files; repeat it."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="JSON on stdout instead of a table.", rich_help_panel=RESULT)
]


def _parsed_as(kind: Any, option: Option) -> Any:
    """Return the type that the command line parses a field to: paths stay text, but for folders of ours."""
    if option.several:
        return list[str] | None
    if str in get_args(kind) and Path in get_args(kind):
        return str | None if type(None) in get_args(kind) else str
    return kind


def with_config_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per field of :class:`AuditConfig`, in front of its own.

    Args:
        command: Takes ``session``, ``given`` (field -> value of :class:`AuditConfig`) and its own options.
    """
    types = get_type_hints(AuditConfig)
    parameters = []
    for entry in fields(AuditConfig):
        if not entry.metadata:
            continue
        option: Option = entry.metadata["option"]
        kind = _parsed_as(types[entry.name], option)
        default = False if option.switches_off else None if option.several else entry.default
        parameters.append(
            inspect.Parameter(
                entry.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if default is MISSING else default,
                annotation=Annotated[kind, shared(entry.name)],
            )
        )

    def run(session: Any, **arguments: Any) -> None:
        given = {parameter.name: arguments.pop(parameter.name) for parameter in parameters}
        for name, option in _OPTIONS.items():
            if option.switches_off:
                given[name] = not given[name]
            elif option.several:
                given[name] = given[name] or ()
        command(session, given, **arguments)

    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items()
        if name not in ("session", "given")
    ]
    session = inspect.Parameter("session", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature([session, *parameters, *own])  # type: ignore[attr-defined]
    return run
