"""The change that tells most against the suspect: on images, with what every encoder says about it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from platodef_cli.audit.state import AuditState
from platodef_cli.audit.steps.found import FoundTriggers
from platodef_cli.audit.steps.pictures import EXAMPLES, LARGEST, png
from platodef_cli.audit.steps.samples import Features
from platodef_cli.audit.verdict.indicators import Indicators
from platodef_cli.features.extract import image_seeds, load_pixels
from platodef_cli.features.interface import Variant
from platodef_cli.records import AccusedRecord, Interval, Metric, ProbeRecord, SaidRecord
from platodef_cli.search.statistics import CleanStatistics
from platodef_cli.triggers.battery import battery

_ORDER = ("trigger", "found", "control")


def accused_change(state: AuditState, indicators: Indicators, found: FoundTriggers) -> AccusedRecord | None:
    """Return the most suspicious change as pictures and numbers; None where none is suspicious.

    Known triggers come before found ones, and those before harmless changes; of each the one that collapses
    the features most. Examples are the first images that the suspect keeps no more of than of the median one:
    an image that lay at the target before shows nothing.

    Args:
        state: The audit.
        indicators: Marks of the changes.
        found: What the search found, and its features.
    """
    probes = [probe for probe in (*indicators.marked(found.probes), *indicators.triggers) if probe.suspicious]
    if not probes:
        return None
    worst = min(probes, key=lambda probe: (_ORDER.index(probe.kind), -(probe.collapse.value or 0.0)))
    features = found.features if worst.kind == "found" else state.features
    variants: Mapping[str, Variant] = found.variants
    if worst.kind != "found":
        items = battery(state.config.battery, state.config.plugins)
        variants = {item.variant.name: item.variant for item in items}
    changed, rows = features.tuples(None, worst.name)
    clean, _ = features.tuples(tuple(rows.tolist()))
    chosen = _examples(state.statistics[features.suspect], clean.source, changed.source)
    shown = rows[chosen].tolist()
    geometry = state.inputs.suspect.geometry
    pixels = load_pixels(state.inputs.images, [geometry], shown, state.recorder)[geometry]
    seeds = image_seeds([state.inputs.images.refs[row] for row in shown])
    altered = variants[worst.name](pixels, seeds)
    spaces = {features.suspect: (clean.source, changed.source)}
    spaces |= {name: (clean.references[name], changed.references[name]) for name in features.references}
    return AccusedRecord(
        name=worst.name,
        kind=worst.kind,
        originals=tuple(png(image, LARGEST["example"]) for image in pixels),
        examples=tuple(png(image, LARGEST["example"]) for image in altered),
        said=tuple(
            _said(
                name,
                features,
                worst,
                _kept(state.statistics[name], *pair),
                chosen,
                _classes(state, name, features, (pair[0][chosen], pair[1][chosen])),
            )
            for name, pair in spaces.items()
        ),
    )


def _kept(statistics: CleanStatistics, before: Tensor, after: Tensor) -> Tensor:
    """Return the cosine ``[n]`` of every image's feature with and without a change."""
    first, second = (statistics.standardise(part.double()) for part in (before, after))
    return torch.cosine_similarity(first, second, dim=1)


def _examples(statistics: CleanStatistics, before: Tensor, after: Tensor) -> Tensor:
    """Return the places of the images that are shown, ascending."""
    kept = _kept(statistics, before, after)
    return (kept <= kept.median()).nonzero()[:EXAMPLES, 0]


def _said(
    name: str,
    features: Features,
    worst: ProbeRecord,
    kept: Tensor,
    chosen: Tensor,
    classes: tuple[tuple[str, str], ...],
) -> SaidRecord:
    """Return what one encoder says.

    Args:
        name: The encoder.
        features: Which of them is the suspect.
        worst: The change.
        kept: Cosines ``[n]`` of its features with and without the change.
        chosen: Places of the examples.
        classes: Of the examples, where a probe gives any.
    """
    suspect = name == features.suspect
    collapse = worst.collapse.value if suspect else worst.control_collapse.get(name)
    shift = worst.effect.value if suspect else worst.control_shift.get(name)
    return SaidRecord(
        encoder=name,
        role="suspect" if suspect else "reference",
        kept=_mean(kept),
        collapse=collapse,
        shift=shift,
        examples=tuple(round(float(value), 6) for value in kept[chosen]),
        classes=classes,
    )


def _classes(
    state: AuditState, name: str, features: Features, pair: tuple[Tensor, Tensor]
) -> tuple[tuple[str, str], ...]:
    """Return the classes that a linear probe on the suspect's features gives to the examples."""
    if state.labelled is None or name != features.suspect:
        return ()
    probe = state.labelled.probe
    before, after = (probe.predict(part).tolist() for part in pair)
    return tuple(
        (state.labelled.name(one) or "", state.labelled.name(other) or "")
        for one, other in zip(before, after, strict=True)
    )


def _mean(values: Tensor) -> Metric:
    """Return the mean of cosines ``[n]`` with its normal 95 % interval."""
    mean, count = float(values.mean()), len(values)
    half = 1.96 * float(values.std()) / count**0.5 if count > 1 else 2.0
    bounds = Interval(low=round(max(-1.0, mean - half), 6), high=round(min(1.0, mean + half), 6))
    return Metric(
        name="cosine with and without the change",
        value=round(mean, 6),
        interval=bounds,
        direction="lower is more suspicious",
        n_positive=count,
        unit="cosine",
    )
