"""The heads of an audit: given, cached, or fitted on its fit images."""

from pathlib import Path
from typing import Literal

import torch

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.inputs import Inputs, Split
from platodef_cli.audit.steps.samples import Features
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.keys import plugin_key
from platodef_cli.heads.card import HeadCard
from platodef_cli.heads.config import preset, preset_name
from platodef_cli.heads.fit import fit_heads
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.pretrained import check_match, load_heads, read_description, save_heads
from platodef_cli.images.interface import digest_of
from platodef_cli.progress import Progress
from platodef_cli.records import HeadRecord, Metric
from platodef_cli.temporary import TemporaryFolder

HEADS_VERSION = 2  # part of the cache key: raise it when the same tuples give other heads


def obtain_heads(
    inputs: Inputs,
    features: Features,
    split: Split,
    config: AuditConfig,
    cache: FeatureCache | None,
    progress: Progress,
) -> tuple[Heads, HeadRecord]:
    """Load the given heads, take them from the cache, or fit them on the fit images.

    Raises:
        UsageError: The given heads are damaged or belong to other encoders.
    """
    references = list(inputs.reference_records.values())
    if inputs.head is not None:
        heads = load_heads(inputs.head, device=config.device)
        check_match(heads, inputs.suspect.record, references)
        return heads, _record(inputs.head.name, "loaded", inputs.head, heads)
    tuples, rows = features.tuples(split.fit)
    fit_config = preset(config.preset)
    digest = digest_of(inputs.images, rows.tolist())
    card = HeadCard(
        name=f"{inputs.suspect.record.name}-{digest[:8]}",
        source=inputs.suspect.record,
        references=tuple(references),
        trained_on=f"{len(tuples)} images of {inputs.images.uri} (sha256 {digest})",
    )
    key = {
        "version": HEADS_VERSION,
        "torch": torch.__version__,
        "encoders": [
            # where an encoder lies does not change its heads
            record.model_dump(mode="json", exclude={"uri", "isolated"})
            for record in (inputs.suspect.record, *references)
        ],
        "images": digest,
        "uri": inputs.images.uri,
        "config": fit_config.to_json(),
        "seed": config.seed,
        "device": config.device,
        "batch_size": config.batch_size,
        **({} if inputs.texts is None else {"sentences": inputs.texts.sentences.digest}),
        **plugin_key(*inputs.encoders.values(), inputs.images),
    }
    stored = cache.load_artifact("heads", key) if cache else None
    if stored is not None:
        heads = load_heads(stored, device=config.device)
        return heads, _record(card.name, "fitted", stored, heads)
    heads = fit_heads(tuples, fit_config, seed=config.seed, device=config.device, progress=progress)
    if cache is not None:
        stored = cache.keep_artifact("heads", key, lambda folder: save_heads(folder, heads, card=card))
    if stored is not None:
        return heads, _record(card.name, "fitted", stored, heads)
    with TemporaryFolder("heads") as folder:
        save_heads(folder, heads, card=card)
        return heads, _record(card.name, "fitted", folder, heads)


def _record(name: str, origin: Literal["fitted", "loaded"], folder: Path, heads: Heads) -> HeadRecord:
    """Describe heads that lie in ``folder``; fresh and cached ones alike, so that reports do not differ."""
    description = read_description(folder)
    return HeadRecord(
        name=name,
        origin=origin,
        digest=description.sha256,
        trained_on=description.card.trained_on,
        fit_samples=heads.rows,
        preset=preset_name(heads.config),
        metrics=tuple(
            Metric(name=f"held-out {key}", value=value) for key, value in sorted(heads.metrics.items())
        ),
    )
