"""Whether there are enough images for an answer: known from their number, before anything is loaded."""

from collections.abc import Sequence

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.verdict.evidence import needed
from platodef_cli.errors import InconclusiveError
from platodef_cli.heads.fit import FEWEST_ROWS

_FEWEST_TESTS = 20


def check_count(
    counts: Sequence[int], config: AuditConfig, *, ready_heads: bool, usable: bool = False
) -> None:
    """Check that so many images to fit, calibrate and test can carry an answer.

    A trial run with ``--limit``, which gives no answer anyway, needs only what heads and thresholds need.

    Args:
        counts: Images of each role.
        config: False positive rate, policy, limit.
        ready_heads: Whether no heads are fitted.
        usable: The images were decoded, and broken ones have dropped out. Only what cannot be computed at all
            is an error then, because the verdict tells of the rest.

    Raises:
        InconclusiveError: They are too few; the message says how many are needed.
    """
    fit, calibration, test = counts
    policy, enough = config.limits, needed(config.limits, config.false_positive_rate)
    fits = ready_heads or fit >= FEWEST_ROWS
    computable = fits and calibration >= 1 / config.false_positive_rate and test >= _FEWEST_TESTS
    answerable = test >= policy.min_test and calibration >= policy.min_calibration
    if computable and (answerable or usable or config.limit is not None):
        return
    given = sum(counts)
    if not computable:
        asked = f"an audit with a false positive rate of {config.false_positive_rate:g}"
        raise InconclusiveError(
            f"{given} images are too few for {asked}; give at least {enough} (a few thousand are better)"
        )
    raise InconclusiveError(
        f"{given} images are too few for an answer: they give {test} test and {calibration} calibration "
        f"images, and policy {policy.name!r} asks for {policy.min_test} and {policy.min_calibration}; give "
        f"at least {enough} (a few thousand are better), or --limit {given} for a trial run"
    )
