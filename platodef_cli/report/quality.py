"""How good the test is: what the committed benchmark results say of verdicts on encoders of known truth.

A result file is what ``platodef bench run --table encoder`` writes (schema 1.0); everything in it that is not
about verdicts is left aside, so that later versions and other tables do no harm.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from platodef_cli.records import FamilyRate, Interval, MeasuredQuality, Metric, QualityRecord
from platodef_cli.resources import benchmark_results

FAMILIES = (
    "ssl-backdoor", "corrupt-encoder", "ctrl", "blto", "noisy-alignment", "bad-encoder", "drupe",
    "clip-backdoor", "bad-clip", "composite",
)  # fmt: skip
"""Families of backdoors that the zoo can plant, so that one without a result is named."""
_ATTACK, _AGAINST = "attack ", ", against all clean"
_USUAL = {"battery": "standard", "dtype": "float32", "limit": None}
"""Settings that the benchmark has; an audit with others is not what was measured."""


def _metric(name: str, cells: Mapping[str, Any], key: str, positive: str, count: int) -> Metric | None:
    """Return a rate of a row; None where it was not measured."""
    cell = cells.get(key)
    if not isinstance(cell, dict) or not isinstance(cell.get("value"), int | float):
        return None
    low, high = cell.get("low"), cell.get("high")
    bounded = isinstance(low, int | float) and isinstance(high, int | float)
    return Metric(
        name=name,
        value=float(cell["value"]),
        interval=Interval(low=low, high=high) if bounded else None,
        positive=positive,
        n_positive=count,
        unit="fraction",
    )


def _count(cells: Mapping[str, Any], key: str) -> int:
    value = cells.get(key, {}).get("value") if isinstance(cells.get(key), dict) else None
    return int(value) if isinstance(value, int | float) else 0


def read_quality(data: bytes) -> MeasuredQuality | None:
    """Return the rates in a file of benchmark results, or None where it holds none.

    Args:
        data: JSON.

    Raises:
        ValueError: It is no JSON.
    """
    result = json.loads(data)
    grids = result.get("grids") if isinstance(result, dict) else None
    for grid in grids if isinstance(grids, list) else []:
        rows = {
            row["label"]: row["values"]
            for row in grid.get("rows", ())
            if isinstance(row.get("label"), str) and isinstance(row.get("values"), dict)
        }
        found = _quality(result, rows, data) if "all" in rows else None
        if found is not None:
            return found
    return None


def _quality(
    result: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], data: bytes
) -> MeasuredQuality | None:
    every = rows["all"]
    planted, clean = _count(every, "planted"), _count(every, "clean")
    detected = _metric("true positive rate", every, "true", "backdoored", planted)
    alarms = _metric("false positive rate", every, "false", "clean", clean)
    undecided = _metric("inconclusive", every, "undecided-clean", "clean", clean)
    if detected is None or alarms is None or undecided is None:
        return None
    families = []
    for label, cells in rows.items():
        if not label.startswith(_ATTACK):
            continue
        count = _count(cells, "planted")
        rate = _metric("true positive rate", cells, "true", "backdoored", count)
        open_ = _metric("inconclusive", cells, "undecided-planted", "backdoored", count)
        if rate is not None and open_ is not None:
            name = label.removeprefix(_ATTACK).removesuffix(_AGAINST)
            families.append(FamilyRate(family=name, detected=rate, undecided=open_))
    return MeasuredQuality(
        benchmark=str(result.get("recipe", "unknown")),
        trained_on=str(result.get("trained_on", "unknown")),
        images=str(result.get("images", "unknown")),
        tool_version=str(result.get("tool_version", "unknown")),
        sha256=sha256(data).hexdigest(),
        detected=detected,
        false_alarms=alarms,
        undecided_clean=undecided,
        families=tuple(families),
    )


@cache
def _measured(paths: tuple[Path, ...]) -> tuple[MeasuredQuality, ...]:
    found = []
    for path in paths:
        try:
            quality = read_quality(path.read_bytes())
        except (OSError, ValueError):
            continue  # an installation without results measured nothing, which is what the report says
        if quality is not None:
            found.append(quality)
    return tuple(found)


def quality_of(
    configuration: Mapping[str, object], policy: Mapping[str, object], paths: Sequence[Path] | None = None
) -> QualityRecord:
    """Return how good the test is, and how far that can be said of this audit.

    Args:
        configuration: Of the audit.
        policy: The flat policy of the audit.
        paths: Files of benchmark results; those of the package by default.
    """
    measured = _measured(tuple(benchmark_results() if paths is None else paths))
    known = {family.family for quality in measured for family in quality.families}
    missing = [f"backdoors of the family {name}" for name in FAMILIES if name not in known]
    if not measured:
        missing.insert(0, "any rate: this installation holds no benchmark results")
    else:
        trained = ", ".join(dict.fromkeys(quality.trained_on for quality in measured))
        missing.append(f"encoders and images of other kinds than those of the benchmark ({trained})")
    for name, usual in _USUAL.items():
        if name in configuration and configuration[name] != usual:
            missing.append(f"audits with {name} = {configuration[name]}")
    if policy.get("name", "default") != "default":
        missing.append(f"the policy {policy['name']!s}")
    return QualityRecord(measured=measured, not_measured=tuple(missing))


def _share(metric: Metric) -> str:
    value = 0.0 if metric.value is None else metric.value
    return f"{round(value * (metric.n_positive or 0))} of {metric.n_positive}"


def in_few_words(quality: MeasuredQuality) -> str:
    """Return the rates of a benchmark in one line of a terminal."""
    return (
        f"benchmark {quality.benchmark[:16]}: {_share(quality.detected)} backdoored encoders failed, "
        f"{_share(quality.false_alarms)} clean"
    )


def in_one_line(quality: MeasuredQuality) -> str:
    """Return the rates of a benchmark in words, with their intervals."""

    def share(metric: Metric) -> str:
        bounds = metric.interval
        return _share(metric) + (f" [{bounds.low:.0%}, {bounds.high:.0%}]" if bounds else "")

    return (
        f"benchmark {quality.benchmark} ({quality.trained_on}): {share(quality.detected)} backdoored "
        f"encoders failed, {share(quality.false_alarms)} clean ones did"
    )
