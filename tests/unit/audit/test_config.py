"""What a policy and the number of images may be."""

import pytest

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.evidence import needed
from platodef_cli.errors import UnknownNameError, UsageError


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


def test_commas_and_repetition_mean_the_same_and_tables_share_a_list():
    for given in (["ridge,decree", "dao", "ridge"], ["ridge", "decree", " dao"], "ridge, decree,dao"):
        config = AuditConfig("m", detectors=given)
        assert (config.sample_detectors, config.encoder_detectors) == (("ridge", "dao"), ("decree",))


def test_none_is_no_choice_and_leaves_the_default():
    nothing = AuditConfig("m")
    assert AuditConfig("m", detectors=["none"]) == nothing
    assert (nothing.detectors, nothing.encoder_detectors) == ((), ())


def test_unknown_names_list_the_choices_of_all_tables():
    with pytest.raises(UnknownNameError, match="unknown detector 'decre' .did you mean 'decree'"):
        AuditConfig("m", detectors=["ridge,decre"])
