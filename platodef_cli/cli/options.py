"""Options that several commands share, each with its help text and its check."""

import re
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import typer

from platodef_cli.cli import completion
from platodef_cli.defences import DETECTORS, PURIFIERS
from platodef_cli.environment import offline_requested
from platodef_cli.errors import UsageError
from platodef_cli.report import REPORTS

MODELS = "Models"
IMAGES = "Images"
RUN = "Running"
RESULT = "Result"
JUDGING = "Judging"

_DEVICE = re.compile(r"^(cpu|cuda(:\d+)?|mps)$")


class Dtype(StrEnum):
    """Precision of the encoders."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class BatteryKind(StrEnum):
    """Triggers and controls that an audit tries."""

    standard = "standard"
    quick = "quick"


def _check_device(value: str) -> str:
    if not _DEVICE.match(value):
        raise UsageError(f"unknown device {value!r}; choose cpu, cuda, cuda:N or mps")
    return value


def _check_rate(value: float) -> float:
    if not 0 < value < 1:
        raise UsageError(f"a false positive rate lies strictly between 0 and 1, got {value}")
    return value


def check_purifier(value: str) -> str:
    """Return the name of a purifier that is in the table."""
    if value not in PURIFIERS:
        PURIFIERS.load(value)
    return value


def _check_detector(value: str) -> str:
    if value not in DETECTORS:
        DETECTORS.load(value)
    return value


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


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder, org/name, org/name@revision, hf://org/name or builtin:NAME.",
        autocompletion=completion.encoders,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        help="Commit, branch or tag of MODEL; resolved once to a commit. Not together with MODEL@REVISION.",
        rich_help_panel=MODELS,
    ),
]
References = Annotated[
    list[str] | None,
    typer.Option(
        "--reference",
        "-r",
        metavar="ID[@SHA]",
        help="A trusted encoder; repeat it. Default: DINOv2 and SigLIP2, pinned.",
        autocompletion=completion.encoders,
        rich_help_panel=MODELS,
    ),
]
Head = Annotated[
    str | None,
    typer.Option(
        "--head",
        metavar="NAME|DIR",
        autocompletion=completion.heads,
        help="Heads to use instead of fitting new ones.",
        rich_help_panel=MODELS,
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        "--images",
        "-i",
        metavar="SOURCE",
        help="Folder, FILE.parquet, hf://datasets/NAME@REVISION or builtin:shapes.",
        autocompletion=completion.images,
        rich_help_panel=IMAGES,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Use at most this many images, drawn with --seed.", rich_help_panel=IMAGES),
]
MaxBroken = Annotated[
    float,
    typer.Option(
        "--max-broken",
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="Tolerated share of unusable images.",
        rich_help_panel=IMAGES,
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**31 - 1, help="Seed of every random choice.", rich_help_panel=RUN)
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        help="Feature and model cache. Default: the user's cache folder.",
        envvar="PLATODEF_CACHE_DIR",
        file_okay=False,
        rich_help_panel=RUN,
    ),
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Neither read nor write cached features.", rich_help_panel=RUN)
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never use the network (also: HF_HUB_OFFLINE).", rich_help_panel=RUN)
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:N or mps.", callback=_check_device, rich_help_panel=RUN)
]
Precision = Annotated[Dtype, typer.Option("--dtype", help="Precision of the encoders.", rich_help_panel=RUN)]
BatchSize = Annotated[
    int, typer.Option(min=1, max=65536, help="Images per forward pass.", rich_help_panel=RUN)
]
MemoryLimit = Annotated[
    float,
    typer.Option(
        "--memory-limit",
        min=0.5,
        metavar="GB",
        help="Limit of the process that runs the suspect.",
        rich_help_panel=RUN,
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit",
        min=1.0,
        metavar="SECONDS",
        help="Limit for the suspect's process.",
        rich_help_panel=RUN,
    ),
]
FalsePositiveRate = Annotated[
    float,
    typer.Option(
        "--fpr",
        metavar="RATE",
        help="False alarms that the thresholds are calibrated to.",
        callback=_check_rate,
        rich_help_panel=RESULT,
    ),
]
Battery = Annotated[BatteryKind, typer.Option(help="Triggers and controls to try.", rich_help_panel=RESULT)]
ProbeImages = Annotated[
    int,
    typer.Option(
        "--probe-images", min=20, metavar="N", help="Test images for every trigger.", rich_help_panel=RESULT
    ),
]
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
PURIFIER_HELP = f"One of {', '.join(PURIFIERS.names())}."
Purifier = Annotated[
    str,
    typer.Option(
        help=PURIFIER_HELP,
        callback=check_purifier,
        autocompletion=completion.purifiers,
        rich_help_panel=RESULT,
    ),
]
Detector = Annotated[
    str,
    typer.Option(
        "--detector",
        help=f"One of {', '.join(DETECTORS.names())}.",
        callback=_check_detector,
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
