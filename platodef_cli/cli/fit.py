"""``platodef fit``."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.features import clean_rows, read_sample
from platodef_cli.cli.outputs import check_output_folder, to_stdout
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import aligned, show_json
from platodef_cli.errors import UsageError


def fit(
    session: Session,
    features: options.FeaturesIn,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="HEAD_DIR", help="Folder for the heads.")],
    preset: Annotated[
        str,
        typer.Option(
            help="closed (closed forms, no network), or networks of size tiny, small, medium or paper."
        ),
    ] = "closed",
    mode: Annotated[
        str,
        typer.Option(
            help="How the heads share weights: separate, joint, energy-from-denoiser, denoiser-from-energy, "
            "energy-on-denoiser or denoiser-on-energy."
        ),
    ] = "separate",
    name: Annotated[str | None, typer.Option(help="Name of the heads; default: that of the folder.")] = None,
    notes: Annotated[str, typer.Option(help="Intended use and limits, for the card.")] = "",
    push_to: Annotated[
        Path | None,
        typer.Option(
            "--push-to",
            metavar="DIR",
            help="Also lay out a folder that can be uploaded to a model hub as it is.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace heads in the folders.")] = False,
    as_json: options.AsJson = False,
    source_key: options.SourceKey = "source",
    reference_key: options.ReferenceKeys = None,
    seed: options.Seed = 0,
    sample: Annotated[
        int,
        typer.Option(
            "--sample",
            min=100,
            metavar="ROWS",
            help="Fit on so many clean rows at most, drawn with --seed from a file or a folder of shards.",
        ),
    ] = 200_000,
    device: options.Device = "cpu",
    cache_dir: options.CacheDir = None,
) -> None:
    """Fit heads on clean features: closed forms, and with --preset the paper's networks.

    Writes the energy gap, the mutual information and the bounds of Proposition 2 beside the rates on
    held-out rows to stdout. An interrupted fit goes on where it stopped when the same command is given again.
    """
    for folder in (output, push_to):
        if folder is not None:
            check_output_folder(folder)
            if not force and folder.is_dir() and any(folder.iterdir()):
                raise UsageError(f"the folder {folder} is not empty; choose another, or add --force")
    if push_to is not None and push_to.absolute() == output.absolute():
        raise UsageError(f"--push-to {push_to} is the folder of the heads; choose another")
    from platodef_cli.features.cache import default_directory
    from platodef_cli.heads.card import HeadCard
    from platodef_cli.heads.config import preset as preset_config
    from platodef_cli.heads.fit import check_varied, fit_heads, split_rows
    from platodef_cli.heads.origin import encoder_records
    from platodef_cli.heads.pretrained import save_heads
    from platodef_cli.heads.publish import publish_heads
    from platodef_cli.metrics.guarantee import guarantee_metrics

    session.mention_idle_gpu(device)
    config = preset_config(preset, mode=mode)
    everything = read_sample(session, features, source_key, reference_key, sample, seed)
    source, references = encoder_records(everything, features)
    tuples = clean_rows(session, everything)
    check_varied(source_key, tuples.source)
    card = HeadCard(
        name=name or output.absolute().name,
        source=source,
        references=references,
        trained_on=everything.metadata.get("images") or f"the feature file {features}",
        notes=notes,
    )
    # The trainer ignores a checkpoint of other data or settings, so the place needs no more than a name.
    place = hashlib.sha256(str(output.absolute()).encode()).hexdigest()[:16]
    checkpoint = (cache_dir or default_directory()) / "checkpoints" / place
    heads = fit_heads(
        tuples, config, seed=seed, device=device, checkpoint=checkpoint, progress=session.progress
    )
    held_out = tuples.select(split_rows(len(tuples), config, seed)[1])
    with session.progress.step("measuring the guarantee"):
        measured = guarantee_metrics(heads, held_out, seed)
    values = {metric.name: metric.value for metric in measured if metric.value is not None}
    heads = replace(heads, metrics={**heads.metrics, **values})
    save_heads(output, heads, card=card)
    if push_to is not None:
        publish_heads(push_to, heads, card=card)
    shutil.rmtree(checkpoint, ignore_errors=True)
    rows = [
        (metric.name.removeprefix("guarantee: "), f"{metric.value:.4f}", metric.unit or "")
        for metric in measured
    ]
    if as_json:
        show_json(dict(heads.metrics))
    else:
        to_stdout(aligned(("on held-out rows", "value", "unit"), rows))
    auroc = heads.metrics["matched_auroc"]
    session.finish(
        f"heads in {output}, fitted on {heads.rows} tuples; matched against mismatched AUROC {auroc:.4f} "
        "on held-out tuples"
    )
