"""``platodef purify``."""

from dataclasses import replace
from typing import Annotated, Literal

import typer

from platodef_cli.cli import completion, options
from platodef_cli.cli.features import features_target, read_pair, write_features
from platodef_cli.cli.matching import load_matching
from platodef_cli.cli.outputs import STANDARD_STREAM
from platodef_cli.cli.session import Session
from platodef_cli.defences import DEFAULT_DETECTOR, DEFAULT_PURIFIER, PURIFIERS
from platodef_cli.heads.find import find_heads

METHOD = "Method"


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
) -> None:
    """Replace suspicious source features by what the references say they should be.

    Reads and writes feature files; labels, variants and references stay as they are.
    """
    target = features_target(output, features, calibrate)
    folder = find_heads(head)
    import torch

    from platodef_cli.defences import make_purifier, purify_flagged
    from platodef_cli.defences.alarm import calibrated
    from platodef_cli.defences.interface import PurifyOptions
    from platodef_cli.features.shard import canonical_json

    tuples, clean = read_pair(session, features, calibrate, source_key, reference_key)
    heads = load_matching(folder, device, (tuples, features), (clean, calibrate))
    chosen = PurifyOptions(steps, samples, guidance, start)
    purifier = make_purifier(method, heads, chosen)
    with session.progress.step(f"purifying {len(tuples)} rows"):
        if everything:
            flagged = torch.ones(len(tuples), dtype=torch.bool)
        else:
            alarm = calibrated(detector, heads, clean, fpr, seed)
            flagged = alarm.detector.score(tuples) > alarm.threshold
        generator = torch.Generator().manual_seed(seed)
        source = purify_flagged(purifier, tuples, flagged, generator=generator)
    count = int(flagged.sum())
    recipe: dict[str, object] = {"method": method, "heads": folder.name, "seed": seed, "rows": count}
    recipe |= {"steps": steps, "samples": samples, "guidance": guidance, "start": start}
    recipe |= {} if everything else {"detector": detector, "false_positive_rate": fpr}
    metadata = {**tuples.metadata, "purified": canonical_json(recipe)}
    write_features(target, replace(tuples, source=source, metadata=metadata))
    session.finish(f"purified {count} of {len(tuples)} rows with {method}")
