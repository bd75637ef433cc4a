"""The page about the calibration: what clean lineages do, how often they fail, which plantings are found."""

from collections.abc import Sequence

from platodef_cli.audit.calibration import largest_by_lineage
from platodef_cli.audit.verdict.error_rate import least_lineages, p_value
from platodef_cli.bench.calibration_parts import alarms
from platodef_cli.metrics.detection import auroc_metric
from platodef_cli.records import CalibratedEncoder, Calibration, Metric

WORKS = 0.9  # attack success rate from which a planted backdoor counts as one
_ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2)

_INTRODUCTION = """
What clean encoders do in an audit, as `platodef bench calibrate` measured it. A *lineage* is an encoder from
scratch with all that descends from it (fine-tuned, pruned, quantised, low-rank, distilled); it counts once,
with its largest *departure*. A departure says how far the most suspicious test of an audit is from failing:
about -1 where a change does nothing, 0 at the limit, 1 at the strongest effect that can be; above 0 a test
fails. The p-value of a report is conformal: (1 + clean lineages that depart as far) / (1 + clean lineages).
"""
_COVERS = """
It covers audits with these references, images of this source, encoders of this input size and the tests of
this version. Elsewhere (photographs at 224 pixels, other references) reports give no p-value and say in what
they differ; the limits decide there, and their rate of false alarms is not stated.
"""


def draw(calibration: Calibration) -> str:
    """Return the page as Markdown."""
    parts = [
        "# Calibration",
        _INTRODUCTION.strip(),
        _provenance(calibration),
        _COVERS.strip(),
        "## False alarms",
        _false_alarms(calibration),
        "## Planted encoders",
        _planted(calibration),
        "## Clean lineages",
        _clean(calibration),
        *_not_examined(calibration),
    ]
    return "\n\n".join(parts) + "\n"


