"""How many images would settle a question: said only where the answer would change the outcome."""

import re
from collections.abc import Sequence

from platodef_cli.audit.verdict.decide import is_indicator
from platodef_cli.records import Reason

_ADVICE = re.compile(
    r"; (?:about \d+ images(?: and --probe-images \d+)?|no practical number of images) would settle it"
)
_FEW = ("too-few-images", "limit-used")  # general reasons that more images settle, besides those that say so


def useful_advice(reasons: Sequence[Reason]) -> tuple[Reason, ...]:
    """Return the reasons, without advice that would not change what :func:`decide` says if it were followed.

    That is advice about an indicator beside one that has failed, or beside evidence that no number of images
    repairs, and about whatever is waived or known.
    """
    deciding = [reason for reason in reasons if reason.decides]
    failed = any(reason.outcome == "fail" for reason in deciding)
    lasting = any(
        reason.outcome == "inconclusive"
        and not is_indicator(reason)
        and reason.needed is None
        and reason.id not in _FEW
        for reason in deciding
    )
    return tuple(
        _without_advice(reason)
        if not reason.decides or (is_indicator(reason) and (failed or lasting))
        else reason
        for reason in reasons
    )


def _without_advice(reason: Reason) -> Reason:
    message = _ADVICE.sub("", reason.message)
    if message == reason.message and reason.needed is None:
        return reason
    return reason.model_copy(update={"message": message, "needed": None})
