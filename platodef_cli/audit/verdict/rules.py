"""Rules of the form ``METRIC OP VALUE`` that fail an audit."""

import math
import re
from dataclasses import dataclass

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.case import Case
from platodef_cli.audit.verdict.intervals import Answer, Estimate, SampleSize
from platodef_cli.audit.verdict.metric_names import named
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.records import Outcome, Reason

OPERATORS = ("<", "<=", ">", ">=", "==")
_CORRECTIONS = {"=": "==", "=<": "<=", "=>": ">=", "≤": "<=", "≥": ">="}
_RULE = re.compile(
    r"\s*(?P<metric>[^\s<>=!≤≥~]+)\s*(?P<operator>[<>=!≤≥~]+)\s*(?P<value>[^\s%<>=]+)\s*(?P<percent>%?)\s*"
)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_OUTCOMES: dict[Answer, Outcome] = {"yes": "fail", "no": "pass", "unsure": "inconclusive"}


@dataclass(frozen=True)
class Rule:
    """Fail if ``metric operator value``.

    Attributes:
        metric: A name of :data:`platodef_cli.audit.verdict.metric_names.METRICS`.
        operator: One of :data:`OPERATORS`.
        value: The limit.
    """

    metric: str
    operator: str
    value: float

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {self.value:.12g}"

    def holds(self, measured: Estimate) -> Answer:
        """Return whether the rule holds: for every value in the interval, for none, or for some."""
        if measured.value is None:
            return "unsure"
        ends = [_compare(end, self.operator, self.value) for end in (measured.low, measured.high)]
        if self.operator == "==":
            inside = measured.low <= self.value <= measured.high
            return "yes" if all(ends) else "unsure" if inside else "no"
        return "yes" if all(ends) else "unsure" if any(ends) else "no"


def _compare(first: float, operator: str, second: float) -> bool:
    match operator:
        case "<":
            return first < second
        case "<=":
            return first <= second
        case ">":
            return first > second
        case ">=":
            return first >= second
        case _:
            return first == second


def parse_rule(text: str) -> Rule:
    """Parse ``METRIC OP VALUE``; the value may end in ``%``.

    Raises:
        UsageError: It has another form, or an unknown metric or operator; the message has a suggestion.
    """
    match = _RULE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"the rule {text!r} is not of the form 'METRIC OP VALUE', such as 'auroc > 0.9'; "
            f"operators are {' '.join(OPERATORS)}, `platodef policy metrics` lists the metrics"
        )
    operator = match["operator"]
    if operator not in OPERATORS:
        meant = _CORRECTIONS.get(operator)
        if meant:
            raise UsageError(
                f"unknown operator {operator!r} in the rule {text!r} (did you mean {meant!r}?); "
                f"choose one of: {' '.join(OPERATORS)}"
            )
        raise UnknownNameError(f"operator in the rule {text!r}:", operator, OPERATORS)
    named(match["metric"])
    if not _NUMBER.fullmatch(match["value"]) or not math.isfinite(float(match["value"])):
        raise UsageError(f"the rule {text!r} compares with {match['value']!r}, which is not a number")
    return Rule(match["metric"], operator, float(match["value"]) / (100 if match["percent"] else 1))


def compares_with_references(policy: Policy) -> bool:
    """Return whether a rule is about what searches reach beyond the references.

    Raises:
        UsageError: A rule is wrong.
    """
    return any(parse_rule(text).metric in ("search-gap", "search-score") for text in policy.fail_if)


def judge_rules(case: Case, policy: Policy, sample: SampleSize) -> list[Reason]:
    """Return one reason per rule of the policy.

    A rule about what the report does not hold is inconclusive: not examined is never clean.

    Raises:
        UsageError: A rule is wrong.
    """
    return [_judge(parse_rule(text), case, sample) for text in policy.fail_if]


def _judge(rule: Rule, case: Case, sample: SampleSize) -> Reason:
    metric = named(rule.metric)
    measured = metric.read(case)
    answer = rule.holds(measured)
    needed, advice = None, ""
    if measured.value is None:
        lacks = f" (it needs {metric.needs})" if metric.needs else ""
        message = f"the rule 'fail if {rule}' cannot be judged: the report holds no {rule.metric}{lacks}"
    else:
        if answer == "unsure":
            needed, advice = sample.more([(measured, rule.value)])
        shown_value = measured.format(3) if measured.interval or measured.value % 1 else f"{measured.value:g}"
        verb = {"yes": "holds", "no": "does not hold", "unsure": "is undecided"}[answer]
        message = f"the rule 'fail if {rule}' {verb}: {rule.metric} is {shown_value}{advice}"
    return Reason(
        id=f"fail-if-{rule.metric}",
        outcome=_OUTCOMES[answer],
        message=message,
        metric=rule.metric,
        value=measured.value,
        limit=rule.value,
        subject=str(rule),
        interval=measured.interval,
        needed=needed,
    )
