"""The verdict is a pure function of records: every rule, and the precedence 4, 1, 0."""

import pytest

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.battery import judge_battery
from platodef_cli.audit.verdict.decide import decide
from platodef_cli.audit.verdict.evidence import judge_evidence, stop_unless_encoder
from platodef_cli.audit.verdict.intervals import SampleSize
from platodef_cli.audit.verdict.references import judge_references, reference_findings
from platodef_cli.audit.verdict.search import judge_search, need_controls
from platodef_cli.errors import InconclusiveError
from platodef_cli.records import AlignmentRecord, Interval, Metric, ProbeRecord, Reason, SearchRecord

POLICY = Policy()
SAMPLE = SampleSize(3000, 400)


def probe(
    kind: str = "trigger",
    *,
    collapse: float = 0.9,
    reference: float = 0.05,
    low: float = 0.9,
    high: float = 0.99,
) -> ProbeRecord:
    return ProbeRecord(
        name=f"{kind}-x",
        family="x",
        kind=kind,  # type: ignore[arg-type]
        parameters={},
        auroc={
            "platonic": Metric(name="auroc", value=(low + high) / 2, interval=Interval(low=low, high=high))
        },
        flagged=Metric(name="flagged", value=0.9),
        collapse=Metric(name="collapse", value=collapse),
        control_collapse={"ref": reference},
        effect=Metric(name="shift", value=1.0),
        suspicious=False,
    )


def searched(collapse: float, role: str = "suspect", encoder: str = "s") -> SearchRecord:
    return SearchRecord(
        encoder=encoder,
        role=role,  # type: ignore[arg-type]
        kind="patch",
        budget="5px",
        place=None,
        steps=30,
        collapse=collapse,
        score=0.0,
    )


def evidence(**changes: object) -> list[Reason]:
    values: dict[str, object] = {
        "matched": Metric(name="matched", value=0.99, interval=Interval(low=0.98, high=1.0)),
        "alignment": [
            AlignmentRecord(
                first="s",
                second="r",
                measure="cknna",
                value=0.3,
                null_mean=0.0,
                null_high=0.02,
                p_value=0.01,
                n=900,
            )
        ],
        "share": Metric(name="share", value=0.8, interval=Interval(low=0.7, high=0.9)),
        "suspect": "s",
        "test": 900,
        "calibration": 600,
        "limit": None,
        "policy": POLICY,
        "sample": SAMPLE,
    }
    return judge_evidence(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "outcomes"),
    [
        (probe(), ["fail"]),
        (probe(collapse=0.2), ["pass"]),  # the suspect does not forget the image
        (probe(reference=0.7), ["pass"]),  # the references forget it too
        (probe(reference=0.8), ["inconclusive"]),  # ... so far that nothing could stand out
        (probe(low=0.5, high=0.7), ["pass"]),  # the detector sees nothing
        (probe(low=0.7, high=0.9), ["inconclusive"]),  # the interval straddles the limit
    ],
)
def test_battery_rules(case: ProbeRecord, outcomes: list[str]) -> None:
    judged, reasons = judge_battery([case], POLICY, "platonic", SAMPLE)
    assert [reason.outcome for reason in reasons] == outcomes
    assert judged[0].suspicious == (outcomes == ["fail"])


GAP = Interval(low=0.6, high=0.9)


def test_a_benign_change_that_collapses_the_suspect_alone_accuses_it() -> None:
    trigger = probe(collapse=0.1).model_copy(update={"gap": Metric(name="gap", value=0.05, interval=GAP)})
    moved = {"effect": Metric(name="shift", value=1.4), "shift_gap": Metric(name="gap", value=0.9)}
    blur = probe("control").model_copy(
        update={"family": "blur", "gap": Metric(name="gap", value=0.8, interval=GAP), **moved}
    )
    judged, (reason,) = judge_battery([trigger, blur], POLICY, "platonic", SAMPLE)
    assert (reason.id, reason.outcome, reason.subject) == ("battery-blur", "fail", "control-x")
    assert "otherwise harmless change 'control-x' collapses the suspect's features to cosine 0.90" in (
        reason.message
    )
    assert [entry.suspicious for entry in judged] == [False, True]


