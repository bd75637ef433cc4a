"""``platodef extract``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from platodef_cli import environment
from platodef_cli.cli import options
from platodef_cli.cli.features import features_target, write_features
from platodef_cli.cli.outputs import STANDARD_STREAM
from platodef_cli.cli.session import Session
from platodef_cli.cli.sharded import (
    Actors,
    Address,
    Chosen,
    ChosenExecutor,
    Executor,
    chosen,
    run_shards,
    shards_target,
)
from platodef_cli.encoders.pooling import poolings_of
from platodef_cli.errors import UsageError
from platodef_cli.texts.names import CHOICES, PREFIX, check_sentences, is_text

if TYPE_CHECKING:
    from platodef_cli.encoders.interface import Encoder
    from platodef_cli.jobs.extraction import Extracting

SOURCE = "source"

Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL...", help="Encoders: the source, then references."),
]
Variants = Annotated[
    list[str] | None,
    typer.Option(
        "--variant",
        metavar="NAME",
        help="Also extract images with this trigger or control of the battery; repeat it.",
        rich_help_panel=options.IMAGES,
    ),
]


def extract(
    session: Session,
    models: Models,
    images: options.Images = None,
    output: options.FeaturesOut = STANDARD_STREAM,
    source: Annotated[
        str | None,
        typer.Option("--source", metavar="ID", help="The source encoder; then all MODELs are references."),
    ] = None,
    reference: options.References = None,
    revision: options.Revision = None,
    pooling: options.Pooling = None,
    follow_links: options.FollowLinks = False,
    variant: Variants = None,
    image_column: options.ImageColumn = None,
    label_column: options.LabelColumn = None,
    no_labels: options.NoLabels = False,
    captions: options.Captions = None,
    caption_column: options.CaptionColumn = None,
    templates: options.Templates = "clip-80",
    captioner: options.CaptionModel = None,
    recaption: options.Recaption = False,
    limit: options.Limit = None,
    max_broken: options.MaxBroken = 0.05,
    seed: options.Seed = 0,
    cache_dir: options.CacheDir = None,
    no_cache: options.NoCache = False,
    offline: options.Offline = False,
    device: options.Device = "cpu",
    dtype: options.Precision = "float32",
    precision: options.ForwardPrecision = "auto",
    batch_size: options.BatchSize = 64,
    memory_limit: options.MemoryLimit = 8.0,
    time_limit: options.TimeLimit = None,
    require_isolation: options.RequireIsolation = False,
    shard_rows: Annotated[
        int | None,
        typer.Option(
            "--shard-rows",
            min=1,
            help="Images per file of a folder of shards, where the images are no shards themselves.",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    executor: ChosenExecutor = Executor.local,
    address: Address = None,
    actors: Actors = None,
) -> None:
    """Extract features of the same images by a source and its references, in one decoding pass.

    Where -o is DIR/, it gets one file per parquet or tar shard of the images (a folder of them, or s3://,
    gs://), or per --shard-rows images. Shards that an earlier run of the same command made are kept.
    """
    source, names = _roles(models, source, reference)
    poolings = poolings_of(pooling or (), source, tuple(names.values()))
    written = {name: uri for name, uri in names.items() if is_text(uri)}
    pictured = _images(images, source)
    where = chosen(executor, address, actors, device)
    shards = shards_target(output, forced=shard_rows is not None or executor is Executor.ray)
    target = None if shards is not None else features_target(output)
    without_network = options.offline(offline)
    if without_network:
        environment.go_offline()
    from platodef_cli.audit.precision import choose_precision
    from platodef_cli.features.cache import FeatureCache
    from platodef_cli.features.extract import Request
    from platodef_cli.features.extract import extract as run
    from platodef_cli.features.text_references import TextOptions, open_text_references
    from platodef_cli.images.columns import Columns
    from platodef_cli.images.open import open_source
    from platodef_cli.jobs.extraction import Extracting, named_variants, opened_encoders, tuples_of

    session.mention_idle_gpu(device)
    variants = named_variants(tuple(variant or ()))
    columns = Columns(image_column, label_column, not no_labels, caption_column, bool(written))
    suspect: dict[str, Any] = {
        "revision": revision,
        "memory_limit_gb": memory_limit,
        "time_limit_s": time_limit,
        "require_isolation": require_isolation,
    }
    common: dict[str, Any] = {
        "offline": without_network,
        "device": device,
        "dtype": dtype,
        "follow_links": follow_links,
    }
    uris = {SOURCE: source, **names}
    if shards is not None:
        check_sentences(list(names.values()), captions, captioner, recaption)
        if captioner is not None:
            raise UsageError(
                "--captioner: shards take captions that are there; write them with "
                f"`platodef caption {pictured} --captioner {captioner} -o captions.parquet`, and give "
                "--captions captions.parquet"
            )
        work = Extracting(
            uris=tuple(uris.items()),
            poolings=tuple(poolings.items()),
            suspect=tuple(suspect.items()),
            common=tuple(common.items()),
            batch_size=batch_size,
            variants=tuple(variant or ()),
            columns=columns,
            max_broken=max_broken,
            offline=without_network,
            # every machine shall compute the same features, so that none is asked what it is fast at
            forward_dtype="float32" if precision == "auto" else precision,
            captions=captions,
            templates=templates,
        )
        _extract_shards(
            session, work, shards, pictured, rows=shard_rows, limit=limit, seed=seed, chosen=where
        )
        return
    pictures = open_source(
        pictured, limit=limit, seed=seed, offline=without_network, columns=columns, warn=session.warn
    )
    common["progress"] = session.progress
    cache = None if no_cache else FeatureCache(cache_dir, progress=session.progress)

    def tune(name: str, encoder: "Encoder") -> None:
        choose_precision(
            encoder,
            precision,
            device=device,
            dtype=dtype,
            source=pictures,
            rows=range(len(pictures.refs)),
            variants=variants if name == SOURCE else (),
            cache=cache,
            warn=session.progress.warn,
        )

    texts = open_text_references(
        written,
        pictures,
        TextOptions(captions, templates, captioner, recaption),
        offline=without_network,
        device=device,
        dtype=dtype,
        cache=cache,
        progress=session.progress,
    )
    requests = [Request(), *(Request(entry) for entry in variants)]
    seeing = {name: uri for name, uri in uris.items() if name not in written}
    warn = session.progress.warn
    with opened_encoders(seeing, suspect, common, batch_size, poolings, warn, tune) as encoders:
        extraction = run(
            pictures,
            encoders,
            requests,
            cache=cache,
            batch_size=batch_size,
            max_broken_share=max_broken,
            progress=session.progress,
        )
        if texts is not None:
            session.warn(texts.trust)
            extraction = texts.added_to(
                extraction,
                requests,
                encoders[SOURCE].geometry,
                cache=cache,
                batch_size=batch_size,
                progress=session.progress,
            )
    towers = {} if texts is None else texts.towers
    # in the order in which they were given
    every = {name: encoders.get(name) or towers[name] for name in uris}
    tuples = tuples_of(pictures, every, extraction, [entry.name for entry in variants])
    write_features(target, tuples)
    dims = ", ".join(f"{name} {value.shape[1]}-d" for name, value in tuples.references.items())
    session.finish(
        f"{len(tuples)} rows, source {tuples.source.shape[1]}-d, {dims}; "
        f"{extraction.hits} shards from the cache, {extraction.misses} computed"
    )


def _roles(models: list[str], source: str | None, reference: list[str] | None) -> tuple[str, dict[str, str]]:
    """Return the id of the source, and short name -> id of the references."""
    from platodef_cli.audit.inputs import BUILTIN, BUILTIN_REFERENCES
    from platodef_cli.encoders.reference import DEFAULT_REFERENCES, parse

    others = list(models) if source is not None else list(models[1:])
    others += reference or []
    suspect = source if source is not None else models[0]
    names: dict[str, str] = {}
    for uri in others or (BUILTIN_REFERENCES if suspect.startswith(BUILTIN) else DEFAULT_REFERENCES):
        name = parse(uri.removeprefix(PREFIX)).short_name + ("-text" if is_text(uri) else "")
        if name in names:
            raise UsageError(f"two references are called {name!r}; leave one out, or rename its folder")
        names[name] = uri
    return suspect, names


def _images(images: str | None, source: str) -> str:
    """Return the image source: what the user gave, or the built-in images for a built-in encoder."""
    from platodef_cli.audit.inputs import BUILTIN, BUILTIN_IMAGES

    if images is None and not source.startswith(BUILTIN):
        raise UsageError(
            "no images; give --images with a folder, FILE.parquet, hf://datasets/... or builtin:shapes"
        )
    return BUILTIN_IMAGES if images is None else images


def _extract_shards(
    session: Session,
    work: "Extracting",
    folder: Path,
    images: str,
    *,
    rows: int | None,
    limit: int | None,
    seed: int,
    chosen: Chosen,
) -> None:
    """Extract into a folder of shards."""
    from dataclasses import replace

    from platodef_cli.features.text_references import trusted
    from platodef_cli.jobs.extraction import SHARD_ROWS, image_pieces
    from platodef_cli.jobs.inputs import pinned_id

    # every worker shall take the same commit, whatever a branch says meanwhile
    pinned = {
        uri: (PREFIX if is_text(uri) else "")
        + pinned_id(uri.removeprefix(PREFIX), None, offline=work.offline)[0]
        for _, uri in work.uris
    }
    revision = dict(work.suspect).get("revision")
    if revision is not None:
        source = dict(work.uris)[SOURCE]
        pinned[source] = pinned_id(source, revision, offline=work.offline)[0]
        own = tuple((name, value) for name, value in work.suspect if name != "revision")
        work = replace(work, suspect=own)
    work = replace(
        work,
        uris=tuple((name, pinned[uri]) for name, uri in work.uris),
        poolings=tuple((pinned[uri], how) for uri, how in work.poolings),
    )
    with session.progress.step("listing images"):
        pieces = image_pieces(
            images,
            rows=rows or SHARD_ROWS,
            limit=limit,
            seed=seed,
            offline=work.offline,
            columns=work.columns,
            warn=session.warn,
        )
    if work.written:
        if work.captions is None and any("start" not in piece.spec for piece in pieces):
            raise UsageError(
                "text references of images in several files: say where the sentences of all of them come "
                f"from, with --captions {CHOICES}"
            )
        origin = work.captions or "the column of captions where there is one, else templates of class names"
        session.warn(trusted(list(work.written), origin))
    result = run_shards(session, work, pieces, folder, chosen, "extracting shards")
    session.finish(
        f"{result.total('rows')} rows in {len(result.made)} shards in {folder}, {result.before} of them from "
        "an earlier run"
    )
