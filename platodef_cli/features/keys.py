"""Keys of the feature cache: everything that the bytes of an entry depend on."""

import hashlib
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from platodef_cli.encoders import BACKENDS
from platodef_cli.encoders.bounded import at_once
from platodef_cli.encoders.computed_by import encoding_libraries
from platodef_cli.encoders.interface import Encoder
from platodef_cli.features.interface import Variant
from platodef_cli.features.pipeline import ExtractionJob
from platodef_cli.images import SOURCES
from platodef_cli.images.decode import DECODE_VERSION, MAX_BYTES, MAX_PIXELS
from platodef_cli.images.interface import ImageSource
from platodef_cli.plugins import plugin_of, releases

FEATURE_VERSION = 1  # part of the cache key: raise it when the same inputs give other bytes


def feature_key(source: ImageSource, encoder: Encoder, job: ExtractionJob, batch_size: int) -> dict[str, Any]:
    """Return the key of one shard of one encoder.

    Args:
        source: Of the images.
        encoder: Its precision is that of its record.
        job: Images and variant.
        batch_size: Most images per call of the encoder.
    """
    record = encoder.record
    digests = hashlib.sha256()
    for row in job.rows:
        digests.update(source.refs[row].digest.encode())
    return {
        "version": FEATURE_VERSION,
        "decoder": [DECODE_VERSION, MAX_PIXELS, MAX_BYTES],
        "libraries": _libraries(),
        "encoder": record.digest,
        "architecture": record.architecture,
        "transform": record.transform.model_dump(mode="json"),
        "geometry": asdict(encoder.geometry),
        "pooling": record.pooling,
        "dtype": record.dtype,
        "device": str(getattr(encoder, "device", "cpu")),
        "batch_size": at_once(encoder, batch_size),
        "images": digests.hexdigest(),
        "variant": job.name,
        **plugin_key(encoder, source, job.variant),
    }


def plugin_key(*taking_part: Encoder | ImageSource | Variant | None) -> dict[str, list[str]]:
    """Return what a cache key says of the plug-ins that encoders, images or a variant are from.

    Names and digests do not tell the versions of a plug-in's code apart. Without plug-ins nothing is added,
    so that keys do not depend on what is merely installed.
    """
    plugins = []
    for each in taking_part:
        plugins.append(plugin_of(each))
        backend = getattr(getattr(each, "record", None), "backend", "")
        scheme = str(getattr(each, "uri", "")).partition("://")[0]
        plugins += [BACKENDS.plugin(backend), SOURCES.plugin(scheme)]
    named = releases(*plugins)
    return {"plug-ins": list(named)} if named else {}


@lru_cache
def _libraries() -> dict[str, str]:
    """Return the versions of the libraries that decode, resize and encode."""
    return {"pillow": version("pillow"), **encoding_libraries()}