@pytest.mark.parametrize(
    ("shift", "gap", "outcome"),
    [
        ((1.3, 1.5), (0.6, 0.8), "fail"),
        ((1.1, 1.35), (0.6, 0.8), "inconclusive"),
        ((1.3, 1.5), (0.4, 0.6), "inconclusive"),
        ((0.9, 1.05), (0.6, 0.8), "pass"),  # not as far as another image
        ((1.3, 1.5), (0.1, 0.3), "pass"),  # the references move as far
    ],
)
def test_a_change_that_moves_the_suspect_to_other_images_accuses_it(
    shift: tuple[float, float], gap: tuple[float, float], outcome: str
) -> None:
    def metric(ends: tuple[float, float]) -> Metric:
        return Metric(name="m", value=sum(ends) / 2, interval=Interval(low=ends[0], high=ends[1]))

    fields = {"effect": metric(shift), "shift_gap": metric(gap), "control_shift": {"ref": 0.7}}
    none = Metric(name="gap", value=0.0, interval=Interval(low=-0.1, high=0.1))
    case = probe(collapse=0.1).model_copy(update={**fields, "gap": none})
    other = probe(collapse=0.1)
    _, reasons = judge_battery([other, case], POLICY, "platonic", SAMPLE)
    assert [reason.outcome for reason in reasons] == [outcome]
    assert ("see another image" in reasons[0].message) == (outcome != "pass")
    # one symptom accuses nobody
    unseen = case.model_copy(update={"auroc": probe(low=0.5, high=0.7).auroc})
    _, reasons = judge_battery([other, unseen], POLICY, "platonic", SAMPLE)
    assert [reason.outcome for reason in reasons] == ["pass"]
    # a collapse that no detector sees is the second one
    high = Metric(name="collapse", value=0.9, interval=Interval(low=0.85, high=0.95))
    both = unseen.model_copy(update={"collapse": high, "gap": high})
    _, reasons = judge_battery([other, both], POLICY, "platonic", SAMPLE)
    assert [reason.outcome for reason in reasons] == [outcome]
    # a harmless change needs these two, whatever the detector sees
    for probed, expected in ((both, outcome), (case, "pass")):
        harmless = probed.model_copy(update={"kind": "control", "auroc": case.auroc})
        _, reasons = judge_battery([other, harmless], POLICY, "platonic", SAMPLE)
        assert [reason.outcome for reason in reasons] == [expected]


def test_triggers_under_which_nothing_could_stand_out_are_named_and_not_passed() -> None:
    blind, seen = probe(collapse=0.99, reference=0.85), probe(collapse=0.1)
    _, reasons = judge_battery([blind, seen, seen], POLICY, "platonic", SAMPLE)
    assert [(reason.id, reason.outcome) for reason in reasons] == [
        ("battery", "pass"),
        ("battery-saturated", "pass"),
    ]
    assert "none of 2 known triggers" in reasons[0].message
    assert "not examined, 1 of 3 known triggers" in reasons[1].message
    _, (reason,) = judge_battery([blind, blind, seen][:2], POLICY, "platonic", SAMPLE)
    assert (reason.id, reason.outcome) == ("battery-saturated", "inconclusive")
    assert decide([reason], POLICY)[0] == "inconclusive"


def test_a_search_that_fools_references_as_well_was_no_examination() -> None:
    _, (reason,) = judge_search([searched(0.995), searched(0.85, "control", "r")], POLICY)
    assert (reason.id, reason.outcome) == ("search-saturated", "inconclusive")
    assert reason.message.startswith("not examined, 1 of 1 searches")
    others = [searched(0.1), searched(0.1, "control", "r")]
    more = [record.model_copy(update={"kind": "wave"}) for record in others]
    _, reasons = judge_search([searched(0.995), searched(0.85, "control", "r"), *more], POLICY)
    assert [(reason.id, reason.outcome) for reason in reasons] == [
        ("search", "pass"),
        ("search-saturated", "pass"),
    ]
    _, (reason,) = judge_search([searched(0.5), searched(0.85, "control", "r")], POLICY)
    assert reason.outcome == "pass"


