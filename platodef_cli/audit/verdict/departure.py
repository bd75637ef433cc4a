"""One statistic of an encoder: how far its most suspicious test is over (or under) what fails it.

A test asks several questions at once, each of a number against its limit, and fails where the intervals of
all of them lie over their limits. On the way from no effect to the strongest one that can be, each question
is measured as a share: -1 at none, 0 at the limit, 1 at the strongest. The lower end of the interval counts,
as it does in the rules. A test departs as far as the least of its questions, a change as far as the most of
the pairs of symptoms that accuse, and an encoder as far as the most of its tests. So a departure is over 0
exactly where a rule fails, and departures of different tests, and of different encoders, can be compared.

What was not examined has no departure, and evidence that no verdict can rest on (alignment, too few
images) is no test: it takes the departures their meaning, and adds none.
"""

import math
from collections.abc import Sequence

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.battery import Question, is_powerless, symptoms
from platodef_cli.audit.verdict.battery import is_saturated as is_saturated_change
from platodef_cli.audit.verdict.intervals import Estimate
from platodef_cli.audit.verdict.search import is_saturated, limits_of, place_of, search_gap, search_key
from platodef_cli.records import DepartureRecord, ProbeRecord, SearchRecord

OTHER_IMAGE = math.sqrt(2)
"""Shift between features of different images, in clean root variances."""

_RANGES = {
    "AUROC": (0.5, 1.0),
    "shift": (0.0, OTHER_IMAGE),
    "shift beyond the references": (0.0, OTHER_IMAGE),
}
_COSINE = (0.0, 1.0)


def departures(
    triggers: Sequence[ProbeRecord], searches: Sequence[SearchRecord], policy: Policy, detector: str
) -> tuple[DepartureRecord, ...]:
    """Return the departure of every test that was examined, in the order of the records.

    Args:
        triggers: Known triggers and controls; found ones are no tests of their own.
        searches: Searches on the suspect and on the references.
        policy: The limits.
        detector: That decides.

    Raises:
        UsageError: The limits do not fit the searches.
    """
    return (*_of_battery(triggers, policy, detector), *_of_searches(searches, policy))


def largest(values: Sequence[DepartureRecord]) -> DepartureRecord | None:
    """Return the largest departure, the first of equal ones; None where no test was examined."""
    return max(values, key=lambda departure: departure.value, default=None)


def departure_of(name: str, measured: Estimate, limit: float) -> float | None:
    """Return the departure of one number; None where it was not measured.

    It is over 0 exactly where :meth:`platodef_cli.audit.verdict.intervals.Estimate.reaches` says yes.

    Args:
        name: Of what was measured, as in the questions of the battery.
        measured: The number.
        limit: Its limit.
    """
    if measured.value is None:
        return None
    none, most = _RANGES.get(name, _COSINE)
    if measured.interval is None:
        # a bare number fails at its limit already
        limit = math.nextafter(limit, -math.inf)
    over = measured.low - limit
    # a user's limit may lie at the end of the range or beyond
    room = most - limit if over > 0 else limit - none
    return over / room if room > 0 else over


def _of_battery(probes: Sequence[ProbeRecord], policy: Policy, detector: str) -> list[DepartureRecord]:
    found = []
    for probe in probes:
        if probe.kind == "found" or (probe.kind == "control" and probe.gap is None):
            continue
        blind = is_saturated_change(probe, probes, policy)
        values = [
            value
            for _, questions in symptoms(probe, probes, policy, detector)
            if not (blind and any(name.startswith("collapse") for name, _, _ in questions))
            and (value := _least(questions)) is not None
        ]
        if values and (max(values) > 0 or not is_powerless(probe)):
            found.append(DepartureRecord(test=f"battery {probe.name}", value=max(values)))
    return found


def _of_searches(searches: Sequence[SearchRecord], policy: Policy) -> list[DepartureRecord]:
    limits = limits_of(searches, policy)
    found = []
    for record in searches:
        if record.role != "suspect" or is_saturated(record, searches, limits, policy):
            continue
        limit = limits[search_key(record)]
        collapse = Estimate(record.collapse, record.interval)
        value = departure_of("collapse", collapse, limit)
        beyond = departure_of("collapse", search_gap(record, searches), policy.search_gap)
        if beyond is None and collapse.reaches(limit) != "no":
            continue  # the references were not asked, though the suspect gives cause for it
        if value is not None:
            test = f"search {record.kind} {place_of(record, searches) + 1}"
            found.append(DepartureRecord(test=test, value=value if beyond is None else min(value, beyond)))
    return found


def _least(questions: Sequence[Question]) -> float | None:
    values = [departure_of(name, measured, limit) for name, measured, limit in questions]
    known = [value for value in values if value is not None]
    return min(known) if len(known) == len(values) else None
