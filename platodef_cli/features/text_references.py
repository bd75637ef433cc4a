"""Text references of a run: opened, given their sentences, and added to an extraction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from platodef_cli.encoders.geometry import Geometry
from platodef_cli.errors import UsageError
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import Extraction, Request, image_seeds, load_pixels
from platodef_cli.features.interface import Variant
from platodef_cli.features.text import with_texts
from platodef_cli.images.decode import ImageError
from platodef_cli.images.interface import ImageSource
from platodef_cli.plugins import blaming, plugin_of
from platodef_cli.progress import SILENT, Progress
from platodef_cli.texts.caption_store import CAPTION_BATCH, CaptionStore, caption_key, pixels_digest
from platodef_cli.texts.captioner import open_captioner
from platodef_cli.texts.names import check_sentences
from platodef_cli.texts.sentences import Sentences, sentences_of
from platodef_cli.texts.tower import TextTower, open_text

_BLOCK = 64  # changed images in memory at once


@dataclass(frozen=True)
class TextOptions:
    """What a user says about the sentences of text references.

    Attributes:
        captions: ``column``, ``templates`` or a file of captions; None chooses.
        templates: Set of templates.
        captioner: Id of a model that writes the captions; None: they are there.
        recaption: Captions of changed images are made again from their pixels.
    """

    captions: str | None = None
    templates: str = "clip-80"
    captioner: str | None = None
    recaption: bool = False


def trusted(names: Sequence[str], origin: str, *, again: bool = False) -> str:
    """Return what a user should know about the sentences that text references read.

    Args:
        names: Of the references.
        origin: Where the sentences come from.
        again: They are made again from changed images.
    """
    changed = (
        "under a change of the images they are made again from the changed ones"
        if again
        else "under a change of the images the sentence of the clean image stays"
    )
    return (
        f"{', '.join(names)}: the sentences are {origin}; {changed}. Who writes the sentences is "
        "trusted like a reference: a backdoored captioner is a backdoored reference"
    )


@dataclass(frozen=True)
class TextReferences:
    """The text references of a run.

    Attributes:
        towers: Name -> text tower.
        sentences: Of every image.
        source: The images.
        store: Makes captions of changed images again; None keeps those of the clean images.
    """

    towers: Mapping[str, TextTower]
    sentences: Sentences
    source: ImageSource
    store: CaptionStore | None = None

    @property
    def trust(self) -> str:
        """What a report says of the sentences: part of what a verdict has to trust."""
        return trusted(list(self.towers), self.sentences.origin, again=self.store is not None)

    def added_to(
        self,
        extraction: Extraction,
        requests: Sequence[Request],
        geometry: Geometry,
        *,
        cache: FeatureCache | None,
        batch_size: int,
        progress: Progress = SILENT,
    ) -> Extraction:
        """Return an extraction with the features of these references.

        Args:
            extraction: Of encoders.
            requests: What was extracted.
            geometry: Of the suspect: changed images are described as it sees them.
            cache: The feature cache, or None.
            batch_size: Sentences at once.
            progress: Receives the steps.
        """
        again = None
        if self.store is not None:
            variants = {request.name: request.variant for request in requests if request.variant is not None}

            def again(name: str, rows: Sequence[int]) -> Sequence[tuple[str, ...]]:
                return self._recaptioned(variants[name], rows, geometry, progress)

        return with_texts(
            extraction,
            self.towers,
            self.sentences,
            cache=cache,
            batch_size=batch_size,
            again=again,
            progress=progress,
        )

    def _recaptioned(
        self, variant: Variant, rows: Sequence[int], geometry: Geometry, progress: Progress
    ) -> Sequence[tuple[str, ...]]:
        """Return the captions of changed images."""
        assert self.store is not None
        texts: list[tuple[str, ...]] = []
        with progress.step(f"describing images under {variant.name}", len(rows)) as task:
            for start in range(0, len(rows), _BLOCK):
                part = rows[start : start + _BLOCK]
                pixels = load_pixels(self.source, [geometry], part)[geometry]
                with blaming(plugin_of(variant)):
                    changed = variant(pixels, image_seeds([self.source.refs[row] for row in part]))
                arrays = [image.permute(1, 2, 0).contiguous().numpy() for image in changed]
                digests = [pixels_digest(array.tobytes(), array.shape) for array in arrays]

                def load(places: Sequence[int], arrays: list = arrays) -> dict[int, Image.Image]:  # type: ignore[type-arg]
                    return {place: Image.fromarray(arrays[place]) for place in places}

                found = self.store.captions(digests, load, task=task)
                texts += [(text or "",) for text in found]
        return texts


def open_text_references(
    uris: Mapping[str, str],
    source: ImageSource,
    options: TextOptions,
    *,
    offline: bool = False,
    device: str = "cpu",
    dtype: str = "float32",
    cache: FeatureCache | None = None,
    progress: Progress = SILENT,
) -> TextReferences | None:
    """Open the text references of a run and find the sentences of its images.

    Args:
        uris: Name -> ``text:ID``.
        source: The images, opened with captions.
        options: Where the sentences come from.
        offline: Use only what the cache of the Hub holds.
        device: Where towers and captioner run.
        dtype: Of their weights.
        cache: Keeps captions, or None.
        progress: Receives the steps.

    Returns:
        None where there are none.

    Raises:
        UsageError: An image has no sentence, or two references are the same.
        PlatodefError: A model cannot be opened.
    """
    check_sentences(list(uris.values()), options.captions, options.captioner, options.recaption)
    if not uris:
        return None
    # sentences that are not there shall cost no download
    ready = None if options.captioner else sentences_of(source, options.captions, options.templates)
    towers = open_towers(uris, offline=offline, device=device, dtype=dtype, progress=progress)
    store = None
    if options.captioner is not None:
        captioner = open_captioner(
            options.captioner, offline=offline, device=device, dtype=dtype, progress=progress
        )
        store = CaptionStore(captioner, None if cache is None else cache.captions(caption_key(captioner)))
        ready = described(source, store, progress=progress)
    assert ready is not None
    return TextReferences(towers, ready, source, store if options.recaption else None)


def open_towers(
    uris: Mapping[str, str], *, offline: bool, device: str, dtype: str, progress: Progress = SILENT
) -> dict[str, TextTower]:
    """Open text towers, name -> ``text:ID``; the options are those of :func:`open_text_references`.

    Raises:
        UsageError: Two are the same.
        PlatodefError: One cannot be opened.
    """
    towers: dict[str, TextTower] = {}
    for name, uri in uris.items():
        tower = open_text(uri, name=name, offline=offline, device=device, dtype=dtype, progress=progress)
        twin = next((n for n, o in towers.items() if o.record.digest == tower.record.digest), None)
        if twin:
            raise UsageError(f"reference {uri} is the same as reference {twin!r}; give different references")
        towers[name] = tower
    return towers


def described(
    source: ImageSource,
    store: CaptionStore,
    *,
    batch_size: int = CAPTION_BATCH,
    progress: Progress = SILENT,
    failed: Callable[[str, str], object] = lambda name, reason: None,
) -> Sentences:
    """Return the captions of all images of a source; that of a broken image is empty.

    Args:
        source: The images.
        store: Makes captions, or knows them.
        batch_size: Images at once.
        progress: Receives the steps.
        failed: Told the id of every broken image, and why.
    """
    digests = [ref.digest for ref in source.refs]

    def load(places: Sequence[int]) -> dict[int, Image.Image]:
        images = {}
        for place in places:
            try:
                images[place] = source.open(place)
            except ImageError as error:
                failed(source.refs[place].id, error.reason)
        return images

    with progress.step(f"describing images by {store.captioner.name}", len(digests)) as task:
        found = store.captions(digests, load, batch_size=batch_size, task=task)
    rows = [(text,) if text else ("",) for text in found]
    return Sentences(rows, f"captions by {store.captioner.statement}")


def caption_file(path: Path, source: ImageSource, sentences: Sentences, statement: str) -> int:
    """Write the captions as ``id``, ``sha256``, ``caption`` to a parquet file; return how many there are.

    Raises:
        IncompleteError: The file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from platodef_cli.disk import explaining, replacing
    from platodef_cli.errors import IncompleteError

    kept = [
        (ref.id, ref.digest, row[0]) for ref, row in zip(source.refs, sentences.rows, strict=True) if row[0]
    ]
    columns = {name: [row[number] for row in kept] for number, name in enumerate(("id", "sha256", "caption"))}
    table = pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))
    table = table.replace_schema_metadata({"platodef.captioner": statement})
    with explaining(f"cannot write {path}", IncompleteError), replacing(path) as temporary:
        pq.write_table(table, temporary)
    return len(kept)