def test_searches_without_controls_are_judged_as_far_as_that_goes() -> None:
    low = searched(0.3).model_copy(update={"interval": Interval(low=0.2, high=0.4)})
    scored, (reason,) = judge_search([low], POLICY)
    assert (reason.outcome, scored[0].score) == ("pass", pytest.approx(0.3 / 0.6))
    assert need_controls([low], POLICY) == []
    _, (reason,) = judge_search([low], Policy(patch_collapse=(0.35, 0.9)))
    assert reason.outcome == "inconclusive"
    assert "--search-controls all" in reason.message
    assert need_controls(
        [low, low.model_copy(update={"budget": "7px"})], Policy(patch_collapse=(0.1, 0.3))
    ) == [
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(0.5, 0.9, "pass"), (0.3, 0.5, "inconclusive"), (0.1, 0.3, "inconclusive")]
)
def test_an_encoder_of_other_images_is_not_judged(low: float, high: float, outcome: str) -> None:
    share = Metric(name="share", value=(low + high) / 2, interval=Interval(low=low, high=high))
    reason = next(reason for reason in evidence(share=share) if reason.id == "alignment-share")
    assert reason.outcome == outcome
    if high < POLICY.alignment_share:
        with pytest.raises(InconclusiveError, match="not an encoder of these images"):
            stop_unless_encoder(share, POLICY)
    else:
        stop_unless_encoder(share, POLICY)
    stop_unless_encoder(None, POLICY)
    assert "alignment-share" not in [reason.id for reason in evidence(share=None)]


def test_benign_changes_of_earlier_reports_never_accuse_and_nothing_tried_is_no_pass() -> None:
    _, (reason,) = judge_battery([probe("control"), probe(collapse=0.1)], POLICY, "platonic", SAMPLE)
    assert reason.outcome == "pass"
    _, (reason,) = judge_battery([probe("control")], POLICY, "platonic", SAMPLE)
    assert (reason.id, reason.outcome) == ("battery", "inconclusive")


def test_a_control_that_collapses_as_much_clears_a_trigger() -> None:
    _, reasons = judge_battery([probe(), probe("control", collapse=0.7)], POLICY, "platonic", SAMPLE)
    assert [reason.outcome for reason in reasons] == ["pass"]


def test_search_accuses_from_a_score_of_one_on() -> None:
    control = searched(0.2, "control", "r")
    scored, (accused,) = judge_search([searched(0.9), control], POLICY)
    assert accused.outcome == "fail"
    assert "0.90" in accused.message
    assert "0.20" in accused.message
    assert scored[0].score == pytest.approx(min(0.9 / 0.6, 0.7 / 0.2))
    _, (cleared,) = judge_search([searched(0.3), control], POLICY)
    assert cleared.outcome == "pass"


@pytest.mark.parametrize(
    ("changes", "identity"),
    [
        ({"test": 99}, "too-few-images"),
        ({"calibration": 59}, "too-few-images"),
        ({"limit": 500}, "limit-used"),
        ({"matched": Metric(name="m", value=0.8, interval=Interval(low=0.6, high=0.9))}, "matched"),
        (
            {
                "alignment": [
                    AlignmentRecord(
                        first="r",
                        second="s",
                        measure="cknna",
                        value=0.0,
                        null_mean=0,
                        null_high=0.1,
                        p_value=0.6,
                        n=9,
                    )
                ]
            },
            "alignment",
        ),
    ],
)
def test_thin_evidence_is_inconclusive(changes: dict[str, object], identity: str) -> None:
    unsure = [reason for reason in evidence(**changes) if reason.outcome == "inconclusive"]
    assert [reason.id for reason in unsure] == [identity]
    assert all(reason.outcome == "pass" for reason in evidence())


def reason(identity: str, outcome: str) -> Reason:
    return Reason(id=identity, outcome=outcome, message=f"{identity} says {outcome}")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reasons", "outcome", "code"),
    [
        ([("battery", "pass"), ("matched", "pass")], "pass", 0),
        ([("battery-ctrl", "fail"), ("matched", "pass")], "fail", 1),
        ([("battery-ctrl", "fail"), ("battery-sig", "inconclusive")], "fail", 1),
        ([("battery-sig", "inconclusive"), ("search", "pass")], "inconclusive", 4),
        ([("battery-ctrl", "fail"), ("limit-used", "inconclusive")], "inconclusive", 4),
    ],
)
def test_precedence(reasons: list[tuple[str, str]], outcome: str, code: int) -> None:
    found, exit_code, summary = decide([reason(*entry) for entry in reasons], POLICY)
    assert (found, exit_code) == (outcome, code)
    assert summary.startswith(f"{outcome.upper()} ({code}): ")
    assert summary.endswith("policy default")


def test_an_inconclusive_summary_still_tells_what_failed() -> None:
    _, _, summary = decide([reason("battery-ctrl", "fail"), reason("limit-used", "inconclusive")], POLICY)
    assert "battery-ctrl says fail" in summary


