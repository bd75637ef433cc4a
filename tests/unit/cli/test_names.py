import pytest

from platodef_cli.cli.names import chosen
from platodef_cli.defences import DETECTORS, ENCODER_DETECTORS
from platodef_cli.errors import UnknownNameError


def test_commas_and_repetition_mean_the_same_and_tables_share_a_list() -> None:
    expected = (("ridge", "dao"), ("decree",))
    assert chosen(["ridge,decree", "dao", "ridge"], DETECTORS, ENCODER_DETECTORS) == expected
    assert chosen(["ridge", "decree", " dao"], DETECTORS, ENCODER_DETECTORS) == expected


def test_nothing_given_is_all_and_none_is_none() -> None:
    assert chosen(None, DETECTORS) == (DETECTORS.names(),)
    assert chosen(["none"], DETECTORS, ENCODER_DETECTORS) == ((), ())


def test_unknown_names_list_the_choices_of_all_tables() -> None:
    with pytest.raises(UnknownNameError, match="unknown detector 'decre' .did you mean 'decree'"):
        chosen(["ridge,decre"], DETECTORS, ENCODER_DETECTORS)
