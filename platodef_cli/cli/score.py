"""``platodef score``."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.features import input_paths, read_pair
from platodef_cli.cli.matching import load_matching
from platodef_cli.cli.outputs import STANDARD_STREAM, check_output, to_stdout, write_text
from platodef_cli.cli.session import Session
from platodef_cli.defences import DEFAULT_DETECTOR
from platodef_cli.errors import UsageError
from platodef_cli.heads.find import find_heads
from platodef_cli.report.escaping import plain

if TYPE_CHECKING:
    from torch import Tensor

    from platodef_cli.features.interface import FeatureTuples
    from platodef_cli.heads.heads import Heads

_SUFFIXES = {".json": "json", ".csv": "csv"}
_FEWEST_FLAGGED = 20  # below it a median over the flagged rows says little


def score(
    session: Session,
    features: options.FeaturesIn,
    head: options.RequiredHead,
    detector: options.Detector = DEFAULT_DETECTOR,
    mode: options.DetectorMode = "default",
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
    from platodef_cli.defences.alarm import calibrated
    from platodef_cli.defences.calibrate import conformal_pvalues

    tuples, clean = read_pair(session, features, calibrate, source_key, reference_key)
    heads = load_matching(folder, device, (tuples, features), (clean, calibrate))
    with session.progress.step(f"scoring {len(tuples)} rows"):
        alarm = calibrated(detector, heads, clean, fpr, seed, mode)
        scores = alarm.detector.score(tuples)
    flagged = scores > alarm.threshold
    columns = (scores.tolist(), conformal_pvalues(alarm.clean, scores).tolist(), flagged.tolist())
    rows: list[dict[str, object]] = [
        {"row": row, "score": value, "p_value": p_value, "flagged": over}
        for row, (value, p_value, over) in enumerate(zip(*columns, strict=True))
    ]
    if tuples.variants is not None:
        rows = [{**row, "variant": kind} for row, kind in zip(rows, tuples.variants.tolist(), strict=True)]
    if tuples.ids is not None:
        rows = [
            {"row": row["row"], "image": plain(name), **row}
            for row, name in zip(rows, tuples.ids, strict=True)
        ]
    references = _references(session, heads, tuples, flagged, clean)
    facts = {"threshold": alarm.threshold, "false_positive_rate": fpr, "calibration": len(alarm.clean)}
    text = _csv(rows) if form == "csv" else _json(rows, {"detector": detector, **facts, **references})
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
    writer.writerows({**_safe(row), "flagged": int(bool(row["flagged"]))} for row in rows)
    return stream.getvalue()


def _safe(row: dict[str, object]) -> dict[str, object]:
    """Return a row that no spreadsheet takes for a formula."""
    name = row.get("image")
    if isinstance(name, str) and name.startswith(("=", "+", "-", "@", "\t", "\r")):
        return {**row, "image": f"'{name}"}
    return row


def _references(
    session: Session,
    heads: "Heads",
    tuples: "FeatureTuples",
    flagged: "Tensor",
    clean: "FeatureTuples | None",
) -> dict[str, object]:
    """Name a reference that disagrees with everybody, where the heads can tell."""
    from platodef_cli.heads.evaluate import DROP, blame_references, odd_reference

    names = heads.reference_names
    if len(names) < 2 or (clean is None and any(DROP + name not in heads.metrics for name in names)):
        return {}
    parts = {"all": tuples}
    if int(flagged.sum()) >= _FEWEST_FLAGGED:
        parts["flagged"] = tuples.select(flagged.nonzero()[:, 0])
    blame = {rows: blame_references(heads, part, clean) for rows, part in parts.items()}
    rows, odd = next(((rows, odd) for rows in blame if (odd := odd_reference(blame[rows]))), ("all", None))
    if odd is not None:
        session.warn(
            f"reference {odd!r} disagrees with the suspect and the other references (on {rows} rows by "
            f"{blame[rows][odd]:.1f} nats more than on clean images): check it first; --detector robust "
            "does without the worst reference of every row"
        )
    return {"references": {"disagreement_nats": blame, "odd": odd}}


def _json(rows: list[dict[str, object]], facts: dict[str, object]) -> str:
    from platodef_cli.report.json import dumps

    return dumps({**facts, "direction": "higher is more suspicious", "rows": rows})
