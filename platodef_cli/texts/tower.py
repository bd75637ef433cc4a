"""The text tower of an image-text model as a reference: sentences in, one feature vector per image out."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from platodef_cli.encoders.checks.preflight import Preflight
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.guards import memory_guard
from platodef_cli.encoders.load import usable_device
from platodef_cli.encoders.local import DTYPES, freeze, one_line
from platodef_cli.encoders.reference import parse
from platodef_cli.encoders.strict import check_keys
from platodef_cli.errors import IncompleteError, PlatodefError, RefusedError, UnsupportedError
from platodef_cli.progress import SILENT, Progress
from platodef_cli.records import TEXT_TOWER, EncoderRecord, TransformRecord
from platodef_cli.texts.files import LIMITS, TOKENIZER, require, resolve_with
from platodef_cli.texts.names import PREFIX

TOWER_VERSION = 1  # part of the cache key: raise it when the same sentences give other features
_NO_PIXELS = TransformRecord(
    size=(0, 0), resize=(0, 0), interpolation="none", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
)


class TextTower:
    """A frozen text tower.

    A feature is the mean of the unit vectors of an image's sentences, again of unit length, as CLIP averages
    the templates of a class (Radford et al. 2021, section 3.1.4).

    Attributes:
        record: Identity and provenance; its preprocessing is that of no pixels.
        dim: Length D of a feature.
        device: Where it runs.
    """

    def __init__(self, network: Any, words: Any, record: EncoderRecord, device: torch.device):
        self.record, self.dim = record, record.dim
        self.device = device
        self._network, self._words = network, words

    @torch.no_grad()
    def embed(self, texts: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """Return unit vectors ``[N, D]`` float32 on the CPU of N texts.

        Texts of one length are computed together, so that none is padded that the model does not pad.

        Raises:
            IncompleteError: A feature is NaN or infinite.
        """
        numbers = self._words.numbers(texts)
        result = torch.empty(len(texts), self.dim)
        by_length: dict[int, list[int]] = {}
        for place, tokens in enumerate(numbers):
            by_length.setdefault(len(tokens), []).append(place)
        for places in by_length.values():
            for start in range(0, len(places), batch_size):
                part = places[start : start + batch_size]
                features = self._features(torch.tensor([numbers[place] for place in part]))
                result[part] = torch.nn.functional.normalize(features, dim=1)
        if not bool(torch.isfinite(result).all()):
            raise IncompleteError(f"text tower {self.record.name!r} returned NaN; use --dtype float32")
        return result

    def _features(self, tokens: Tensor) -> Tensor:
        tokens = tokens.to(self.device)
        mask = {} if self._words.padded else {"attention_mask": torch.ones_like(tokens)}
        found = self._network.get_text_features(input_ids=tokens, **mask)
        features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
        if features.ndim != 2 or len(features) != len(tokens):
            raise ValueError(f"its text features have the shape {list(features.shape)}")
        return features.float().cpu()


def open_text(
    uri: str,
    *,
    name: str | None = None,
    offline: bool = False,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress = SILENT,
) -> TextTower:
    """Resolve, check and load the text tower of an image-text model of transformers or open_clip.

    Args:
        uri: ``text:`` before the id of a model: a folder, ``org/name[@revision]``.
        name: Short name; by default the last part of the id with ``-text`` behind it.
        offline: Use only what the cache holds.
        device: Where it runs.
        dtype: ``float32`` or ``bfloat16``.
        progress: Receives the steps.

    Raises:
        UsageError: The id is wrong, or the folder lacks a tokenizer.
        UnsupportedError: The model has no text tower.
        RefusedError: The model is unsafe.
    """
    reference = parse(uri.removeprefix(PREFIX))
    name = name or f"{reference.short_name}-text"
    resolved, checked = resolve_with(reference, TOKENIZER, offline=offline, progress=progress)
    with progress.step(f"loading {name}"):
        where = usable_device(device)
        network, words = _load(checked, where, DTYPES[dtype])
        tower = TextTower(
            network, words, _record(checked, name, PREFIX + resolved.uri, resolved.commit, dtype), where
        )
        try:
            probe = tower._features(torch.tensor(words.numbers(["a photo"])))
        except PlatodefError:
            raise
        except Exception as error:
            raise UnsupportedError(
                f"{checked.directory}: its text tower cannot be run on a sentence alone "
                f"({type(error).__name__}: {one_line(error)})"
            ) from error
        if not bool(torch.isfinite(probe).all()):
            check_keys(checked.directory, missing=network.platodef_missing, unexpected=())
            raise RefusedError(f"{checked.directory}: its text tower gives NaN; do not use this model")
        tower.dim = probe.shape[1]
        count = sum(p.numel() for p in network.parameters())
        tower.record = tower.record.model_copy(update={"dim": tower.dim, "parameters": count})
    return tower


def _record(checked: Preflight, name: str, uri: str, commit: str | None, dtype: str) -> EncoderRecord:
    return EncoderRecord(
        name=name,
        uri=uri,
        backend=checked.backend,
        architecture=checked.architecture,
        commit=commit,
        dim=0,
        parameters=0,
        pooling=TEXT_TOWER,
        dtype=dtype,
        transform=_NO_PIXELS,
        files=checked.files,
        digest=checked.digest,
        isolated=False,
    )


def _load(checked: Preflight, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Build the network strictly, from exactly the bytes that were examined."""
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    from platodef_cli.encoders.backends.transformers_loading import configuration, load
    from platodef_cli.texts.tokens import Words

    bundle = Bundle(Path(checked.directory), checked.files, checked.parameters, LIMITS)
    if checked.backend == "open_clip":
        from platodef_cli.texts.open_clip_text import load_open_clip_text

        with memory_guard(checked.directory, "give a smaller model"), torch.inference_mode(False):
            return load_open_clip_text(bundle, device, dtype)
    if checked.backend != "transformers":
        raise UnsupportedError(
            f"{checked.directory}: text towers are read from models of transformers and open_clip, not of "
            f"{checked.backend}, which has none"
        )
    require(checked, "tokenizer.json", "turns sentences into tokens")
    raw = bundle.json("config.json")
    kind = _network_class(raw, checked.directory)
    with memory_guard(checked.directory, "give a smaller model"), torch.inference_mode(False):
        config = configuration(bundle, raw, "sdpa" if kind._supports_sdpa else "eager")
        words = Words(bundle, config)
        state = {
            key: value for key, value in bundle.state_dict().items() if not key.endswith(".position_ids")
        }
        loaded = load(bundle, kind, config, state, {}, [str(n) for n in raw.get("architectures") or ()])
        network: Any = freeze(loaded.network, device, dtype, channels_last=False)
        network.platodef_missing = loaded.missing
    return network, words


def _network_class(raw: Mapping[str, Any], where: str) -> Any:
    """Return the class of transformers that has the text tower of a configuration.

    Raises:
        UnsupportedError: There is none.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    names = [str(name) for name in raw.get("architectures") or ()]
    mapped = MODEL_MAPPING_NAMES.get(str(raw.get("model_type")), ())
    for name in (*names, *((mapped,) if isinstance(mapped, str) else mapped)):
        kind: Any = getattr(transformers, name, None)
        native = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
        if native and hasattr(kind, "get_text_features"):
            return kind
    raise UnsupportedError(
        f"{where}: {raw.get('model_type')!r} of transformers has no text tower (get_text_features); give an "
        "image-text model such as SigLIP2 or CLIP"
    )
