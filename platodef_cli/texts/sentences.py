"""Which sentences stand for an image: a column of captions, class templates, or a file of captions."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platodef_cli.disk import canonical_json
from platodef_cli.errors import UsageError
from platodef_cli.images.interface import ImageSource, caption_column
from platodef_cli.texts.names import BY_CLASS, COLUMN
from platodef_cli.texts.templates import class_sentences

CAPTION_COLUMNS = ("id", "sha256", "caption")
"""Columns of a file of captions: id and SHA-256 of the image, and the sentence."""


@dataclass(frozen=True)
class Sentences:
    """The sentences of all images of a source.

    Attributes:
        rows: One or more sentences per image; several are averaged.
        origin: Where they come from, in words for a report.
    """

    rows: Sequence[tuple[str, ...]]
    origin: str

    @property
    def digest(self) -> str:
        """SHA-256 over all of them, in order."""
        return hashlib.sha256(canonical_json([list(row) for row in self.rows]).encode()).hexdigest()


def sentences_of(source: ImageSource, captions: str | Path | None, templates: str) -> Sentences:
    """Return the sentences of every image.

    Args:
        source: The images, opened with captions.
        captions: ``column``, ``templates`` or a file; None takes a column where there is one, else templates.
        templates: Set of templates for ``templates``.

    Raises:
        UsageError: An image has none; the message names it and the column.
    """
    way = None if captions is None else str(captions)
    if way is None:
        way = COLUMN if caption_column(source) is not None else BY_CLASS
        if way == BY_CLASS and source.classes is None:
            raise UsageError(
                "a text reference needs sentences, and these images have neither captions nor labels; name a "
                "column with --caption-column, or make captions with `platodef caption` for --captions FILE"
            )
    if way == COLUMN:
        return _by_column(source)
    if way == BY_CLASS:
        return _by_class(source, templates)
    return read_captions(source, Path(way))


def _by_column(source: ImageSource) -> Sentences:
    column = caption_column(source)
    if column is None:
        raise UsageError(
            "these images have no column of captions (caption, text, ...); name it with --caption-column, or "
            "give --captions templates or a file of captions"
        )
    rows = [ref.captions for ref in source.refs]
    lacking = [number for number, row in enumerate(rows) if not row]
    if lacking:
        raise UsageError(
            f"image {source.refs[lacking[0]].id!r} has no caption in column {column!r}"
            + (f" ({len(lacking)} of {len(rows)} images have none)" if len(lacking) > 1 else "")
            + "; add it, leave the image out, or make captions with `platodef caption`"
        )
    return Sentences(rows, f"the images' column {column!r}")


def _by_class(source: ImageSource, templates: str) -> Sentences:
    if source.classes is None:
        raise UsageError("--captions templates: these images have no labels to make sentences of")
    classes = class_sentences(source.classes, templates)
    rows = []
    for ref in source.refs:
        if ref.label is None:
            raise UsageError(f"image {ref.id!r} has no label, so that no template can be filled")
        rows.append(classes[ref.label])
    return Sentences(rows, f"the class names in the templates {templates!r}")


def read_captions(source: ImageSource, path: Path) -> Sentences:
    """Return the captions of a file that ``platodef caption`` wrote, found by the SHA-256 of the images.

    Raises:
        UsageError: The file is none of these, or lacks an image.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        columns = set(table.column_names)
        missing = next((name for name in CAPTION_COLUMNS if name not in columns), None)
        if missing is not None:
            raise UsageError(f"{path} has no column {missing!r}; give a file that `platodef caption` wrote")
        pairs = zip(table["sha256"].to_pylist(), table["caption"].to_pylist(), strict=True)
        said = {sha: text for sha, text in pairs if isinstance(text, str) and text.strip()}
        stored = (table.schema.metadata or {}).get(b"platodef.captioner", b"").decode("utf-8", "replace")
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"cannot read {path} as parquet: {' '.join(str(error).split())[:160]}") from None
    rows = _found(source, said, path)
    by = f" made by {stored}" if stored else ""
    return Sentences(rows, f"captions{by} ({path.name})")


def _found(source: ImageSource, said: Mapping[Any, str], path: Path) -> list[tuple[str, ...]]:
    lacking = [ref.id for ref in source.refs if ref.digest not in said]
    if lacking:
        raise UsageError(
            f"{path} has no caption of image {lacking[0]!r} in its column 'caption' ({len(lacking)} of "
            f"{len(source.refs)} images have none); run `platodef caption` on these images again"
        )
    return [(said[ref.digest],) for ref in source.refs]
