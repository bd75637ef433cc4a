"""``platodef caption``."""

from pathlib import Path
from typing import Annotated

import typer

from platodef_cli import environment
from platodef_cli.cli import options
from platodef_cli.cli.outputs import to_stdout
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import aligned, show_json
from platodef_cli.errors import UsageError


def caption(
    session: Session,
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            help="Folder, FILE.parquet, FILE.tar, hf://datasets/NAME@REVISION or builtin:shapes.",
        ),
    ],
    captioner: Annotated[
        str,
        typer.Option(
            "--captioner",
            metavar="ID[@SHA]",
            help="Image-text-to-text model of transformers: a folder, or org/name on the Hub.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.parquet",
            help="File of captions, for --captions of audit and extract.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="What the model is asked. Default: 'Describe this image in one short sentence.', or nothing "
            "where it has no chat template (BLIP)."
        ),
    ] = None,
    as_json: options.AsJson = False,
    image_column: options.ImageColumn = None,
    limit: options.Limit = None,
    max_broken: options.MaxBroken = 0.05,
    seed: options.Seed = 0,
    cache_dir: options.CacheDir = None,
    no_cache: options.NoCache = False,
    offline: options.Offline = False,
    device: options.Device = "cpu",
    dtype: options.Precision = "float32",
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Images at once.")] = 8,
) -> None:
    """Describe every image in one sentence by a model, for text references.

    Decoding is greedy. Captions are kept as they are made: an interrupted run goes on. The model is trusted
    like a reference: a backdoored captioner is a backdoored reference.
    """
    if output is not None and output.suffix.lower() != ".parquet":
        raise UsageError(f"-o {output}: captions are written to a .parquet file; give such a name")
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"-o {output}: the folder {output.absolute().parent} does not exist; make it first")
    without_network = options.offline(offline)
    if without_network:
        environment.go_offline()
    from platodef_cli.features.cache import FeatureCache
    from platodef_cli.features.text_references import caption_file, described
    from platodef_cli.images.columns import Columns
    from platodef_cli.images.open import open_source
    from platodef_cli.texts.caption_store import CaptionStore, caption_key
    from platodef_cli.texts.captioner import open_captioner

    session.mention_idle_gpu(device)
    source = open_source(
        images,
        limit=limit,
        seed=seed,
        offline=without_network,
        columns=Columns(image_column, labels=False),
        warn=session.warn,
    )
    writer = open_captioner(
        captioner,
        prompt=prompt,
        offline=without_network,
        device=device,
        dtype=dtype,
        progress=session.progress,
    )
    cache = None if no_cache else FeatureCache(cache_dir, progress=session.progress)
    store = CaptionStore(writer, None if cache is None else cache.captions(caption_key(writer)))
    known = store.known([ref.digest for ref in source.refs])
    broken: dict[str, str] = {}
    sentences = described(
        source,
        store,
        batch_size=batch_size,
        progress=session.progress,
        failed=lambda name, reason: broken.update({name: reason}),
    )
    if broken:
        first = next(iter(broken.items()))
        text = f"{len(broken)} of {len(source.refs)} images cannot be used ({': '.join(first)})"
        if len(broken) > max_broken * len(source.refs):
            raise UsageError(f"{text}; at most {max_broken:.0%} may be broken: repair or remove them")
        session.warn(text)
    wordless = [ref.id for ref, row in zip(source.refs, sentences.rows, strict=True) if not row[0]]
    wordless = [name for name in wordless if name not in broken]
    if wordless:
        session.warn(f"{writer.name} said nothing about {len(wordless)} images (first: {wordless[0]})")
    rows = [
        (ref.id, row[0]) for ref, row in zip(source.refs, sentences.rows, strict=True) if ref.id not in broken
    ]
    if output is not None:
        caption_file(output, source, sentences, writer.statement)
    elif not as_json:
        to_stdout(aligned(("image", "caption"), rows))
    if as_json:
        show_json({"captioner": writer.statement, "captions": dict(rows)})
    place = "" if output is None else f" in {output}"
    session.finish(
        f"{len(rows)} captions{place} by {writer.statement}; {known} were known, {len(rows) - known} are new"
    )
