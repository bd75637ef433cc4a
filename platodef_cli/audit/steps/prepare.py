"""Extracts every feature in one decoding pass, obtains the heads, calibrates the detectors."""

from collections.abc import Sequence

import torch

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.enough import check_count
from platodef_cli.audit.inputs import Inputs, Split, split
from platodef_cli.audit.state import AuditState, ProgressRecorder
from platodef_cli.audit.steps.heads import obtain_heads
from platodef_cli.audit.steps.samples import BANK_MOST, Features, Labelled, SuspectImages, wants_images
from platodef_cli.audit.steps.scoring import CalibratedDefences
from platodef_cli.features.access import EncoderAccess
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import Extraction, Request, extract
from platodef_cli.metrics.linear_probe import LinearProbe
from platodef_cli.progress import Progress
from platodef_cli.search.statistics import CleanStatistics
from platodef_cli.triggers.battery import battery


def prepare(
    config: AuditConfig, inputs: Inputs, cache: FeatureCache | None, recorder: ProgressRecorder
) -> AuditState:
    """Return an audit that is ready to probe: features, heads, thresholds.

    Raises:
        InconclusiveError: There are too few usable images.
        PlatodefError: An encoder or the images fail.
    """
    parts = split(len(inputs.images.refs), config.seed, config.sample)
    with recorder.timed("extract"):
        features = _extracted(parts, config, inputs, cache, recorder)
    with recorder.timed("heads"):
        heads, head = obtain_heads(inputs, features, parts, config, cache, recorder)
        test, rows = features.samples(parts.test)
        bank = features.samples(parts.fit, most=BANK_MOST)[0]
        calibration = features.samples(parts.calibration)[0]
        model = None if features.images is None else EncoderAccess(inputs.suspect, config.batch_size)
        with recorder.step("calibrating detectors", 2) as task:
            defences = CalibratedDefences(heads, bank, calibration, test, config, model, rows)
            task.advance()
            labelled = _labelled(inputs, features, parts, config)
            task.advance()
    clean, _ = features.tuples(None)
    return AuditState(
        config=config,
        inputs=inputs,
        parts=parts,
        features=features,
        heads=heads,
        head=head,
        defences=defences,
        test=test,
        rows=rows,
        labelled=labelled,
        statistics={
            features.suspect: CleanStatistics.of(clean.source),
            **{name: CleanStatistics.of(values) for name, values in clean.references.items()},
        },
        cache=cache,
        recorder=recorder,
    )


def _extracted(
    parts: Split, config: AuditConfig, inputs: Inputs, cache: FeatureCache | None, recorder: ProgressRecorder
) -> Features:
    """Return the features of the clean images, and of the probed ones under every change of the battery."""
    roles = (parts.fit, parts.calibration, parts.test)
    items = battery(config.battery, config.plugins)
    extraction = extract_variants(inputs, requests_of(config, parts), config, cache, recorder)
    pictures = None
    if wants_images(config):
        pictures = SuspectImages.of(inputs.images, inputs.suspect.geometry, items)
    features = Features(
        extraction,
        inputs.suspect.record.name,
        tuple(inputs.reference_records),
        tuple(inputs.references),
        pictures,
    )
    # broken images have dropped out
    usable = set(features.tuples(None)[1].tolist())
    counts = [len(usable.intersection(rows)) for rows in roles]
    check_count(counts, config, ready_heads=inputs.head is not None, usable=True)
    return features


def requests_of(config: AuditConfig, parts: Split) -> list[Request]:
    """Return the requests for the clean images, and for the probed ones under every change of the battery."""
    probed = parts.test[: config.probe_images]
    changed = (Request(item.variant, probed) for item in battery(config.battery, config.plugins))
    return [Request(None, parts.rows), *changed]


def extract_variants(
    inputs: Inputs,
    requests: Sequence[Request],
    config: AuditConfig,
    cache: FeatureCache | None,
    recorder: ProgressRecorder,
    progress: Progress | None = None,
) -> Extraction:
    """Return the features of all encoders under every request, decoding each image once.

    Args:
        inputs: Encoders and images.
        requests: Rows and variants.
        config: Batch size, tolerated share of broken images.
        cache: The feature cache, or None.
        recorder: Counts what the cache gave.
        progress: Receives the steps; the recorder by default.
    """
    extraction = extract(
        inputs.images,
        inputs.encoders,
        requests,
        cache=cache,
        batch_size=config.batch_size,
        max_broken_share=config.max_broken_share,
        progress=progress or recorder,
    )
    if inputs.texts is not None:
        extraction = inputs.texts.added_to(
            extraction,
            requests,
            inputs.suspect.geometry,
            cache=cache,
            batch_size=config.batch_size,
            progress=progress or recorder,
        )
    recorder.hits, recorder.misses = recorder.hits + extraction.hits, recorder.misses + extraction.misses
    return extraction


def _labelled(inputs: Inputs, features: Features, parts: Split, config: AuditConfig) -> Labelled | None:
    """Fit a linear probe on the fit images, where all images have labels of at least two classes."""
    refs = inputs.images.refs
    if inputs.images.classes is None or any(ref.label is None for ref in refs):
        return None
    labels = torch.tensor([ref.label for ref in refs], dtype=torch.int64)
    tuples, rows = features.tuples(parts.fit)
    if len(set(labels[rows].tolist())) < 2:
        return None
    return Labelled(
        LinearProbe.fit(tuples.source, labels[rows], seed=config.seed), labels, inputs.images.classes
    )
