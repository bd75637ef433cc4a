"""What searches found, in the cache: an entry per encoder and search, for interrupted audits to go on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.inputs import gradient_precision
from platodef_cli.disk import save_tensors
from platodef_cli.encoders.bounded import at_once
from platodef_cli.encoders.computed_by import encoding_libraries
from platodef_cli.encoders.interface import Encoder
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.keys import plugin_key
from platodef_cli.images.interface import ImageSource, digest_of
from platodef_cli.search import SEARCH_KINDS
from platodef_cli.search.interface import SearchConfig, SearchedTrigger, SearchResult
from platodef_cli.search.planting import PLANTING_VERSION, Planted
from platodef_cli.search.run import SEARCH_VERSION
from platodef_cli.search.statistics import Effect

REFERENCE_SEED = 0  # of every audit's searches on the references: the user's seed draws those on the suspect


class SearchStore:
    """The searches of an audit in the cache.

    Args:
        cache: The cache, or None: then nothing is found and nothing kept.
        config: The audit.
        settings: Its searches.
        images: Where images come from.
        rows: Seed -> the images that are searched with.
    """

    def __init__(
        self,
        cache: FeatureCache | None,
        config: AuditConfig,
        settings: SearchConfig,
        images: ImageSource,
        rows: Mapping[int, Sequence[int]],
    ):
        self._cache, self._config, self._settings = cache, config, settings
        self._images = images
        self._digests = {seed: digest_of(images, chosen) for seed, chosen in rows.items()}

    def read(self, encoder: Encoder, number: int, seed: int) -> SearchResult | None:
        """Return what a search of an encoder found, or None where it is not in the cache."""
        if self._cache is None:
            return None
        folder = self._cache.load_artifact("search", self._key(encoder, number, seed))
        return None if folder is None else _read(folder)

    def write(self, encoder: Encoder, number: int, seed: int, result: SearchResult) -> None:
        """Keep what a search of an encoder found, unless the cache cannot be written."""
        if self._cache is not None:
            key = self._key(encoder, number, seed)
            self._cache.keep_artifact("search", key, lambda folder: _write(folder, result))

    def read_control(
        self, encoder: Encoder, number: int, seed: int, planted: Mapping[str, object]
    ) -> tuple[SearchResult, Planted] | None:
        """Return what a search found in a reference with a planted backdoor, or None where nobody searched.

        Args:
            encoder: The reference.
            number: Place of the search.
            seed: Of the planting and of the search.
            planted: JSON values that decide the backdoor.
        """
        if self._cache is None:
            return None
        folder = self._cache.load_artifact("search", self._control_key(encoder, number, seed, planted))
        if folder is None:
            return None
        return _read(folder), Planted(**json.loads((folder / "planted.json").read_text()))

    def write_control(
        self,
        encoder: Encoder,
        number: int,
        seed: int,
        planted: Mapping[str, object],
        found: tuple[SearchResult, Planted],
    ) -> None:
        """Keep what a search found in a reference with a planted backdoor, see :meth:`read_control`."""

        def write(folder: Path) -> None:
            _write(folder, found[0])
            (folder / "planted.json").write_text(json.dumps(asdict(found[1])))

        if self._cache is not None:
            self._cache.keep_artifact("search", self._control_key(encoder, number, seed, planted), write)

    def _control_key(
        self, encoder: Encoder, number: int, seed: int, planted: Mapping[str, object]
    ) -> dict[str, object]:
        # the images are those that references are searched with, whatever the seed of the control
        return {
            **self._key(encoder, number, REFERENCE_SEED),
            "seed": seed,
            "planted": {"version": PLANTING_VERSION, **json.loads(json.dumps(planted))},
        }

    def _key(self, encoder: Encoder, number: int, seed: int) -> dict[str, object]:
        record, config = encoder.record, self._config
        return {
            "version": SEARCH_VERSION,
            "libraries": encoding_libraries(),
            "encoder": record.digest,
            "transform": record.transform.model_dump(mode="json"),
            "pooling": record.pooling,
            "dtype": record.dtype,
            "gradients": gradient_precision(config, encoder),
            "device": getattr(encoder, "device", config.device),
            "images": self._digests[seed],
            "settings": json.loads(json.dumps(self._settings.key(number))),
            "seed": seed,
            "images at once": at_once(encoder, config.batch_size, gradients=True),
            **plugin_key(encoder, self._images),
        }


def _write(folder: Path, result: SearchResult) -> None:
    save_tensors({"values": result.variant.values}, folder / "values.safetensors")
    names = [entry.name for entry in fields(result.variant) if entry.name != "values"]
    described = {
        "trigger": {name: getattr(result.variant, name) for name in names},
        "budget": result.budget,
        "steps": result.steps,
        "effect": asdict(result.effect),
        "draws": result.draws,
        "held_out": result.held_out,
    }
    (folder / "found.json").write_text(json.dumps(described))


def _read(folder: Path) -> SearchResult:
    values = load_file(folder / "values.safetensors")["values"]
    entry = json.loads((folder / "found.json").read_text())
    return SearchResult(
        _trigger(entry["trigger"], values),
        entry["budget"],
        entry["steps"],
        Effect(**entry["effect"]),
        tuple(entry["draws"]),
        entry["held_out"],
    )


def _trigger(described: Mapping[str, Any], values: Tensor) -> SearchedTrigger:
    # JSON has no tuples
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in described.items()
    }
    trigger: type[SearchedTrigger] = SEARCH_KINDS.load(given["kind"]).trigger
    return trigger(values=values, **given)
