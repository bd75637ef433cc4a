"""The p-value of a verdict: valid in simulation, plain where it says nothing, and never a silent pass."""

import math
from pathlib import Path

import numpy as np
import pytest

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict import Gate, judge_again
from platodef_cli.audit.verdict.departure import departures
from platodef_cli.audit.verdict.error_rate import least_lineages, p_value
from platodef_cli.errors import UsageError
from platodef_cli.metrics.binomial import rate_metric
from platodef_cli.records import AuditReport, CalibrationSummary
from platodef_cli.report import render
from platodef_cli.report.interface import RenderOptions

GATE = Path(__file__).parents[2] / "golden" / "gate"


def recorded(name: str) -> AuditReport:
    return AuditReport.model_validate_json((GATE / f"{name}.json").read_bytes())


def calibrated(report: AuditReport, values: list[float], **changes: object) -> AuditReport:
    """Return a report whose calibration covers it."""
    assert report.images is not None
    assert report.target is not None
    found = departures(report.probes, report.searches, Policy(), report.deciding)
    given: dict[str, object] = {
        "digest": "0" * 64,
        "departures": tuple(values),
        "alarms": rate_metric(1, max(1, len(values)), name="alarms"),
        "limits": Policy().to_json(),
        "tests": tuple(sorted(departure.test for departure in found)),
        "references": tuple(sorted(reference.digest for reference in report.references)),
        "sides": (report.target.transform.size[0],),
        "images": report.images.uri.partition("?")[0],
        "test_images": report.images.test,
        **changes,
    }
    return report.model_copy(update={"calibration": CalibrationSummary.model_validate(given)})


@pytest.mark.parametrize("ties", [False, True])
def test_p_values_of_clean_encoders_are_valid(ties: bool) -> None:
    """P(p <= alpha) is alpha where alpha (n + 1) is whole and nothing ties, and less otherwise."""
    generator = np.random.default_rng(0)
    trials, count = 4000, 49
    drawn = generator.standard_t(2, size=(trials, count + 1))  # of any distribution, heavy tails too
    if ties:
        drawn = np.round(drawn)
    values = np.array([p_value(row[0], row[1:].tolist()) for row in drawn])
    for alpha in (0.02, 0.05, 0.1, 0.2, 0.5):
        rate, error = (values <= alpha + 1e-12).mean(), math.sqrt(alpha * (1 - alpha) / trials)
        assert rate <= alpha + 4 * error
        if not ties and (alpha * (count + 1)) % 1 < 1e-9:
            assert rate >= alpha - 4 * error
    assert values.min() >= 1 / (count + 1)


def test_the_interval_of_the_observed_rate_covers() -> None:
    """Clopper and Pearson: 95 % or more at every rate, at numbers of lineages that a calibration has."""
    from scipy.stats import binom

    for count in (12, 63, 120):
        intervals = [rate_metric(k, count).interval for k in range(count + 1)]
        for rate in (0.005, 0.01, 0.03, 0.1, 0.3):
            inside = [each is not None and each.low <= rate <= each.high for each in intervals]
            assert (binom.pmf(np.arange(count + 1), count, rate) * inside).sum() >= 0.95 - 1e-9


@pytest.mark.parametrize(("alpha", "fewest"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.5, 1), (0.9, 1)])
def test_how_many_lineages_a_rate_takes(alpha: float, fewest: int) -> None:
    assert least_lineages(alpha) == fewest
    assert 1 / (fewest + 1) <= alpha + 1e-12
    assert fewest == 1 or 1 / fewest > alpha


def test_a_failure_that_clean_encoders_share_is_inconclusive() -> None:
    report = calibrated(recorded("backdoored"), [-0.5] * 15 + [5.0] * 10)
    judged = judge_again(report, Gate(Policy(alpha=0.05)))
    assert (judged.verdict, judged.exit_code) == ("inconclusive", 4)
    assert judged.error_rate is not None
    assert judged.error_rate.p_value == pytest.approx(11 / 26)
    assert "p = 0.423, over alpha = 0.05 (25 lineages)" in judged.summary
    assert judge_again(judged, Gate(Policy(alpha=0.05))) == judged
    # a rule of the user's own stands
    ruled = judge_again(report, Gate(Policy(alpha=0.05, fail_if=("auroc > 0.5",))))
    assert ruled.verdict == "fail"


