"""Measurements with what a policy says of them: what rules and baselines read before there is an outcome."""

from dataclasses import dataclass, fields

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.indicators import Indicators
from platodef_cli.audit.verdict.measurements import Measurements
from platodef_cli.audit.verdict.waivers import Waivers
from platodef_cli.records import ErrorRateRecord, Finding, ProbeRecord, Reason


@dataclass(frozen=True)
class Case(Measurements):
    """Measurements whose searches have scores, and whose findings include those of the indicators.

    Attributes:
        probes: All triggers and controls, with their marks; found ones first.
        policy: The limits, as a report records them.
        error_rate: How usual the suspect is among clean encoders; None without a calibration.
        reasons: Without those of the rules while the rules are judged.
    """

    probes: tuple[ProbeRecord, ...]
    policy: dict[str, float | int | str | bool]
    error_rate: ErrorRateRecord | None = None
    reasons: tuple[Reason, ...] = ()

    @classmethod
    def made_of(
        cls, measurements: Measurements, indicators: Indicators, policy: Policy, waivers: Waivers
    ) -> "Case":
        """Join measurements and indicators; findings are marked as waived."""
        values = {entry.name: getattr(measurements, entry.name) for entry in fields(Measurements)}
        findings = (*measurements.findings, *indicators.findings)
        findings = (*findings, *_slices(measurements), *_local(measurements))
        values["findings"] = waivers.findings(findings, indicators.topics())
        values |= {"searches": indicators.searches, "search_power": indicators.power}
        probes = (*indicators.marked(measurements.found_triggers), *indicators.triggers)
        return cls(**values, probes=probes, policy=policy.to_json())


def _slices(measurements: Measurements) -> tuple[Finding, ...]:
    """Return a finding per group of the given images in which the suspect departs from all references."""
    return tuple(
        Finding(
            id=f"slice-{number}",
            severity="medium",
            message=f"{entry.flagged.value or 0:.0%} of {entry.count} images that are alike raise the alarm "
            f"({entry.elsewhere:.0%} of the others; a reference in its place "
            f"{max(entry.control_flagged.values()):.0%} at most), among them {', '.join(entry.images[:2])}: "
            "look for what these images have in common",
        )
        for number, entry in enumerate((s for s in measurements.slices if s.departs), start=1)
    )


def _local(measurements: Measurements) -> tuple[Finding, ...]:
    """Return the finding that a folder is tied to no published commit."""
    if measurements.target.commit is not None:
        return ()
    return (
        Finding(
            id="no-commit",
            severity="low",
            message="the target is a local folder: only the file hashes tie it to a published commit",
        ),
    )
