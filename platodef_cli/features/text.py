"""Features of text references: of the sentences of an image, whatever was done to its pixels.

Under a change of the images the sentence of the clean image stays, because a caption comes with the image
and not from its pixels. Where it is made again from the changed pixels (``--recaption``), the captioner is
what sees the trigger.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from platodef_cli.disk import canonical_json
from platodef_cli.encoders.computed_by import encoding_libraries
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import CLEAN, Extraction
from platodef_cli.features.shard import Shard
from platodef_cli.progress import SILENT, Progress
from platodef_cli.texts.sentences import Sentences
from platodef_cli.texts.tower import TOWER_VERSION, TextTower

_SHARD = 256  # images per cache entry

Again = Callable[[str, Sequence[int]], Sequence[tuple[str, ...]]]
"""(variant, rows of the source) -> sentences made from the changed images."""


def with_texts(
    extraction: Extraction,
    towers: Mapping[str, TextTower],
    sentences: Sentences,
    *,
    cache: FeatureCache | None = None,
    batch_size: int = 64,
    again: Again | None = None,
    progress: Progress = SILENT,
) -> Extraction:
    """Return an extraction with the features of text references beside those of encoders.

    Args:
        extraction: Features of encoders; it says which images can be used.
        towers: Name -> text tower.
        sentences: Of every image of the source.
        cache: Where finished features are kept, or None.
        batch_size: Sentences at once.
        again: Makes the sentences of changed images; None keeps those of the clean images.
        progress: Receives the steps.

    Raises:
        IncompleteError: A tower gives NaN.
    """
    values: dict[tuple[str, str], Tensor] = dict(extraction.values)
    hits = misses = 0
    with progress.step("reading sentences", len(towers) * len(extraction.indices)) as task:
        for variant, indices in extraction.indices.items():
            rows = indices.tolist()
            if again is None or variant == CLEAN:
                texts = [sentences.rows[row] for row in rows]
            else:
                texts = list(again(variant, rows))
            for name, tower in towers.items():
                values[name, variant], found, computed = _features(tower, texts, cache, batch_size)
                hits, misses = hits + found, misses + computed
                task.advance(note=f"{name}, {variant}")
    return replace(extraction, values=values, hits=extraction.hits + hits, misses=extraction.misses + misses)


def _features(
    tower: TextTower, texts: Sequence[tuple[str, ...]], cache: FeatureCache | None, batch_size: int
) -> tuple[Tensor, int, int]:
    """Return ``[n, D]`` of the sentences of n images, and how many shards came from the cache and did not."""
    parts: list[Tensor] = [torch.empty(0, tower.dim)]
    hits = misses = 0
    for start in range(0, len(texts), _SHARD):
        part = texts[start : start + _SHARD]
        key = _key(tower, part)
        shard = cache.load(key, images=len(part), dim=tower.dim) if cache else None
        if shard is None:
            shard = Shard(sentence_features(tower, part, batch_size), torch.arange(len(part)), ())
            misses += 1
            if cache:
                cache.store(key, shard)
        else:
            hits += 1
        parts.append(shard.features)
    return torch.cat(parts), hits, misses


def sentence_features(tower: TextTower, texts: Sequence[tuple[str, ...]], batch_size: int = 64) -> Tensor:
    """Return the unit vectors ``[n, D]`` of the mean of every image's sentences; equal ones are read once.

    Args:
        tower: Reads them.
        texts: One or more sentences for each of n images.
        batch_size: Sentences at once.

    Raises:
        IncompleteError: The tower gives NaN.
    """
    distinct = list(dict.fromkeys(text for row in texts for text in row))
    place = {text: number for number, text in enumerate(distinct)}
    vectors = tower.embed(distinct, batch_size=batch_size)
    means = torch.stack([vectors[[place[text] for text in row]].mean(dim=0) for row in texts])
    return torch.nn.functional.normalize(means, dim=1)


def _key(tower: TextTower, texts: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    record = tower.record
    return {
        "text": TOWER_VERSION,
        "libraries": encoding_libraries(),
        "encoder": record.digest,
        "architecture": record.architecture,
        "dtype": record.dtype,
        "device": str(tower.device),
        "sentences": hashlib.sha256(canonical_json([list(row) for row in texts]).encode()).hexdigest(),
    }
