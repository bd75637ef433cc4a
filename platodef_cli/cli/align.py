"""``platodef align``."""

from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.features import clean_rows, read_sample
from platodef_cli.cli.outputs import to_stdout
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import aligned, show_json

if TYPE_CHECKING:
    from platodef_cli.records import AlignmentRecord


def align(
    session: Session,
    features: options.FeaturesIn,
    k: Annotated[int, typer.Option("--k", min=2, help="Neighbours of CKNNA.")] = 10,
    permutations: Annotated[int, typer.Option(min=1, help="Size of the permutation null.")] = 100,
    source_key: options.SourceKey = "source",
    reference_key: options.ReferenceKeys = None,
    rows: Annotated[
        int,
        typer.Option(
            "--rows", min=20, help="More images than these are measured by random blocks of so many."
        ),
    ] = 50_000,
    blocks: Annotated[int, typer.Option("--blocks", min=1, max=1000, help="Blocks at most.")] = 3,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Measure how alike the encoders see the images: CKA and CKNNA of every pair, with a permutation null.

    A value means nothing without its null, and values of different n or k must not be compared. Of a folder
    of shards, or of very many images, random blocks are measured.
    """
    from platodef_cli.metrics.alignment_blocks import blockwise_records

    drawn = read_sample(session, features, source_key, reference_key, rows * blocks, seed)
    tuples = clean_rows(session, drawn)
    spaces = ["source", *tuples.references]
    records, count, spread = blockwise_records(
        tuples, rows, k=k, permutations=permutations, seed=seed, progress=session.progress
    )
    if count > 1:
        session.info(f"means over {count} blocks of {rows} images; two blocks differ by {spread:.4f} at most")
    if as_json:
        show_json([record.model_dump(mode="json") for record in records])
    else:
        parts = [_matrix(measure, spaces, records) for measure in ("cka", "cknna")]
        to_stdout("\n".join([*parts, _nulls(records)]))
    chance = [record for record in records if record.value <= record.null_high]
    message = f"{len(tuples)} images, {len(records)} pairs and measures; "
    if chance:
        pairs = ", ".join(f"{record.first} and {record.second} ({record.measure})" for record in chance)
        session.finish(f"{message}not above chance: {pairs}")
    else:
        session.finish(f"{message}all above chance")


def _matrix(measure: str, names: list[str], records: "tuple[AlignmentRecord, ...]") -> str:
    """Return one symmetric matrix as text."""
    values = {name: {name: 1.0} for name in names}
    for record in records:
        if record.measure == measure:
            values[record.first][record.second] = record.value
            values[record.second][record.first] = record.value
    k = next((record.k for record in records if record.measure == measure), None)
    title = measure.upper() + (f" k={k}" if k else "")
    rows = [(name, *(f"{values[name][other]:.3f}" for other in names)) for name in names]
    return aligned((title, *names), rows)


def _nulls(records: "tuple[AlignmentRecord, ...]") -> str:
    rows = [
        (
            f"{record.first} - {record.second}",
            record.measure.upper(),
            f"{record.value:.3f}",
            f"{record.null_mean + 0.0:.4f}",
            f"{record.null_high:.4f}",
            f"{record.p_value:.4f}",
            record.n,
        )
        for record in records
    ]
    return aligned(("pair", "measure", "value", "null mean", "null max", "p", "n"), rows)
