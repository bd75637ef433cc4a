"""``platodef score``."""

import csv
import io
from pathlib import Path
from typing import Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.features import calibrated, input_paths, read_pair
from platodef_cli.cli.heads import find_heads
from platodef_cli.cli.matching import load_matching
from platodef_cli.cli.outputs import STANDARD_STREAM, check_output, to_stdout, write_text
from platodef_cli.cli.session import Session
from platodef_cli.detectors import DEFAULT_DETECTOR
from platodef_cli.errors import UsageError

_SUFFIXES = {".json": "json", ".csv": "csv"}


def score(
    session: Session,
    features: options.FeaturesIn,
    head: options.RequiredHead,
    detector: options.Detector = DEFAULT_DETECTOR,
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="PATH", help="FILE.json, FILE.csv, or - for JSON on stdout."),
    ] = STANDARD_STREAM,
    calibrate: options.Calibrate = None,
    fpr: options.FalsePositiveRate = 0.05,
    source_key: options.SourceKey = "source",
    reference_key: options.ReferenceKeys = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
) -> None:
    """Score every row of a feature file; higher is more suspicious.

    Each row gets its score, the conformal p-value among clean scores, and whether it is over the threshold.
    """
    form = _format(output)
    if output != STANDARD_STREAM:
        check_output(Path(output), inputs=input_paths(features, calibrate))
    folder = find_heads(head)
    from platodef_cli.detectors.calibrate import conformal_pvalues

    tuples, clean = read_pair(session, features, calibrate, source_key, reference_key)
    heads = load_matching(folder, device, (tuples, features), (clean, calibrate))
    with session.progress.step(f"scoring {len(tuples)} rows"):
        alarm = calibrated(detector, heads, clean, fpr, seed)
        scores = alarm.detector.score(tuples)
    flagged = scores > alarm.threshold
    columns = (scores.tolist(), conformal_pvalues(alarm.clean, scores).tolist(), flagged.tolist())
    rows: list[dict[str, object]] = [
        {"row": row, "score": value, "p_value": p_value, "flagged": over}
        for row, (value, p_value, over) in enumerate(zip(*columns, strict=True))
    ]
    if tuples.variants is not None:
        rows = [{**row, "variant": kind} for row, kind in zip(rows, tuples.variants.tolist(), strict=True)]
    text = _csv(rows) if form == "csv" else _json(rows, detector, alarm.threshold, fpr, len(alarm.clean))
    if output == STANDARD_STREAM:
        to_stdout(text)
    else:
        write_text(Path(output), text)
    share = float(flagged.double().mean())
    session.finish(
        f"{int(flagged.sum())} of {len(tuples)} rows ({share:.1%}) are over the threshold of {detector}; "
        f"of clean rows at most {fpr:.1%} would be"
    )


def _format(output: str) -> str:
    if output == STANDARD_STREAM:
        return "json"
    suffix = Path(output).suffix.lower()
    if suffix not in _SUFFIXES:
        raise UsageError(f"cannot tell the format of {output}; let its name end in {' or '.join(_SUFFIXES)}")
    return _SUFFIXES[suffix]


def _csv(rows: list[dict[str, object]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "flagged": int(bool(row["flagged"]))} for row in rows)
    return stream.getvalue()


def _json(
    rows: list[dict[str, object]], detector: str, threshold: float, rate: float, calibration: int
) -> str:
    from platodef_cli.report.json import dumps

    return dumps(
        {
            "detector": detector,
            "direction": "higher is more suspicious",
            "threshold": threshold,
            "false_positive_rate": rate,
            "calibration": calibration,
            "rows": rows,
        }
    )
