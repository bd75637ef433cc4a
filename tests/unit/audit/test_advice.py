"""How many images would settle a question is said where the answer would change the outcome."""

from typing import Any

import pytest

from platodef_cli.audit.verdict.advice import useful_advice
from platodef_cli.records import Reason

ADVICE = "; about 71000 images and --probe-images 15000 would settle it"


def undecided(identity: str, advice: str = ADVICE, **more: Any) -> Reason:
    needed = 71000 if "about" in advice else None
    return Reason(id=identity, outcome="inconclusive", message=f"unsure{advice}", needed=needed, **more)


def failed(identity: str, **more: Any) -> Reason:
    return Reason(id=identity, outcome="fail", message="found", **more)


UNALIGNED = Reason(id="alignment", outcome="inconclusive", message="no reference is aligned")
LIMITED = Reason(id="limit-used", outcome="inconclusive", message="a trial run", limit=None)


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ([], True),
        ([failed("battery-patch")], False),
        ([failed("battery-patch", waived=True)], True),
        ([UNALIGNED], False),
        ([LIMITED], True),
        ([undecided("matched")], True),
    ],
)
@pytest.mark.parametrize(
    "advice",
    [ADVICE, "; about 900 images would settle it", "; no practical number of images would settle it"],
)
def test_advice_stands_where_it_would_change_the_outcome(
    others: list[Reason], told: bool, advice: str
) -> None:
    reason = undecided("search-patch", advice)
    kept = useful_advice([reason, *others])
    assert kept[0].message == (reason.message if told else "unsure")
    assert kept[0].needed == (reason.needed if told else None)
    assert list(kept[1:]) == others  # that of the evidence stays: settled, it would leave the failure


def test_waived_questions_need_no_images() -> None:
    assert useful_advice([undecided("search-patch", waived=True)])[0].message == "unsure"
