"""``platodef score``."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.features import blocks_of, input_paths, read_calibration
from platodef_cli.cli.matching import load_matching
from platodef_cli.cli.outputs import STANDARD_STREAM, check_output
from platodef_cli.cli.score_table import Row, ScoreTable
from platodef_cli.cli.session import Session
from platodef_cli.cli.sharded import (
    Actors,
    Address,
    Chosen,
    ChosenExecutor,
    Executor,
    chosen,
    not_inside,
    run_shards,
    shards_target,
)
from platodef_cli.defences import DEFAULT_DETECTOR
from platodef_cli.errors import UsageError
from platodef_cli.heads.find import find_heads
from platodef_cli.report.escaping import plain

if TYPE_CHECKING:
    from torch import Tensor

    from platodef_cli.features.interface import FeatureTuples
    from platodef_cli.heads.heads import Heads
    from platodef_cli.jobs.cleaning import Judging

_SUFFIXES = {".json": "json", ".csv": "csv"}
_FEWEST_FLAGGED = 20  # below it a median over the flagged rows says little
_BLAME_ROWS = 65_536  # of all and of flagged rows, drawn where there are more, that judge the references


def score(
    session: Session,
    features: options.FeaturesIn,
    head: options.RequiredHead,
    detector: options.Detector = DEFAULT_DETECTOR,
    mode: options.DetectorMode = "default",
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="FILE.json, FILE.csv, - for JSON on stdout, or DIR/ for one file of scores per shard.",
        ),
    ] = STANDARD_STREAM,
    calibrate: options.Calibrate = None,
    fpr: options.FalsePositiveRate = 0.05,
    source_key: options.SourceKey = "source",
    reference_key: options.ReferenceKeys = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    executor: ChosenExecutor = Executor.local,
    address: Address = None,
    actors: Actors = None,
) -> None:
    """Score every row of a feature file, or of a folder of them; higher is more suspicious.

    Each row gets its score, the conformal p-value among clean scores, and whether it is over the threshold.
    Large files and folders of shards are read in blocks.
    """
    where = chosen(executor, address, actors, device)
    shards = shards_target(output, forced=executor is Executor.ray)
    if shards is not None:
        from platodef_cli.jobs.cleaning import Judging

        judging = Judging(
            head=str(find_heads(head).absolute()),
            detector=detector,
            mode=mode,
            rate=fpr,
            calibrate=None if calibrate is None else str(Path(calibrate).absolute()),
            seed=seed,
            device=device,
            source_key=source_key,
            reference_keys=None if reference_key is None else tuple(reference_key),
        )
        _score_shards(session, judging, features, shards, where)
        return
    form = _format(output)
    if output != STANDARD_STREAM:
        check_output(Path(output), inputs=input_paths(features, calibrate))
    folder = find_heads(head)
    from platodef_cli.defences.alarm import calibrated
    from platodef_cli.features.reservoir import Reservoir
    from platodef_cli.jobs.cleaning import judge

    clean = read_calibration(session, features, calibrate, source_key, reference_key)
    count, first, blocks = blocks_of(features, source_key, reference_key)
    heads = load_matching(folder, device, (first, features), (clean, calibrate))
    everything, suspicious = Reservoir(_BLAME_ROWS, seed), Reservoir(_BLAME_ROWS, seed)
    table = ScoreTable(form)
    over = start = 0
    try:
        with session.progress.step(f"scoring {count} rows"):
            alarm = calibrated(detector, heads, clean, fpr, seed, mode)
            for block in blocks:
                scores, p_values, flagged = judge(alarm, block)
                table.add(list(_rows(start, block, scores, p_values, flagged)))
                everything.add(block)
                if bool(flagged.any()):
                    suspicious.add(block.select(flagged))
                over += int(flagged.sum())
                start += len(block)
        parts = {"all": everything.result(), "flagged": suspicious.result()}
        if over < _FEWEST_FLAGGED:
            parts.pop("flagged")
        found = {name: part for name, part in parts.items() if part is not None}
        references = _references(session, heads, found, clean)
        facts = {"threshold": alarm.threshold, "false_positive_rate": fpr, "calibration": len(alarm.clean)}
        table.write(output, {"detector": detector, **facts, **references})
    finally:
        table.close()
    session.finish(
        f"{over} of {count} rows ({over / count:.1%}) are over the threshold of {detector}; "
        f"of clean rows at most {fpr:.1%} would be"
    )


def _rows(
    start: int, block: "FeatureTuples", scores: "Tensor", p_values: "Tensor", flagged: "Tensor"
) -> Iterator[Row]:
    """Yield what the table says of every row of a block that begins at row ``start``."""
    variants = None if block.variants is None else block.variants.tolist()
    columns = zip(scores.tolist(), p_values.tolist(), flagged.tolist(), strict=True)
    for place, (value, p_value, over) in enumerate(columns):
        row: Row = {"row": start + place}
        if block.ids is not None:
            row["image"] = plain(block.ids[place])
        row |= {"score": value, "p_value": p_value, "flagged": over}
        if variants is not None:
            row["variant"] = variants[place]
        yield row


def _score_shards(session: Session, judging: "Judging", features: str, folder: Path, where: Chosen) -> None:
    """Score a folder of feature files into a folder of scores."""
    from platodef_cli.features.stream import shard_paths
    from platodef_cli.jobs.cleaning import Scoring, feature_pieces

    source = Path(features)
    if not source.is_dir():
        raise UsageError(f"{features} is no folder of feature files, but -o {folder} is; name a file there")
    not_inside(folder, source)
    paths = shard_paths(source)
    if not paths:
        raise UsageError(f"{source} holds no feature file; make some with: platodef extract -o {source}/")
    result = run_shards(session, Scoring(judging), feature_pieces(paths), folder, where, "scoring shards")
    rows, over = result.total("rows"), result.total("flagged")
    session.finish(
        f"{over} of {rows} rows ({over / rows:.1%}) in {len(result.made)} shards are over the threshold of "
        f"{judging.detector}; of clean rows at most {judging.rate:.1%} would be"
    )


def _format(output: str) -> str:
    if output == STANDARD_STREAM:
        return "json"
    suffix = Path(output).suffix.lower()
    if suffix not in _SUFFIXES:
        raise UsageError(f"cannot tell the format of {output}; let its name end in {' or '.join(_SUFFIXES)}")
    return _SUFFIXES[suffix]


def _references(
    session: Session,
    heads: "Heads",
    parts: "dict[str, FeatureTuples]",
    clean: "FeatureTuples | None",
) -> Row:
    """Name a reference that disagrees with everybody, where the heads can tell."""
    from platodef_cli.heads.evaluate import DROP, blame_references, odd_reference

    names = heads.reference_names
    if len(names) < 2 or (clean is None and any(DROP + name not in heads.metrics for name in names)):
        return {}
    blame = {rows: blame_references(heads, part, clean) for rows, part in parts.items()}
    rows, odd = next(((rows, odd) for rows in blame if (odd := odd_reference(blame[rows]))), ("all", None))
    if odd is not None:
        session.warn(
            f"reference {odd!r} disagrees with the suspect and the other references (on {rows} rows by "
            f"{blame[rows][odd]:.1f} nats more than on clean images): check it first; --detector robust "
            "does without the worst reference of every row"
        )
    return {"references": {"disagreement_nats": blame, "odd": odd}}
