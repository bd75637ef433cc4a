"""What a policy and the number of images may be."""

import pytest

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.evidence import needed
from platodef_cli.errors import UsageError


@pytest.mark.parametrize(
    "limits",
    [
        {"patch_collapse": (0.6, 0.0)},
        {"universal_collapse": (-0.1, 0.6)},
        {"wave_collapse": (1.5,)},
        {"search_gap": 0.0},
        {"search_gap": float("nan")},
    ],
)
def test_limits_that_scores_divide_by_are_positive(limits):
    with pytest.raises(UsageError, match=f"{next(iter(limits))} is .*above 0"):
        Policy(**limits)


def test_a_low_false_positive_rate_needs_more_images():
    assert needed(Policy()) == needed(Policy(), 0.05) == 343
    assert needed(Policy(), 0.001) * 0.2 >= 1000
