"""Chooses the precision of an encoder's forward passes, and keeps the choice: equal audits compute alike."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from platodef_cli.encoders.computed_by import encoding_libraries
from platodef_cli.encoders.interface import Encoder, to_levels
from platodef_cli.encoders.precision import Comparison, compare, may_be_faster
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.interface import Variant
from platodef_cli.features.keys import plugin_key
from platodef_cli.features.sampled import pictures_of
from platodef_cli.images.interface import ImageSource, digest_of

_VERSION = 1  # part of the cache key: raise it when the comparison changes
_IMAGES = 8


def choose_precision(
    encoder: Encoder,
    wanted: str,
    *,
    device: str,
    dtype: str,
    source: ImageSource,
    rows: Sequence[int],
    variants: Sequence[Variant] = (),
    cache: FeatureCache | None = None,
    warn: Callable[[str], None],
) -> str:
    """Tune an encoder to bfloat16 where that is wanted, or where it is faster and gives the same features.

    Args:
        encoder: Not yet bounded.
        wanted: ``auto``, ``float32`` or ``bfloat16``.
        device: Torch device.
        dtype: Precision of its weights; bfloat16 weights leave nothing to choose.
        source: The images.
        rows: Some of them, the first usable ones of which are looked at.
        variants: Changes under which both precisions have to agree too.
        cache: Keeps the choice, or None.
        warn: Told where bfloat16 was asked for and gives other features.

    Returns:
        Why ``auto`` does not use a processor that is built for bfloat16; empty where there is nothing to say.

    Raises:
        ImageError: All images that were tried are broken.
        PlatodefError: The encoder fails in float32, or the cache cannot be written.
    """
    if dtype != "float32" or wanted == "float32":
        return ""
    if wanted == "auto" and not may_be_faster(device, encoder.geometry):
        return ""
    found = _compared(encoder, source, rows, variants, cache)
    if wanted == "auto" and not found.faster:
        return f"bfloat16 takes {found.time:.0%} of the time"
    if not found.same and wanted == "auto":
        return f"bfloat16 gives other features, cosine {found.cosine:.4f}"
    if not found.same:
        warn(
            f"encoder {encoder.record.name!r} gives other features in bfloat16, cosine {found.cosine:.4f}; "
            "--precision auto takes bfloat16 only where they are the same"
        )
    encoder.tune(forward_dtype="bfloat16")
    return ""


def _compared(
    encoder: Encoder,
    source: ImageSource,
    rows: Sequence[int],
    variants: Sequence[Variant],
    cache: FeatureCache | None,
) -> Comparison:
    record = encoder.record
    key = {
        "version": _VERSION,
        "libraries": encoding_libraries(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "encoder": record.digest,
        "transform": record.transform.model_dump(mode="json"),
        "pooling": record.pooling,
        "device": str(getattr(encoder, "device", "cpu")),
        "images": digest_of(source, rows[: 4 * _IMAGES]),
        "variants": [variant.name for variant in variants],
        **plugin_key(encoder, source, *variants),
    }
    stored = None if cache is None else cache.load_artifact("precision", key)
    if stored is not None:
        return Comparison(**json.loads((stored / "found.json").read_text()))
    found = compare(encoder, _pixels(encoder, source, rows, variants))
    if cache is not None:
        text = json.dumps(asdict(found))

        def write(folder: Path) -> None:
            (folder / "found.json").write_text(text)

        cache.keep_artifact("precision", key, write)
    return found


def _pixels(
    encoder: Encoder, source: ImageSource, rows: Sequence[int], variants: Sequence[Variant]
) -> Tensor:
    """Return a few images, then one under every change."""
    pixels = pictures_of(source, [encoder.geometry], rows, _IMAGES).pixels[encoder.geometry]
    levels = to_levels(pixels)
    changed = []
    for number, variant in enumerate(variants):
        few = levels[number % len(levels)][None]
        change = variant(few, torch.tensor([number]))
        changed.append(change if pixels.dtype == torch.uint8 else change / 255)
    return torch.cat([pixels, *changed])