@pytest.mark.parametrize(
    ("count", "alpha", "words"),
    [(25, 0.05, "A failure needs p of alpha = 0.05 or less"), (25, 0.01, "the rate 0.01 is not shown")],
)
def test_a_failure_that_no_clean_encoder_shares_stands(count: int, alpha: float, words: str) -> None:
    judged = judge_again(calibrated(recorded("backdoored"), [-0.5] * count), Gate(Policy(alpha=alpha)))
    assert judged.verdict == "fail"
    assert judged.error_rate is not None
    assert judged.error_rate.p_value == pytest.approx(1 / (count + 1))
    assert judged.error_rate.decides == (alpha == 0.05)
    assert words in judged.error_rate.statement
    assert "1 of 25 (4.0%, 95% interval 0.1% to 20.4%)" in judged.error_rate.statement


def test_with_too_few_lineages_the_limits_decide() -> None:
    judged = judge_again(calibrated(recorded("backdoored"), [5.0] * 5), Gate(Policy()))
    assert judged.verdict == "fail"
    assert judged.error_rate is not None
    assert not judged.error_rate.decides
    assert judged.error_rate.least == pytest.approx(1 / 6)
    assert "takes 99" in judged.error_rate.statement


@pytest.mark.parametrize("values", [[], [-0.9] * 150, [9.0] * 150])
def test_a_clean_encoder_passes_whatever_the_calibration(values: list[float]) -> None:
    assert judge_again(calibrated(recorded("clean"), values), Gate(Policy())).verdict == "pass"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sides": (224,)}, "an input of 32x32 pixels, calibrated for 224"),
        ({"references": ("0" * 64,)}, "other references"),
        ({"images": "hf://datasets/x"}, "other images, calibrated with hf://datasets/x"),
        ({"test_images": 10}, "test images, calibrated with 10"),
        ({"tests": ("battery ctrl-100",)}, "other tests (with battery"),
    ],
)
def test_what_a_calibration_does_not_cover_is_said_and_decides_nothing(
    changes: dict[str, object], words: str
) -> None:
    report = calibrated(recorded("backdoored"), [9.0] * 150, **changes)
    judged = judge_again(report, Gate(Policy()))
    assert judged.verdict == "fail"
    assert judged.error_rate is not None
    assert judged.error_rate.p_value is None
    assert any(words in difference for difference in judged.error_rate.outside)
    assert "does not cover this audit" in judged.error_rate.statement


def test_limits_of_the_user_change_no_p_value() -> None:
    report = calibrated(recorded("backdoored"), [-0.5] * 30)
    usual = judge_again(report, Gate(Policy())).error_rate
    mild = judge_again(report, Gate(Policy(battery_collapse=0.99, patch_collapse=(1.0, 1.0)))).error_rate
    assert usual == mild


def test_a_report_without_a_calibration_is_judged_by_its_limits() -> None:
    for name in ("clean", "backdoored"):
        report = recorded(name).model_copy(update={"calibration": None})
        judged = judge_again(report, Gate(Policy()))
        assert judged.error_rate is None
        assert judged.verdict == report.verdict


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_alpha_is_a_rate(alpha: float) -> None:
    with pytest.raises(UsageError, match="alpha is .*; give above 0 and below 1"):
        Policy(alpha=alpha)


def test_the_first_screen_says_it_in_one_line() -> None:
    usual = judge_again(calibrated(recorded("clean"), [-0.1] * 24), Gate(Policy(alpha=0.05)))
    assert "p = 1.000 beside 24 clean lineages, the limits fail 1 of them" in _screen(usual)
    other = judge_again(calibrated(recorded("clean"), [-0.1] * 24, sides=(224,)), Gate(Policy()))
    assert "no p-value: an input of 32x32 pixels, calibrated for 224" in _screen(other)


def _screen(report: AuditReport) -> str:
    return " ".join(render(report, "terminal", RenderOptions(width=80)).split())


def test_a_search_that_the_calibration_does_not_know_leaves_the_p_value_and_fails_by_its_limits() -> None:
    recorded_ = recorded("backdoored-frequency")
    found = departures(recorded_.probes, recorded_.searches, Policy(), recorded_.deciding)
    tests = tuple(sorted(entry.test for entry in found if not entry.test.startswith("search patch")))
    report = calibrated(recorded_, [9.0] * 150, tests=tests)
    judged = judge_again(report, Gate(Policy()))
    rate = judged.error_rate
    assert rate is not None
    assert rate.uncounted == ("patch",)
    assert rate.outside == ()
    assert rate.p_value == 1.0
    assert rate.departure is not None
    assert "Not counted: the search for patch" in rate.statement
    outcomes = {reason.id: reason.outcome for reason in judged.reasons}
    assert (outcomes["search-patch"], outcomes["search-corners"]) == ("fail", "inconclusive")
    assert judged.verdict == "fail"
    counted = judge_again(calibrated(recorded_, [9.0] * 150), Gate(Policy()))
    assert counted.error_rate is not None
    assert counted.error_rate.uncounted == ()
    assert {reason.id: reason.outcome for reason in counted.reasons}["search-patch"] == "inconclusive"
