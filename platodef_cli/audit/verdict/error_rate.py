"""How often a clean encoder would depart as far as the suspect does: one p-value for the whole verdict.

The p-value is conformal (Vovk, Gammerman and Shafer 2005, ch. 2; Bates et al. 2023): with the largest
departure ``d_j`` of each of n clean lineages, ``p = (1 + #{d_j >= d}) / (n + 1)``. Where the suspect is
clean and as good as drawn from what the lineages are drawn from, ``P(p <= alpha) <= alpha`` for every alpha,
whatever the distribution is, and however many tests the largest is taken over. Descendants of one encoder
resemble each other, so that a lineage counts once.
"""

import math
from collections.abc import Sequence

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.case import Case
from platodef_cli.audit.verdict.departure import departures, largest
from platodef_cli.errors import UsageError
from platodef_cli.records import (
    CalibrationSummary,
    DepartureRecord,
    ErrorRateRecord,
    Metric,
    Outcome,
    Reason,
)

_RULES = ("battery-", "search-")
_MOST_FACTOR = 1.5  # between the test images of the audit and those of the calibration
_ROUNDING = 1e-9


def p_value(departure: float, clean: Sequence[float]) -> float:
    """Return the conformal p-value of a departure beside those of clean lineages."""
    return (1 + sum(other >= departure for other in clean)) / (1 + len(clean))


def least_lineages(alpha: float) -> int:
    """Return the fewest clean lineages whose p-values can reach a rate."""
    return max(1, math.ceil(1 / alpha - 1 - _ROUNDING))


def error_rate(case: Case, policy: Policy) -> ErrorRateRecord | None:
    """Return how usual the suspect is among clean encoders; None where the report holds no calibration.

    Departures are taken in units of the limits of the calibration, so that p-values do not depend on the
    policy.

    Args:
        case: What was measured.
        policy: Says which rate is wanted.
    """
    clean = case.calibration
    if clean is None:
        return None
    units = Policy.from_json(clean.limits).with_limits(dict(policy.search_limits))
    try:
        found = departures(case.triggers, case.searches, units, case.deciding)
    except UsageError:  # more searches of a kind than the calibration has limits for
        found = ()
    known = {_kind(test) for test in clean.tests}
    searched = [record.kind for record in case.searches if record.role == "suspect"]
    uncounted = tuple(kind for kind in dict.fromkeys(searched) if kind not in known)
    found = tuple(entry for entry in found if _kind(entry.test) not in uncounted)
    outside = _outside(case, clean, found)
    departure = largest(found)
    count = len(clean.departures)
    enough = count >= least_lineages(policy.alpha)
    p = p_value(departure.value, clean.departures) if departure is not None and not outside else None
    return ErrorRateRecord(
        alpha=policy.alpha,
        departure=departure,
        p_value=p,
        lineages=count,
        least=1 / (count + 1) if count else None,
        decides=enough and p is not None,
        outside=outside,
        uncounted=uncounted,
        statement=_statement(departure, p, clean, policy.alpha, outside) + _alone(uncounted),
    )


def doubted(reasons: Sequence[Reason], rate: ErrorRateRecord | None) -> tuple[Reason, ...]:
    """Return the reasons; a failure of a test is inconclusive where clean encoders depart as far too often.

    A failure of a rule that the user wrote (``fail_if``) stands, one by a kind of search that the calibration
    does not know, and every failure where too few lineages are known, or none that the suspect can be
    compared with.
    """
    if rate is None or not rate.decides or rate.p_value is None or rate.p_value <= rate.alpha + _ROUNDING:
        return tuple(reasons)
    also = (
        f"; yet clean encoders depart as far with p = {rate.p_value:.3f}, over alpha = {rate.alpha:g} "
        f"({rate.lineages} lineages)"
    )
    undecided: Outcome = "inconclusive"
    alone = {f"search-{kind}" for kind in rate.uncounted}
    return tuple(
        reason.model_copy(update={"outcome": undecided, "message": reason.message + also})
        if reason.outcome == "fail" and reason.id.startswith(_RULES) and reason.id not in alone
        else reason
        for reason in reasons
    )


