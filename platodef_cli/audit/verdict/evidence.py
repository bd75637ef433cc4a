"""Whether the evidence can carry a verdict at all."""

import math
from collections.abc import Sequence

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.case import Case
from platodef_cli.audit.verdict.intervals import Estimate, SampleSize
from platodef_cli.errors import InconclusiveError
from platodef_cli.records import ALIGNMENT_SHARE, AlignmentRecord, Metric, Reason

_TEST_SHARE, _CALIBRATION_SHARE = 0.3, 0.2  # of the images that an audit is given


def evidence_of(case: Case, policy: Policy, sample: SampleSize) -> list[Reason]:
    """Return :func:`judge_evidence` of what a report records."""
    limit = case.configuration.get("limit")
    return judge_evidence(
        matched=matched_auroc(case),
        alignment=_of_pixels(case),
        share=share_of(case),
        suspect=case.target.name,
        test=case.images.test,
        calibration=case.images.calibration,
        limit=int(limit) if isinstance(limit, int | float) else None,
        policy=policy,
        sample=sample,
    )


def _of_pixels(case: Case) -> list[AlignmentRecord]:
    """Return the alignments without those of text references, which agree with images coarsely only."""
    texts = {record.name for record in case.references if record.reads_text}
    if len(texts) == len(case.references):
        return list(case.alignment)
    return [record for record in case.alignment if not texts & {record.first, record.second}]


def matched_auroc(case: Case) -> Metric | None:
    """Return the matched AUROC of the energy, or of the deciding detector where that was left out."""
    named = {metric.name: metric for metric in case.metrics}
    what = "matched against mismatched"
    return named.get(f"energy: {what}", named.get(f"{case.deciding}: {what}"))


def share_of(case: Case) -> Metric | None:
    """Return the alignment with the references as a share of theirs, where there are two or more."""
    return next((metric for metric in case.metrics if metric.name == ALIGNMENT_SHARE), None)


def judge_evidence(
    *,
    matched: Metric | None,
    alignment: Sequence[AlignmentRecord],
    share: Metric | None,
    suspect: str,
    test: int,
    calibration: int,
    limit: int | None,
    policy: Policy,
    sample: SampleSize,
) -> list[Reason]:
    """Return reasons why the evidence cannot carry a verdict, or passing reasons why it can."""
    reasons = []
    if test < policy.min_test or calibration < policy.min_calibration:
        reasons.append(
            Reason(
                id="too-few-images",
                outcome="inconclusive",
                message=f"{test} test and {calibration} calibration images are too few; at least "
                f"{policy.min_test} and {policy.min_calibration} are needed, so give about {needed(policy)} "
                "images or more",
                metric="test images",
                value=test,
                limit=policy.min_test,
                needed=needed(policy),
            )
        )
    if limit is not None:
        reasons.append(
            Reason(
                id="limit-used",
                outcome="inconclusive",
                message=f"--limit {limit} was used: an audit of a part of the images is a trial run, "
                "not an answer",
            )
        )
    aligned = _aligned(alignment, suspect, policy)
    agrees = [] if share is None else [judge_share(share, policy, sample)]
    return [*reasons, aligned, *agrees, _matched(matched, policy, sample)]


def stop_unless_encoder(share: Metric | None, policy: Policy) -> None:
    """End an audit before anything is searched where the suspect is no encoder of the images.

    Raises:
        InconclusiveError: It certainly is none.
    """
    if share is not None and Estimate.of(share).reaches(policy.alignment_share) == "no":
        raise InconclusiveError(judge_share(share, policy, SampleSize(0, 0)).message)


def judge_share(share: Metric, policy: Policy, sample: SampleSize) -> Reason:
    """Return whether the suspect sees in these images what encoders of them see.

    A random, constant or dead encoder does not, nor does one of other images: whatever a search reaches on it
    says nothing.
    """
    measured = Estimate.of(share)
    answer = measured.reaches(policy.alignment_share)
    count, advice = None, ""
    if answer == "unsure":
        count, advice = sample.more([(measured, policy.alignment_share)])
    text = measured.format()
    why = {
        "yes": f"the suspect agrees with the references as encoders of these images do: {text} of what they "
        "reach among themselves (CKNNA)",
        "no": f"not an encoder of these images: the suspect agrees with the references by {text} of what "
        f"they reach among themselves (CKNNA), limit {policy.alignment_share:.2f}; give images of the kind "
        "that the suspect was made for, or take it for untrained, broken, or too narrow to judge",
        "unsure": f"the suspect agrees with the references by {text} of what they reach among themselves "
        f"(CKNNA), which straddles the limit {policy.alignment_share:.2f}{advice}",
    }
    return Reason(
        id="alignment-share",
        outcome="pass" if answer == "yes" else "inconclusive",
        message=why[answer],
        metric="alignment share",
        value=measured.value,
        limit=policy.alignment_share,
        interval=measured.interval,
        needed=count,
    )


def _aligned(alignment: Sequence[AlignmentRecord], suspect: str, policy: Policy) -> Reason:
    pairs = [
        record
        for record in alignment
        if record.measure == "cknna" and suspect in (record.first, record.second)
    ]
    aligned = [record for record in pairs if record.p_value <= policy.alignment_p]
    best = max(pairs, key=lambda record: record.value, default=None)
    if best is None:
        return Reason(
            id="alignment",
            outcome="inconclusive",
            message="the alignment of the suspect with the references was not measured",
        )
    other = best.second if best.first == suspect else best.first
    detail = f"CKNNA {best.value:.2f} with {other}, null at most {best.null_high:.2f}"
    return Reason(
        id="alignment",
        outcome="pass" if aligned else "inconclusive",
        message=f"the references see what the suspect sees: {detail}"
        if aligned
        else f"no reference is aligned with the suspect ({detail}): choose references that know these images",
        metric="cknna",
        value=best.value,
        limit=best.null_high,
    )


def _matched(matched: Metric | None, policy: Policy, sample: SampleSize) -> Reason:
    measured = Estimate.of(matched, "logit")
    answer = measured.reaches(policy.matched_auroc)
    count, advice = None, ""
    if answer == "unsure" and measured.value is not None:
        count, advice = sample.more([(measured, policy.matched_auroc)])
    detail = "" if measured.value is None else f" with AUROC {measured.format(3)}"
    why = {
        "yes": f"the energy tells matched from mismatched tuples{detail}",
        "no": f"the energy tells matched from mismatched tuples{detail} only, limit "
        f"{policy.matched_auroc:.2f}: the references cannot judge this encoder",
        "unsure": f"the energy tells matched from mismatched tuples{detail}, which straddles the limit "
        f"{policy.matched_auroc:.2f}{advice}",
    }
    unmeasured = "whether the energy tells matched from mismatched tuples was not measured"
    return Reason(
        id="matched",
        outcome="pass" if answer == "yes" else "inconclusive",
        message=unmeasured if measured.value is None else why[answer],
        metric="matched auroc",
        value=measured.value,
        limit=policy.matched_auroc,
        interval=measured.interval,
        needed=count,
    )


def needed(policy: Policy, rate: float = 1.0) -> int:
    """Return how many images an audit should have for its policy, given the split 50/20/30.

    Args:
        policy: Its fewest test and calibration images.
        rate: The false positive rate, which takes at least ``1 / rate`` calibration images.
    """
    calibration = max(policy.min_calibration, math.ceil(1 / rate - 1e-9))
    return max(int(policy.min_test / _TEST_SHARE), int(calibration / _CALIBRATION_SHARE)) + 10
