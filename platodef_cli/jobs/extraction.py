"""Features of more images than fit into one file: a file of features per block of images."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from platodef_cli.disk import canonical_json
from platodef_cli.encoders.bounded import bounded
from platodef_cli.encoders.interface import Encoder
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.features.extract import CLEAN, Extraction, Request, extract
from platodef_cli.features.file import describe, save_features
from platodef_cli.features.interface import FeatureTuples, Variant
from platodef_cli.features.text_references import TextReferences, open_towers
from platodef_cli.heads.origin import RECORD_REFERENCES, RECORD_SOURCE
from platodef_cli.images.columns import Columns
from platodef_cli.images.decode import SUFFIXES
from platodef_cli.images.interface import ImageSource, digest_of
from platodef_cli.images.open import open_source
from platodef_cli.images.remote import REMOTE, fetched, listed
from platodef_cli.images.shards import shards_of
from platodef_cli.jobs.inputs import local_inputs, state_of
from platodef_cli.jobs.pieces import Counts, Piece
from platodef_cli.texts.names import BY_CLASS, COLUMN, PREFIX, TEMPLATES, is_text
from platodef_cli.texts.sentences import Sentences, sentences_of
from platodef_cli.texts.tower import TextTower
from platodef_cli.triggers.battery import battery

SOURCE = "source"
"""Name of the suspect among the encoders."""
SHARD_ROWS = 4096


def tuples_of(
    pictures: ImageSource,
    encoders: Mapping[str, Encoder | TextTower],
    extraction: Extraction,
    variants: list[str],
) -> FeatureTuples:
    """Put clean rows first, then the rows of every variant, into one set of tuples.

    Args:
        pictures: The images.
        encoders: Name -> encoder or text tower; the suspect is called :data:`SOURCE`.
        extraction: Their features.
        variants: Names of the variants.
    """
    kinds = [CLEAN, *variants]
    rows = torch.cat([extraction.indices[kind] for kind in kinds]).tolist()
    refs = [pictures.refs[row] for row in rows]
    values = {name: torch.cat([extraction.features(name, kind)[1] for kind in kinds]) for name in encoders}
    records = {name: encoder.record for name, encoder in encoders.items() if name != SOURCE}
    source = encoders[SOURCE].record
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
        source=values[SOURCE],
        references={name: values[name] for name in records},
        labels=None if None in labels else torch.tensor(labels, dtype=torch.int64),
        variants=torch.repeat_interleave(torch.arange(len(kinds)), counts) if variants else None,
        metadata=metadata,
        ids=tuple(ref.id for ref in refs),
    )


@contextmanager
def opened_encoders(
    uris: Mapping[str, str],
    suspect: Mapping[str, Any],
    common: Mapping[str, Any],
    batch_size: int,
    poolings: Mapping[str, str],
    warn: Any,
    tune: Callable[[str, Encoder], object],
) -> Iterator[dict[str, Encoder]]:
    """Open the suspect, isolated, and its references; each takes what the memory limit allows at once.

    Args:
        uris: Name -> id; the suspect is called :data:`SOURCE`.
        suspect: Options of :func:`open_encoder` for the suspect alone.
        common: Options for all.
        batch_size: Most images at once.
        poolings: Id -> pooling.
        warn: Told what the user should know.
        tune: Gets the name of every encoder and itself, before anything is computed.
    """
    with ExitStack() as stack:
        encoders: dict[str, Encoder] = {}
        for name, uri in uris.items():
            own: dict[str, Any] = {**suspect, "isolate": True} if name == SOURCE else {"name": name}
            opened = open_encoder(uri, **own, **common, pooling=poolings[uri])
            stack.callback(opened.close)
            tune(name, opened)
            encoders[name] = bounded(
                opened,
                limit_gb=suspect["memory_limit_gb"],
                most=batch_size,
                warn=warn,
                gradients=False,
            )
        yield encoders


@dataclass(frozen=True)
class Extracting:
    """Every block of images becomes a feature file.

    Attributes:
        uris: Name -> id of an encoder, as (name, id) pairs; the suspect, called :data:`SOURCE`, first.
        poolings: (id, pooling) pairs.
        suspect: (option, value) pairs of the suspect alone.
        common: (option, value) pairs of all encoders.
        batch_size: Most images at once.
        variants: Names of triggers and controls to apply as well.
        columns: Columns of tables, and whether labels are used.
        max_broken: Tolerated share of unusable images of a block.
        offline: Never use the network.
        forward_dtype: Precision of the forward passes, ``float32`` or ``bfloat16``.
        captions: Where the sentences of text references come from: ``column``, ``templates`` or a file; None
            chooses, which is the same for all blocks of one source only.
        templates: Set of templates.
    """

    uris: tuple[tuple[str, str], ...]
    poolings: tuple[tuple[str, str], ...]
    suspect: tuple[tuple[str, Any], ...]
    common: tuple[tuple[str, Any], ...]
    batch_size: int = 64
    variants: tuple[str, ...] = ()
    columns: Columns = Columns()
    max_broken: float = 0.05
    offline: bool = False
    forward_dtype: str = "float32"
    captions: str | None = None
    templates: str = TEMPLATES[0]

    @property
    def written(self) -> dict[str, str]:
        """Name -> id of the references that read."""
        return {name: uri for name, uri in self.uris if is_text(uri)}

    def settings(self) -> Mapping[str, Any]:
        """Return what the files depend on; encoders by what their files hold is noted in every shard."""
        common = dict(self.common)
        return {
            "kind": "extract",
            "encoders": [list(pair) for pair in self.uris],
            "digests": dict(self.digests()),
            "poolings": [list(pair) for pair in self.poolings],
            "dtype": common.get("dtype"),
            "forward_dtype": self.forward_dtype,
            "device": str(common.get("device")).partition(":")[0],
            "variants": list(self.variants),
            "columns": [self.columns.image, self.columns.label, self.columns.labels],
            "max_broken": self.max_broken,
            **({"sentences": self._sentences()} if self.written else {}),
        }

    def _sentences(self) -> list[str | None]:
        """Return what decides the sentences, beside the images; a file by its content."""
        given = self.captions
        if given not in (None, COLUMN, BY_CLASS):
            given = state_of(Path(given)).digest
        return [given, self.templates, self.columns.caption]

    def digests(self) -> list[tuple[str, str]]:
        """Return (name, SHA-256 of the files) of every encoder, or its commit."""
        texts = {name: uri.removeprefix(PREFIX) for name, uri in self.uris}
        return [(name, state_of(path).digest) for name, path in local_inputs(texts).items()]

    def start(self) -> "LiveExtracting":
        """Open the encoders."""
        return LiveExtracting(self)


class LiveExtracting:
    """Extracts features of blocks of images, by encoders that stay open."""

    def __init__(self, work: Extracting):
        self._work = work
        self._stack = ExitStack()
        self._notes: list[str] = []
        common = dict(work.common)
        self._towers = open_towers(
            work.written, offline=work.offline, device=common["device"], dtype=common["dtype"]
        )
        self._encoders = self._stack.enter_context(
            opened_encoders(
                {name: uri for name, uri in work.uris if name not in work.written},
                dict(work.suspect),
                common,
                work.batch_size,
                dict(work.poolings),
                self._notes.append,
                lambda _, encoder: encoder.tune(forward_dtype=work.forward_dtype),
            )
        )
        self._variants = named_variants(work.variants)
        self._source: tuple[str, ImageSource, Sentences | None] | None = None

    def make(self, piece: Piece, target: Path) -> Counts:
        """Write the features of a block of images."""
        with ExitStack() as stack:
            uri = piece.spec["uri"]
            if "start" in piece.spec:
                pictures, sentences = self._whole(piece)
                indices: range | None = range(piece.spec["start"], piece.spec["stop"])
            else:
                place = stack.enter_context(fetched(uri, piece.key)) if REMOTE.match(uri) else Path(uri)
                pictures, indices = self._open(str(place), {}), None
                # as a folder of shards names them
                name = piece.spec["images"]
                pictures.refs = [replace(ref, id=f"{name}/{ref.id}") for ref in pictures.refs]
                sentences = self._sentences(pictures)
            requests = [Request(None, indices), *(Request(entry, indices) for entry in self._variants)]
            extraction = extract(
                pictures,
                self._encoders,
                requests,
                batch_size=self._work.batch_size,
                max_broken_share=self._work.max_broken,
            )
            if sentences is not None:
                extraction = TextReferences(self._towers, sentences, pictures).added_to(
                    extraction,
                    requests,
                    self._encoders[SOURCE].geometry,
                    cache=None,
                    batch_size=self._work.batch_size,
                )
            names = [entry.name for entry in self._variants]
            every = {name: self._encoders.get(name) or self._towers[name] for name, _ in self._work.uris}
            tuples = tuples_of(pictures, every, extraction, names)
            metadata = {**tuples.metadata, "images": piece.spec.get("images", uri)}
            save_features(target, FeatureTuples(**{**vars(tuples), "metadata": metadata}))
        return {"rows": len(tuples), "broken": len(extraction.broken)}

    def _whole(self, piece: Piece) -> tuple[ImageSource, Sentences | None]:
        """Return the source of which a piece is some rows, and its sentences; it is opened once."""
        key = canonical_json([piece.spec["uri"], piece.spec.get("limit"), piece.spec.get("seed")])
        if self._source is None or self._source[0] != key:
            options = {name: piece.spec[name] for name in ("limit", "seed")}
            pictures = self._open(piece.spec["uri"], options)
            self._source = key, pictures, self._sentences(pictures)
        return self._source[1:]

    def _sentences(self, pictures: ImageSource) -> Sentences | None:
        """Return the sentences of every image; None where no reference reads."""
        if not self._towers:
            return None
        return sentences_of(pictures, self._work.captions, self._work.templates)

    def _open(self, uri: str, options: Mapping[str, Any]) -> ImageSource:
        return open_source(uri, offline=self._work.offline, columns=self._work.columns, **options)

    def close(self) -> None:
        """Close the encoders."""
        self._stack.close()


def named_variants(names: tuple[str, ...]) -> list[Variant]:
    """Return triggers and controls by their names.

    Raises:
        UnknownNameError: There is no such one.
    """
    # the triggers and controls of plug-ins, by the names of their rows
    named = battery(extra=names)[len(battery()) :]
    known = {item.variant.name: item.variant for item in battery()} | {
        item.family: item.variant for item in named
    }
    for name in names:
        if name not in known:
            raise UnknownNameError("trigger or control", name, known)
    return [known[name] for name in dict.fromkeys(names)]


def image_pieces(
    uri: str, *, rows: int, limit: int | None, seed: int, offline: bool, columns: Columns, warn: Any
) -> list[Piece]:
    """Return the pieces of an image source, in its order.

    A folder of parquet or tar files, and a pattern of remote ones, give one piece per file, which only the
    worker opens. Everything else is listed here and cut into blocks of ``rows`` images.

    Raises:
        UsageError: There is no such source, or a limit is given for files that nobody has counted.
    """
    files = _files(uri)
    if files is not None:
        if limit is not None:
            raise UsageError("--limit cannot be used with one shard per file; give fewer files instead")
        width = max(5, len(str(len(files))))
        return [
            Piece(
                f"part-{number:0{width}d}.safetensors",
                None if REMOTE.match(name) else name,
                key,
                {"uri": name, "images": os.path.basename(name)},
            )
            for number, (name, key) in enumerate(files)
        ]
    source = open_source(uri, limit=limit, seed=seed, offline=offline, columns=columns, warn=warn)
    count = len(source.refs)
    width = max(5, len(str(count // rows)))
    pieces = []
    for number, start in enumerate(range(0, count, rows)):
        stop = min(start + rows, count)
        spec = {"uri": uri, "start": start, "stop": stop, "limit": limit, "seed": seed, "images": source.uri}
        labels = [source.refs[row].label for row in range(start, stop)]
        said = [[list(source.refs[row].captions) for row in range(start, stop)], source.classes]
        key = canonical_json(
            [digest_of(source, range(start, stop)), labels, *(said if columns.captions else ())]
        )
        pieces.append(Piece(f"part-{number:0{width}d}.safetensors", None, key, spec))
    return pieces


def _files(uri: str) -> list[tuple[str, str]] | None:
    """Return the files of a source that is one, as (name, what tells its content); None for other sources."""
    if REMOTE.match(uri):
        return listed(uri)
    folder = Path(uri).expanduser()
    if not folder.is_dir():
        return None
    shards = shards_of(folder)
    if not shards or any(entry.suffix.lower() in SUFFIXES for entry in folder.iterdir()):
        return None
    return [(str(path.absolute()), "") for path in shards]
