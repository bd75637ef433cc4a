"""Tries the triggers that the search found on the test images, and shows the best one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from platodef_cli.audit.state import AuditState
from platodef_cli.audit.steps.battery import try_changes
from platodef_cli.audit.steps.pictures import EXAMPLES, evidence
from platodef_cli.audit.steps.prepare import extract_variants
from platodef_cli.audit.steps.samples import Features, SuspectImages
from platodef_cli.audit.verdict.indicators import Indicators
from platodef_cli.features.extract import CLEAN, Request, load_pixels
from platodef_cli.features.interface import Variant
from platodef_cli.records import FoundTrigger, ProbeRecord
from platodef_cli.search.interface import SearchResult
from platodef_cli.triggers.battery import BatteryItem


@dataclass(frozen=True)
class FoundTriggers:
    """What the best found trigger of every kind does to the test images.

    Attributes:
        probes: One per kind, without marks of suspicion.
        features: Features under them.
        evidence: The best one as pictures, where it crosses its limits.
        variants: Name -> change.
    """

    probes: tuple[ProbeRecord, ...]
    features: Features
    evidence: FoundTrigger | None
    variants: Mapping[str, Variant]


def try_found(state: AuditState, results: Sequence[SearchResult], indicators: Indicators) -> FoundTriggers:
    """Try the best found trigger of every kind on the test images.

    Args:
        state: The audit.
        results: Searches on the suspect, in the order of their records.
        indicators: Their scores.
    """
    records = [record for record in indicators.searches if record.role == "suspect"]
    best = {record.kind: i for i, record in sorted(enumerate(records), key=lambda pair: pair[1].score)}
    items = [BatteryItem(results[i].variant, f"found {kind}", "trigger") for kind, i in sorted(best.items())]
    probed = state.parts.test[: state.config.probe_images]
    requests = [Request(None, probed), *(Request(item.variant, probed) for item in items)]
    # the share of broken images was judged, and warned of, when all of them were decoded
    config = replace(state.config, max_broken_share=1.0)
    quiet = state.recorder.silent_warnings()
    extraction = extract_variants(state.inputs, requests, config, state.cache, state.recorder, quiet)
    pictures = None
    if state.features.images is not None:
        pictures = SuspectImages.of(state.inputs.images, state.inputs.suspect.geometry, items)
    features = replace(state.features, extraction=extraction, images=pictures)
    probes = try_changes(
        items,
        features,
        state.statistics,
        state.defences,
        state.labelled,
        state.config.limits,
        kind="found",
        progress=state.recorder,
    )
    shown = None
    top = max(range(len(records)), key=lambda number: records[number].score)
    if records[top].score >= 1:
        usable = extraction.indices[CLEAN][:EXAMPLES].tolist()
        geometry = state.inputs.suspect.geometry
        pixels = load_pixels(state.inputs.images, [geometry], usable, state.recorder)[geometry]
        shown = evidence(results[top], records[top], pixels)
    return FoundTriggers(tuple(probes), features, shown, {item.variant.name: item.variant for item in items})
