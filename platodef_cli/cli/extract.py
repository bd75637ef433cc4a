"""``platodef extract``."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from platodef_cli import environment
from platodef_cli.cli import options
from platodef_cli.cli.features import features_target, write_features
from platodef_cli.cli.outputs import STANDARD_STREAM
from platodef_cli.cli.session import Session
from platodef_cli.encoders.pooling import poolings_of
from platodef_cli.errors import UsageError
from platodef_cli.texts.names import PREFIX, is_text

if TYPE_CHECKING:
    from platodef_cli.encoders.interface import Encoder
    from platodef_cli.features.extract import Extraction
    from platodef_cli.features.interface import FeatureTuples, Variant
    from platodef_cli.images.interface import ImageSource
    from platodef_cli.records import EncoderRecord

RECORD_SOURCE, RECORD_REFERENCES = "record.source", "record.references"
_SOURCE = "source"

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
    batch_size: options.BatchSize = 64,
    memory_limit: options.MemoryLimit = 8.0,
    time_limit: options.TimeLimit = None,
    require_isolation: options.RequireIsolation = False,
) -> None:
    """Extract features of the same images by a source and its references, in one decoding pass."""
    source, names = _roles(models, source, reference)
    poolings = poolings_of(pooling or (), source, tuple(names.values()))
    written = {name: uri for name, uri in names.items() if is_text(uri)}
    pictured = _images(images, source)
    target = features_target(output)
    without_network = options.offline(offline)
    if without_network:
        environment.go_offline()
    from platodef_cli.encoders.bounded import bounded
    from platodef_cli.encoders.load import open_encoder
    from platodef_cli.features.cache import FeatureCache
    from platodef_cli.features.extract import Request
    from platodef_cli.features.extract import extract as run
    from platodef_cli.features.text_references import TextOptions, open_text_references
    from platodef_cli.images.columns import Columns
    from platodef_cli.images.open import open_source

    session.mention_idle_gpu(device)
    variants = _variants(variant or ())
    pictures = open_source(
        pictured,
        limit=limit,
        seed=seed,
        offline=without_network,
        columns=Columns(image_column, label_column, not no_labels, caption_column, bool(written)),
        warn=session.warn,
    )
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
        "progress": session.progress,
    }
    cache = None if no_cache else FeatureCache(cache_dir, progress=session.progress)
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
    with ExitStack() as stack:
        encoders: dict[str, Encoder] = {}
        for name, uri in {_SOURCE: source, **names}.items():
            if name in written:
                continue
            own: dict[str, Any] = {**suspect, "isolate": True} if name == _SOURCE else {"name": name}
            opened = open_encoder(uri, **own, **common, pooling=poolings[uri])
            stack.callback(opened.close)
            encoders[name] = bounded(
                opened,
                limit_gb=memory_limit,
                most=batch_size,
                warn=session.progress.warn,
                gradients=False,
            )
        requests = [Request(), *(Request(entry) for entry in variants)]
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
                encoders[_SOURCE].geometry,
                cache=cache,
                batch_size=batch_size,
                progress=session.progress,
            )
    towers = {} if texts is None else texts.towers
    found = {name: encoder.record for name, encoder in encoders.items()}
    found |= {name: tower.record for name, tower in towers.items()}
    # in the order in which they were given
    records = {name: found[name] for name in (_SOURCE, *names)}
    tuples = _tuples(pictures, records, extraction, [entry.name for entry in variants])
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


def _variants(names: list[str] | tuple[()]) -> "list[Variant]":
    from platodef_cli.errors import UnknownNameError
    from platodef_cli.triggers.battery import battery

    # the triggers and controls of plug-ins, by the names of their rows
    named = battery(extra=names)[len(battery()) :]
    known = {item.variant.name: item.variant for item in battery()} | {
        item.family: item.variant for item in named
    }
    for name in names:
        if name not in known:
            raise UnknownNameError("trigger or control", name, known)
    return [known[name] for name in dict.fromkeys(names)]


def _tuples(
    pictures: "ImageSource",
    encoders: "dict[str, EncoderRecord]",
    extraction: "Extraction",
    variants: list[str],
) -> "FeatureTuples":
    """Put clean rows first, then the rows of every variant, into one set of tuples."""
    import torch

    from platodef_cli.features.extract import CLEAN
    from platodef_cli.features.file import describe
    from platodef_cli.features.interface import FeatureTuples
    from platodef_cli.features.shard import canonical_json

    kinds = [CLEAN, *variants]
    rows = torch.cat([extraction.indices[kind] for kind in kinds]).tolist()
    refs = [pictures.refs[row] for row in rows]
    values = {name: torch.cat([extraction.features(name, kind)[1] for kind in kinds]) for name in encoders}
    records = {name: record for name, record in encoders.items() if name != _SOURCE}
    source = encoders[_SOURCE]
    labels = [ref.label for ref in refs]
    counts = torch.tensor([len(extraction.indices[kind]) for kind in kinds])
    metadata = describe(source, records, refs, images=pictures.uri, variants=kinds)
    # The whole records travel along, so that heads fitted on this file know what they judge.
    metadata[RECORD_SOURCE] = canonical_json(source.model_dump(mode="json"))
    metadata[RECORD_REFERENCES] = canonical_json(
        [entry.model_dump(mode="json") for entry in records.values()]
    )
    if pictures.classes is not None:
        metadata["classes"] = canonical_json(list(pictures.classes))
    return FeatureTuples(
        source=values[_SOURCE],
        references={name: values[name] for name in records},
        labels=None if None in labels else torch.tensor(labels, dtype=torch.int64),
        variants=torch.repeat_interleave(torch.arange(len(kinds)), counts) if variants else None,
        metadata=metadata,
        ids=tuple(ref.id for ref in refs),
    )