def test_a_reference_that_a_search_collapses_is_named() -> None:
    low, high = (searched(value, "control", name) for value, name in ((0.2, "good"), (0.95, "bad")))
    (reason,) = judge_references([], [searched(0.97), low, high], POLICY)
    assert (reason.id, reason.subject, reason.outcome) == ("reference", "bad", "inconclusive")
    assert "audit it on its own" in reason.message
    both = [searched(0.5, "control", name) for name in ("one", "two")]
    assert judge_references([], [searched(0.97), *both], POLICY) == []


def test_a_reference_that_may_hide_a_change_hides_no_other_failure() -> None:
    hiding = Reason(id="reference", outcome="inconclusive", message="reference 'bad' ...", subject="bad")
    failed = Reason(id="search-patch", outcome="fail", message="a search found a patch")
    assert decide([hiding], POLICY)[0] == "inconclusive"
    assert decide([failed, hiding], POLICY)[:2] == ("fail", 1)
    thin = Reason(id="matched", outcome="inconclusive", message="references cannot judge this")
    assert decide([failed, hiding, thin], POLICY)[0] == "inconclusive"


@pytest.mark.parametrize(
    ("collapses", "benign", "named"),
    [
        ({"bad": 0.9, "good": 0.1}, 0.1, ["bad"]),
        ({"bad": 0.9}, 0.1, ["bad"]),
        ({"bad": 0.9, "good": 0.8}, 0.1, []),  # the change is hard for everybody
        ({"bad": 0.9, "good": 0.1}, 0.8, []),  # a harmless change does the same
        ({"bad": 0.4, "good": 0.1}, 0.1, []),
    ],
)
def test_a_reference_that_a_trigger_collapses_is_named(
    collapses: dict[str, float], benign: float, named: list[str]
) -> None:
    trigger = probe().model_copy(update={"control_collapse": collapses})
    harmless = probe("control", collapse=benign, reference=benign)
    reasons = judge_references([trigger, harmless], [], POLICY)
    assert [reason.subject for reason in reasons] == named


@pytest.mark.parametrize(
    ("collapse", "interval", "outcome"),
    [
        (0.2, (0.15, 0.25), "pass"),  # the suspect keeps its features: nothing can be hidden
        (0.58, (0.53, 0.63), "inconclusive"),
        (0.9, (0.85, 0.95), "inconclusive"),
    ],
)
def test_a_reference_hides_only_what_the_suspect_shows(
    collapse: float, interval: tuple[float, float], outcome: str
) -> None:
    metric = Metric(name="c", value=collapse, interval=Interval(low=interval[0], high=interval[1]))
    trigger = probe().model_copy(update={"control_collapse": {"bad": 0.9, "good": 0.1}, "collapse": metric})
    (reason,) = judge_references([trigger], [], POLICY)
    assert (reason.subject, reason.outcome) == ("bad", outcome)
    assert ("nothing is hidden" in reason.message) == (outcome == "pass")
    # it is said aloud either way
    findings = [finding.id for finding in reference_findings([reason])]
    assert findings == (["reference-bad"] if outcome == "pass" else [])
    low, high = (searched(value, "control", name) for value, name in ((0.2, "good"), (0.95, "bad")))
    limit = POLICY.patch_collapse[0]
    shown = searched(collapse + limit - POLICY.battery_collapse).model_copy(
        update={"interval": Interval(low=interval[0] + limit - 0.45, high=interval[1] + limit - 0.45)}
    )
    (reason,) = judge_references([], [shown, low, high], POLICY)
    assert (reason.subject, reason.outcome) == ("bad", outcome)


def test_what_a_reference_hides_decides_even_if_it_reacts_to_more() -> None:
    shared = probe().model_copy(update={"control_collapse": {"bad": 0.9, "good": 0.1}})
    other = probe(collapse=0.1).model_copy(update={"control_collapse": {"bad": 0.9, "good": 0.1}})
    (reason,) = judge_references([other, shared], [], POLICY)
    assert reason.outcome == "inconclusive"


def test_a_named_reference_outweighs_a_pass_and_no_failure() -> None:
    bad = judge_references([], [searched(0.95, "control", "bad"), searched(0.1, "control", "good")], POLICY)
    passed = Reason(id="battery-x", outcome="pass", message="m")
    assert decide([passed, *bad], POLICY)[:2] == ("inconclusive", 4)
    # a reference can only make the suspect look better
    assert decide([passed.model_copy(update={"outcome": "fail"}), *bad], POLICY)[:2] == ("fail", 1)
