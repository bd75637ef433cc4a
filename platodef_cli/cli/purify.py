"""``platodef purify``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from platodef_cli.cli import completion, options
from platodef_cli.cli.features import features_target, is_large, read_pair, write_features
from platodef_cli.cli.matching import load_matching
from platodef_cli.cli.outputs import STANDARD_STREAM
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
from platodef_cli.defences import DEFAULT_DETECTOR, DEFAULT_PURIFIER, PURIFIERS
from platodef_cli.errors import UsageError
from platodef_cli.heads.find import find_heads

if TYPE_CHECKING:
    from platodef_cli.jobs.cleaning import Purifying
    from platodef_cli.jobs.pieces import Result

METHOD, FOLLOW = "Method", "A folder that grows"


def purify(
    session: Session,
    features: options.FeaturesIn,
    head: options.RequiredHead,
    output: options.FeaturesOut = STANDARD_STREAM,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            help=f"One of {', '.join(PURIFIERS.names())}.",
            callback=PURIFIERS.check,
            autocompletion=completion.purifiers,
            rich_help_panel=METHOD,
        ),
    ] = DEFAULT_PURIFIER,
    everything: Annotated[
        bool,
        typer.Option(
            "--all/--only-flagged",
            help="Purify every row, or only rows over the threshold.",
            rich_help_panel=METHOD,
        ),
    ] = False,
    detector: options.Detector = DEFAULT_DETECTOR,
    calibrate: options.Calibrate = None,
    fpr: options.FalsePositiveRate = 0.05,
    steps: Annotated[
        int, typer.Option(min=1, help="Noise levels of a sampler.", rich_help_panel=METHOD)
    ] = 20,
    samples: Annotated[
        int, typer.Option(min=1, help="Samples that `average` averages.", rich_help_panel=METHOD)
    ] = 8,
    guidance: Annotated[
        float, typer.Option(min=0.0, help="Classifier-free guidance; 1 is off.", rich_help_panel=METHOD)
    ] = 1.0,
    start: Annotated[
        Literal["noise", "source"],
        typer.Option(
            help="noise: from the references alone; source: keeps part of the feature, and of an attack.",
            rich_help_panel=METHOD,
        ),
    ] = "noise",
    source_key: options.SourceKey = "source",
    reference_key: options.ReferenceKeys = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Go on with what comes into the folder FEATURES until --idle or --until.",
            rich_help_panel=FOLLOW,
        ),
    ] = False,
    idle: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="End when no new shard has come for so long.",
            rich_help_panel=FOLLOW,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="End when FEATURES holds a file of this name, such as _SUCCESS.",
            rich_help_panel=FOLLOW,
        ),
    ] = None,
    poll: Annotated[
        float,
        typer.Option(min=0.01, metavar="SECONDS", help="Time between two looks.", rich_help_panel=FOLLOW),
    ] = 5.0,
    executor: ChosenExecutor = Executor.local,
    address: Address = None,
    actors: Actors = None,
) -> None:
    """Replace suspicious source features by what the references say they should be.

    Reads and writes feature files; labels, variants and references stay as they are. Where FEATURES is a
    folder of feature files, -o is one too: it gets a file of the same name for each, and an interrupted run
    goes on. With --follow it also takes what comes later; write shards under another name, then rename them.
    """
    if not follow and (idle is not None or until is not None):
        raise UsageError("--idle and --until are for --follow; leave them out, or add --follow")
    where = chosen(executor, address, actors, device)
    sharded = follow or executor is Executor.ray or (features != STANDARD_STREAM and Path(features).is_dir())
    folders = _folders(features, output) if sharded else None
    target = None if sharded else features_target(output, features, calibrate)
    folder = find_heads(head)
    from platodef_cli.defences.interface import PurifyOptions
    from platodef_cli.jobs.cleaning import Judging, Purifying

    judging = Judging(
        head=str(folder.absolute()),
        detector=detector,
        rate=fpr,
        calibrate=calibrate if calibrate in (None, STANDARD_STREAM) else str(Path(calibrate).absolute()),
        seed=seed,
        device=device,
        source_key=source_key,
        reference_keys=None if reference_key is None else tuple(reference_key),
    )
    work = Purifying(judging, method, everything, PurifyOptions(steps, samples, guidance, start))
    if folders is not None and follow:
        _follow(session, work, *folders, where, idle=idle, until=until, poll=poll)
    elif folders is not None:
        _purify_shards(session, work, *folders, where)
    elif target is not None and is_large(features):
        _purify_large(session, work, features, target)
    else:
        _purify_one(session, work, features, target, calibrate)


def _purify_one(
    session: Session, work: "Purifying", features: str, target: Path | None, calibrate: str | None
) -> None:
    """Clean one feature file, or standard input, in memory."""
    import torch

    from platodef_cli.defences import make_purifier, purify_flagged
    from platodef_cli.defences.alarm import calibrated
    from platodef_cli.features.shard import canonical_json

    judging = work.judging
    keys = None if judging.reference_keys is None else list(judging.reference_keys)
    tuples, clean = read_pair(session, features, calibrate, judging.source_key, keys)
    heads = load_matching(Path(judging.head), judging.device, (tuples, features), (clean, calibrate))
    purifier = make_purifier(work.method, heads, work.options)
    with session.progress.step(f"purifying {len(tuples)} rows"):
        if work.everything:
            flagged = torch.ones(len(tuples), dtype=torch.bool)
        else:
            alarm = calibrated(judging.detector, heads, clean, judging.rate, judging.seed)
            flagged = alarm.detector.score(tuples) > alarm.threshold
        generator = torch.Generator().manual_seed(judging.seed)
        source = purify_flagged(purifier, tuples, flagged, generator=generator)
    count = int(flagged.sum())
    metadata = {**tuples.metadata, "purified": canonical_json(work.recipe(count))}
    write_features(target, replace(tuples, source=source, metadata=metadata))
    session.finish(f"purified {count} of {len(tuples)} rows with {work.method}")


def _purify_large(session: Session, work: "Purifying", features: str, target: Path) -> None:
    """Clean one feature file in blocks of rows."""
    from platodef_cli.disk import replacing
    from platodef_cli.jobs.pieces import Piece

    live = work.start()
    with session.progress.step("purifying in blocks"), replacing(target) as temporary:
        counts = live.make(Piece(target.name, features), temporary)
    session.finish(f"purified {counts['flagged']} of {counts['rows']} rows with {work.method}")


def _folders(features: str, output: str) -> tuple[Path, Path]:
    """Return the folder of shards, and that of cleaned ones.

    Raises:
        UsageError: They are none, or the same.
    """
    source = Path(features)
    if features == STANDARD_STREAM or not source.is_dir():
        raise UsageError(f"{features} is no folder of feature files; --follow and --executor ray need one")
    place = shards_target(output, forced=True)
    assert place is not None
    not_inside(place, source)
    return source, place


def _purify_shards(session: Session, work: "Purifying", source: Path, place: Path, where: Chosen) -> None:
    """Clean a folder of feature files."""
    from platodef_cli.features.stream import shard_paths
    from platodef_cli.jobs.cleaning import feature_pieces

    paths = shard_paths(source)
    if not paths:
        raise UsageError(f"{source} holds no feature file; make some with: platodef extract -o {source}/")
    result = run_shards(session, work, feature_pieces(paths), place, where, "purifying shards")
    _tell(session, work, result)


def _follow(
    session: Session,
    work: "Purifying",
    source: Path,
    place: Path,
    where: Chosen,
    *,
    idle: float | None,
    until: str | None,
    poll: float,
) -> None:
    """Clean a folder that grows."""
    from platodef_cli.jobs.follow import follow
    from platodef_cli.jobs.pieces import Folder

    def tell(result: "Result") -> None:
        session.info(f"{len(result.made)} shards are clean, {result.total('flagged')} rows were purified")
        for piece, message, _ in result.failures:
            session.warn(f"{piece.name}: {message}")

    executor = where.open()
    try:
        with Folder(place) as held:
            result = follow(source, held, work, executor, idle=idle, until=until, poll=poll, tell=tell)
    finally:
        executor.close()
    result.check()
    _tell(session, work, result)


def _tell(session: Session, work: "Purifying", result: "Result") -> None:
    count, rows = result.total("flagged"), result.total("rows")
    session.finish(f"purified {count} of {rows} rows in {len(result.made)} shards with {work.method}")