def _provenance(calibration: Calibration) -> str:
    references = ", ".join(f"{name} ({digest[:12]})" for name, digest in calibration.references.items())
    examined = len(largest_by_lineage(calibration))
    sides = ", ".join(map(str, calibration.sides))
    lines = [
        f"command: `{calibration.command}`",
        f"zoo: recipe {calibration.recipe}, seed {calibration.zoo_seed}, trained on {calibration.trained_on}",
        f"lineages: {examined} clean ones examined, of {calibration.planned} in the recipe",
        f"images: {calibration.images} (sha256 {calibration.images_digest[:12]}), "
        f"{calibration.test_images} of them to test; input size {sides}",
        f"references: {references}",
        f"platodef {calibration.tool_version}; "
        + ", ".join(f"{name} {version}" for name, version in calibration.libraries.items()),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _false_alarms(calibration: Calibration) -> str:
    largest = largest_by_lineage(calibration)
    parts = {encoder.lineage: encoder.part for encoder in calibration.encoders}
    setting = [value for lineage, value in largest.items() if parts[lineage] == "setting"]
    testing = [value for lineage, value in largest.items() if parts[lineage] == "testing"]
    failed = _failed(calibration)
    tested = [lineage for lineage in largest if parts[lineage] == "testing"]
    rows = [
        ("the limits alone, all lineages", shown(calibration.alarms)),
        (
            "the limits alone, lineages for testing",
            shown(alarms(sum(lineage in failed for lineage in tested), len(tested))),
        ),
    ]
    for alpha in _ALPHAS:
        name = f"p of {alpha:g} or less, {len(setting)} lineages for setting on those for testing"
        if len(setting) < least_lineages(alpha):
            rows.append((name, f"not reachable: it takes {least_lineages(alpha)} lineages for setting"))
        else:
            over = sum(p_value(value, setting) <= alpha + 1e-9 for value in testing)
            rows.append((name, shown(alarms(over, len(testing)))))
    count = len(largest)
    words = (
        f"All {count} lineages together give p-values down to {1 / (count + 1):.3f}; a rate of 0.01 takes "
        f"{least_lineages(0.01)} lineages."
        + (" Until there are as many, limits decide at the default alpha." if count < 99 else "")
    )
    return _table(("clean lineages called a failure", "share [95 % interval]"), rows) + "\n\n" + words


def _failed(calibration: Calibration) -> set[str]:
    return {
        encoder.lineage
        for encoder in calibration.encoders
        if encoder.attack is None and encoder.verdict == "fail"
    }


def _planted(calibration: Calibration) -> str:
    planted = [encoder for encoder in calibration.encoders if encoder.attack is not None]
    if not planted:
        return "None was audited yet."
    working = [encoder for encoder in planted if (encoder.success or 0.0) >= WORKS]
    weak = [encoder for encoder in planted if encoder not in working]
    parts = {encoder.lineage: encoder.part for encoder in calibration.encoders}
    clean = [value for name, value in largest_by_lineage(calibration).items() if parts[name] == "testing"]
    families = sorted({encoder.attack or "" for encoder in working})
    rows = [_found(name, [one for one in working if one.attack == name], clean) for name in families]
    rows.append(_found("all", working, clean))
    header = ("attack", "encoders", "fail", "inconclusive", "pass", "AUROC, lineages for testing")
    text = (
        f"Backdoors with an attack success of {WORKS:g} or more. The AUROC is that of the departure, planted "
        f"against {len(clean)} clean encoders, both of the lineages for testing only."
    )
    left = (
        ""
        if not weak
        else "\n\nNot counted, since the backdoor does not reach that success: "
        + ", ".join(f"{one.name} ({one.success:.2f})" for one in weak if one.success is not None)
        + "."
    )
    return text + "\n\n" + _table(header, rows) + left


def _found(name: str, planted: Sequence[CalibratedEncoder], clean: Sequence[float]) -> tuple[str, ...]:
    own = [one.departure.value for one in planted if one.part == "testing" and one.departure is not None]
    measured = auroc_metric(clean, own) if own and clean else None
    verdicts = [one.verdict for one in planted]
    counts = [str(verdicts.count(verdict)) for verdict in ("fail", "inconclusive", "pass")]
    return (name, str(len(planted)), *counts, "not measured" if measured is None else shown(measured))


def _clean(calibration: Calibration) -> str:
    rows = []
    for encoder in calibration.encoders:
        if encoder.attack is not None or encoder.departure is None:
            continue
        rows.append(
            (
                encoder.name,
                encoder.architecture,
                encoder.trained,
                "" if encoder.parameters is None else f"{encoder.parameters / 1e6:.2f}",
                "" if encoder.accuracy is None else f"{encoder.accuracy:.2f}",
                encoder.part,
                f"{encoder.departure.value:.2f}",
                encoder.departure.test,
                encoder.verdict,
            )
        )
    header = (
        "encoder", "architecture", "trained", "M parameters", "accuracy", "part", "departure", "of",
        "limits say",
    )  # fmt: skip
    return _table(header, rows)


def _not_examined(calibration: Calibration) -> list[str]:
    rows = [(one.name, one.note) for one in calibration.encoders if one.departure is None]
    if not rows:
        return []
    text = "These gave no departure; clean ones among them are in no rate above."
    return ["## Not examined", text, _table(("encoder", "why"), rows)]


def shown(metric: Metric) -> str:
    """Return ``0.02 [0.00, 0.08], 1 of 60`` of a rate; of an AUROC, the number of planted encoders."""
    if metric.value is None or metric.interval is None:
        return "not measured"
    positive, negative = metric.n_positive or 0, metric.n_negative or 0
    ends = f"{metric.value:.3f} [{metric.interval.low:.3f}, {metric.interval.high:.3f}]"
    if metric.positive == "failed":
        return f"{ends}, {positive} of {positive + negative}"
    return f"{ends}, {positive} planted"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