def _outside(case: Case, clean: CalibrationSummary, found: Sequence[DepartureRecord]) -> tuple[str, ...]:
    """Return in what an audit differs from those of the calibration."""
    differences = []
    height, width = case.target.transform.size
    if height != width or height not in clean.sides:
        known = ", ".join(str(side) for side in clean.sides)
        differences.append(f"an input of {height}x{width} pixels, calibrated for {known}")
    if tuple(sorted(reference.digest for reference in case.references)) != clean.references:
        differences.append("other references")
    images = case.images.uri.partition("?")[0]
    if images != clean.images:
        differences.append(f"other images, calibrated with {clean.images}")
    most = _MOST_FACTOR * clean.test_images
    if not clean.test_images / _MOST_FACTOR <= case.images.test <= most:
        differences.append(f"{case.images.test} test images, calibrated with {clean.test_images}")
    tests = {departure.test for departure in found}
    missing, added = set(clean.tests) - tests, tests - set(clean.tests)
    # a test that cannot be examined on this suspect (saturated) is no difference: others lose nothing
    tried = {f"battery {probe.name}" for probe in case.triggers} | {
        test for test in clean.tests if test.startswith("search ") and _searched(case, test)
    }
    lacking = sorted(missing - tried)
    if lacking or added:
        listed = [f"without {name}" for name in lacking] + [f"with {name}" for name in sorted(added)]
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        differences.append(f"other tests ({', '.join(listed[:3])}{more})")
    return tuple(differences)


def _searched(case: Case, test: str) -> bool:
    """Return whether the suspect was searched in the way that the name of a test says."""
    kind, _, place = test.removeprefix("search ").rpartition(" ")
    own = [record for record in case.searches if record.role == "suspect" and record.kind == kind]
    return len(own) >= int(place)


def _statement(
    departure: DepartureRecord | None,
    p: float | None,
    clean: CalibrationSummary,
    alpha: float,
    outside: Sequence[str],
) -> str:
    count = len(clean.departures)
    alarms = f"The limits alone fail {_share(clean.alarms)} of the clean lineages that were audited."
    if outside:
        return (
            f"No p-value: the calibration does not cover this audit ({'; '.join(outside)}). The limits "
            f"decide. {alarms} That rate need not hold here."
        )
    if departure is None or p is None:
        return f"No p-value: no test was examined. {alarms}"
    as_far = round(p * (count + 1)) - 1
    said = (
        f"{as_far} of {count} clean lineages depart as far as the suspect (largest departure "
        f"{departure.value:.2f}, {departure.test}): p = {p:.3f}."
    )
    if count < least_lineages(alpha):
        return (
            f"{said} So few lineages give no p-value under {1 / (count + 1):.3f}, and alpha = {alpha:g} "
            f"takes {least_lineages(alpha)}: the rate {alpha:g} is not shown, and the limits decide. {alarms}"
        )
    return f"{said} A failure needs p of alpha = {alpha:g} or less beside the limits. {alarms}"


def _alone(uncounted: Sequence[str]) -> str:
    """Return what is said of the kinds of search that take no part in the statistic; empty without any."""
    if not uncounted:
        return ""
    return (
        f" Not counted: the search for {', '.join(uncounted)}, which the calibration does not know; its "
        "limits alone decide, and the rate of its false alarms is not stated."
    )


def _kind(test: str) -> str | None:
    """Return the kind of search that a test is of; None for those of the battery."""
    return test.removeprefix("search ").rpartition(" ")[0] if test.startswith("search ") else None


def _share(alarms: Metric) -> str:
    if alarms.value is None or alarms.interval is None:
        return "an unknown share"
    count = (alarms.n_positive or 0) + (alarms.n_negative or 0)
    return (
        f"{alarms.n_positive} of {count} ({alarms.value:.1%}, {alarms.interval.level:.0%} interval "
        f"{alarms.interval.low:.1%} to {alarms.interval.high:.1%})"
    )
