"""Which model the suspect was made from, what was changed since, and how far its features drifted from it.

Evidence beside the verdict: nothing of it decides.
"""

import torch

from platodef_cli.audit.state import AuditState
from platodef_cli.audit.steps.found import FoundTriggers
from platodef_cli.encoders.checks.preflight import Preflight
from platodef_cli.encoders.interface import Encoder
from platodef_cli.encoders.lineage.compare import Comparison, nearest
from platodef_cli.encoders.lineage.index import entries
from platodef_cli.encoders.lineage.sketch import MOST_PARAMETERS, sketch
from platodef_cli.features.extract import CLEAN, Request, extract
from platodef_cli.features.interface import Variant
from platodef_cli.progress import Progress
from platodef_cli.records import CardRecord, DriftRecord, Interval, LayerRecord, LineageRecord, Metric
from platodef_cli.search.statistics import CleanStatistics, collapse
from platodef_cli.triggers.battery import battery

_SHOWN = 20


def lineage_of(state: AuditState, found: FoundTriggers) -> LineageRecord:
    """Return what the index, and a base that was given, say of the suspect.

    Args:
        state: The audit.
        found: Changes that the search found.
    """
    inputs = state.inputs
    record = by_weights(inputs.checked, inputs.card, state.recorder)
    if inputs.base is None:
        return record
    drift = _drift(state, found, inputs.base)
    words = (
        f"features agree with those of the given base {drift.base} to a mean cosine of "
        f"{drift.clean.value:.3f} on clean images, and of {drift.worst.value:.3f} under "
        f"{drift.worst_change}; the base was not audited"
    )
    return record.model_copy(update={"drift": drift, "message": f"{record.message}; {words}"})


def by_weights(checked: Preflight, card: CardRecord | None, progress: Progress) -> LineageRecord:
    """Return what the index says of an examined model.

    Args:
        checked: The model.
        card: What its card claims.
        progress: Receives the step and warnings of damaged entries.
    """
    known, problems = entries()
    for problem in problems:
        progress.warn(problem)
    claims = "" if card is None or not card.base_models else f"; its card names {', '.join(card.base_models)}"
    if checked.parameters > MOST_PARAMETERS:
        text = f"not looked at: more than {MOST_PARAMETERS:,} parameters{claims}"
        return LineageRecord(known=len(known), message=text)
    with progress.step("comparing weights with known models"):
        best = nearest(sketch(checked), known, checked.digest)
    if best is None or not best.related:
        text = f"none of the {len(known)} models of the index is a likely base{claims}"
        return LineageRecord(known=len(known), message=text)
    return LineageRecord(
        known=len(known),
        base=best.known.name,
        base_uri=best.known.uri,
        base_digest=best.known.digest,
        cosine=round(best.cosine, 4),
        coverage=round(best.coverage, 4),
        layers=len(best.layers),
        unchanged=sum(layer.same for layer in best.layers),
        changed=tuple(
            LayerRecord(
                name=layer.name,
                shape=layer.shape,
                cosine=round(layer.cosine, 4),
                length=round(layer.length, 4),
                spectrum=round(layer.spectrum, 4),
            )
            for layer in best.layers[:_SHOWN]
            if not layer.same
        ),
        message=_in_words(best) + claims,
    )


def _in_words(best: Comparison) -> str:
    same = sum(layer.same for layer in best.layers)
    return (
        f"its weights are nearest to {best.known.name} ({best.known.uri}), with a cosine of about "
        f"{best.cosine:.3f}; {same} of {len(best.layers)} common weight matrices are unchanged"
    )


def _drift(state: AuditState, found: FoundTriggers, base: Encoder) -> DriftRecord:
    """Compare the features of the suspect with those of the base, image by image, under every change."""
    config, inputs = state.config, state.inputs
    items = {item.variant.name: item.variant for item in battery(config.battery, config.plugins)}
    changes: dict[str, Variant] = {**items, **found.variants}
    probed = state.parts.test[: config.probe_images]
    extraction = extract(
        inputs.images,
        {base.record.name: base},
        [Request(None, state.parts.rows), *(Request(change, probed) for change in changes.values())],
        cache=state.cache,
        batch_size=config.batch_size,
        max_broken_share=1.0,  # judged, and warned of, when the suspect's were decoded
        progress=state.recorder.silent_warnings(),
    )
    rows, clean = extraction.features(base.record.name)
    theirs, mine = CleanStatistics.of(clean), state.statistics[state.features.suspect]
    place = {int(row): number for number, row in enumerate(rows.tolist())}

    def cosines(name: str) -> tuple[torch.Tensor, float, float]:
        features = found.features if name in found.variants else state.features
        tuples, indices = features.tuples(None, name)
        if name == CLEAN:
            chosen = [number for number, row in enumerate(indices.tolist()) if row in set(probed)]
            tuples, indices = tuples.select(torch.tensor(chosen)), indices[chosen]
        given, values = extraction.features(base.record.name, name)
        there = place if name == CLEAN else {int(row): n for n, row in enumerate(given.tolist())}
        other = values[[there[int(row)] for row in indices.tolist()]]
        first, second = mine.standardise(tuples.source).double(), theirs.standardise(other).double()
        return (
            torch.cosine_similarity(first, second, dim=1),
            float(collapse(first)),
            float(collapse(second)),
        )

    measured = {name: cosines(name) for name in changes}
    worst = min(measured, key=lambda name: (float(measured[name][0].mean()), name))
    return DriftRecord(
        base=str(config.base),
        digest=base.record.digest,
        clean=_mean(cosines(CLEAN)[0], "cosine with the base, clean images"),
        worst=_mean(measured[worst][0], "cosine with the base, worst change"),
        worst_change=worst,
        changes={name: round(float(values[0].mean()), 6) for name, values in measured.items()},
        own_collapse=round(measured[worst][1], 6),
        base_collapse=round(measured[worst][2], 6),
    )


def _mean(values: torch.Tensor, name: str) -> Metric:
    """Return the mean of cosines ``[n]`` with its normal 95 % interval."""
    mean, count = float(values.mean()), len(values)
    half = 1.96 * float(values.std()) / count**0.5 if count > 1 else 2.0
    bounds = Interval(low=round(max(-1.0, mean - half), 6), high=round(min(1.0, mean + half), 6))
    return Metric(name=name, value=round(mean, 6), interval=bounds, n_positive=count, unit="cosine")
