"""What speaks against the suspect: the battery and the searches, held against the limits of a policy."""

from collections.abc import Sequence
from dataclasses import dataclass

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.battery import battery_findings, judge_battery
from platodef_cli.audit.verdict.intervals import SampleSize
from platodef_cli.audit.verdict.power import judge_power
from platodef_cli.audit.verdict.references import judge_references, reference_findings
from platodef_cli.audit.verdict.search import judge_search, search_findings
from platodef_cli.records import Finding, ProbeRecord, Reason, SearchPowerRecord, SearchRecord
from platodef_cli.report.power import found_from, powerless


@dataclass(frozen=True)
class Indicators:
    """The battery and the searches, judged once.

    Attributes:
        policy: The limits that they were held against.
        triggers: Known triggers and controls, with their marks of suspicion.
        searches: The searches, with their scores.
        reasons: About the battery, the searches and the references, in this order.
        findings: What the reader should act on.
        power: What the searches find of planted backdoors.
    """

    policy: Policy
    triggers: tuple[ProbeRecord, ...]
    searches: tuple[SearchRecord, ...]
    reasons: tuple[Reason, ...]
    findings: tuple[Finding, ...]
    power: tuple[SearchPowerRecord, ...] = ()

    def marked(self, found_triggers: Sequence[ProbeRecord]) -> tuple[ProbeRecord, ...]:
        """Return found triggers, suspicious where a search of their kind accuses the suspect."""
        accused = {
            f"found {reason.id.removeprefix('search-')}"
            for reason in self.reasons
            if reason.outcome == "fail" and reason.id.startswith("search-")
        }
        return tuple(
            probe.model_copy(update={"suspicious": probe.family in accused}) for probe in found_triggers
        )

    def topics(self) -> dict[str, tuple[str, str]]:
        """Return finding -> id and subject of the reason that it follows from."""
        return {
            **{f"trigger-{probe.name}": (f"battery-{probe.family}", probe.name) for probe in self.triggers},
            **{f"search-{r.kind}-{r.budget}": (f"search-{r.kind}", r.budget) for r in self.searches},
        }


def judge_indicators(
    triggers: Sequence[ProbeRecord],
    searches: Sequence[SearchRecord],
    policy: Policy,
    *,
    deciding: str,
    sample: SampleSize,
    power: Sequence[SearchPowerRecord] = (),
) -> Indicators:
    """Hold the battery and the searches against the limits of a policy.

    Args:
        triggers: Known triggers and controls, as measured.
        searches: Searches on the suspect and on the references, as measured.
        policy: The limits.
        deciding: Detector that decides.
        sample: How many images there were.
        power: What the searches find of planted backdoors, as measured.

    Raises:
        UsageError: The limits do not fit the searches.
    """
    known = judge_power(power, policy)
    scored, about_search = judge_search(searches, policy, powerless(known), found_from(known))
    battery, about_battery = judge_battery(triggers, policy, deciding, sample)
    about_references = judge_references(battery, scored, policy)
    return Indicators(
        policy=policy,
        triggers=battery,
        searches=scored,
        reasons=(*about_battery, *about_search, *about_references),
        findings=(
            *battery_findings(battery),
            *search_findings(scored, about_search),
            *reference_findings(about_references),
        ),
        power=known,
    )
