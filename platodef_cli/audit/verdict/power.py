"""What the searches would have found: their positive controls, held against the limits of a policy.

A kind of search has power at a strength where a share of ``POWER`` or more of the references with a planted
backdoor of that strength would not have passed it: it accuses them, or cannot decide. Where positive controls
were run and it has power at none of the strengths, a suspect that it does not accuse is not cleared by it:
the kind is named as not examined.
"""

from collections.abc import Sequence

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.intervals import POWER
from platodef_cli.audit.verdict.search import judge_search
from platodef_cli.metrics.binomial import rate_metric
from platodef_cli.records import ControlRecord, Metric, Outcome, SearchPowerRecord, SearchRecord
from platodef_cli.report.power import HOW, powerless, unmeasured

WORKS = 0.8  # share of the changed images that a backdoor must send to its target to count as one
KEPT = 0.75  # cosine that clean features must keep: an encoder that is ruined is no backdoored one
LEAST = 5  # backdoors that work, from which on a share says something
UNEXAMINED = "no power: "
"""Begins what a report says of a kind of search that misses its positive controls."""


def judge_power(power: Sequence[SearchPowerRecord], policy: Policy) -> tuple[SearchPowerRecord, ...]:
    """Return the records with the share that would not have passed under a policy, and whether it is enough.

    The interval of the share is exact (Clopper and Pearson 1934); it has no value where no backdoor works.

    Raises:
        UsageError: The policy has too few limits for the searches.
    """
    return tuple(_judged(record, policy) for record in power)


def _judged(record: SearchPowerRecord, policy: Policy) -> SearchPowerRecord:
    working = [control for control in record.controls if control.success >= WORKS and control.kept >= KEPT]
    outcomes = [outcome_of(control, record.kind, policy) for control in working]
    count, hits = len(working), len(working) - outcomes.count("pass")
    found = rate_metric(
        hits, count, name="planted backdoors found", positive="found", direction="higher is better"
    )
    enough = hits / count >= POWER if count >= LEAST else None
    return record.model_copy(update={"found": found, "accused": outcomes.count("fail"), "enough": enough})


def outcome_of(control: ControlRecord, kind: str, policy: Policy) -> Outcome:
    """Return what a search says of a reference with a planted backdoor: fail, inconclusive or pass."""
    records = [
        SearchRecord(
            encoder=control.reference,
            role="suspect",
            kind=kind,
            budget=reached.budget,
            steps=0,
            collapse=reached.collapse,
            score=0.0,
            interval=reached.interval,
            gap=Metric(
                name="collapse beyond the references",
                value=reached.gap,
                interval=reached.gap_interval,
                direction="higher is more suspicious",
            ),
        )
        for reached in control.reached
    ]
    # where a search is saturated the reason has another name: nothing was found then
    found = {r.outcome for r in judge_search(records, policy)[1] if r.id == f"search-{kind}"}
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"


def missed_lines(power: Sequence[SearchPowerRecord], searches: Sequence[SearchRecord]) -> tuple[str, ...]:
    """Return a line for the list of what was not examined per kind of search that misses its controls."""
    kinds = {record.kind for record in searches if record.role == "suspect"}
    return tuple(
        f"{UNEXAMINED}unknown {kind} triggers: of planted ones the search finds {what}"
        for kind, what in powerless(power).items()
        if kind in kinds
    )


def without_missed(lines: Sequence[str]) -> tuple[str, ...]:
    """Return what was not examined without :func:`missed_lines`, which depend on the policy."""
    return tuple(line for line in lines if not line.startswith(UNEXAMINED))


def unknown_lines(power: Sequence[SearchPowerRecord], kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the line that names the kinds of search whose power nobody measured.

    Args:
        power: Judged, see :func:`judge_power`.
        kinds: That the suspect was searched with.
    """
    unknown = unmeasured(power, kinds)
    if not unknown:
        return ()
    return (
        f"the power of the searches for {', '.join(unknown)} was not measured with these references and "
        f"images, so that nothing says what they would have found ({HOW} measures it)",
    )
