"""From reasons to one outcome, exit code and last line."""

from collections.abc import Sequence

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.errors import EXIT_CODES
from platodef_cli.records import Outcome, Reason

_INDICATORS = ("battery", "search", "fail-if")


def is_indicator(reason: Reason) -> bool:
    """Return whether a reason is about the suspect, not about what the evidence can carry."""
    return reason.id.startswith(_INDICATORS)


def decide(reasons: Sequence[Reason], policy: Policy) -> tuple[Outcome, int, str]:
    """Return outcome, exit code and the last line on stderr.

    An indicator whose interval straddles its limit matters only where no other one decides. So does a
    reference that may hide a change: it can only make the suspect look better. Evidence that cannot carry
    a verdict makes it inconclusive (the precedence of the exit codes: 4, 1, 0). A model that nobody who is
    trusted has signed, where the policy requires it, is refused whatever was measured. Reasons that are
    waived, or known from the baseline, do not decide.
    """
    deciding = [reason for reason in reasons if reason.decides]
    undecided = [reason for reason in deciding if reason.outcome == "inconclusive"]
    # "battery" and "search" themselves are undecided where nothing was measured: thin evidence
    unsure = [r for r in undecided if (is_indicator(r) and r.id not in _INDICATORS) or r.id == "reference"]
    general = [reason for reason in undecided if reason not in unsure]
    failed = [reason for reason in deciding if reason.outcome == "fail"]
    refused = [reason for reason in deciding if reason.outcome == "refused"]
    outcome: Outcome = "pass"
    if refused:
        outcome = "refused"
    elif general or (unsure and not failed):
        outcome = "inconclusive"
    elif failed:
        outcome = "fail"
    first = next(iter((*refused, *general, *failed, *unsure)), None)
    also = f"; besides, {failed[0].message}" if general and failed and not refused else ""
    why = _nothing(reasons) if first is None else first.message + also
    code = EXIT_CODES[outcome]
    return outcome, code, f"{outcome.upper()} ({code}): {why} — policy {policy.name}"


def _nothing(reasons: Sequence[Reason]) -> str:
    """Return why nothing speaks against a pass."""
    waived = [reason.id for reason in reasons if reason.waived and reason.outcome != "pass"]
    known = [reason.id for reason in reasons if reason.known and not reason.waived]
    if not waived and not known:
        return "no tested indicator crossed its limit"
    parts = [f"{len(waived)} waived ({_listed(waived)})"] if waived else []
    parts += [f"{len(known)} no worse than in the baseline ({_listed(known)})"] if known else []
    return f"no other indicator crossed its limit than {' and '.join(parts)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))
