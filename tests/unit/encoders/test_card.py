"""The model card: what its front says, and nothing from cards that are none."""

from pathlib import Path

import pytest

from platodef_cli.encoders.checks.card import read_card


def test_licence_and_bases(tmp_path: Path) -> None:
    assert read_card(tmp_path) is None
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\nbase_model:\n- a/b\n- 3\n---\n# x\n")
    card = read_card(tmp_path)
    assert card is not None
    assert (card.license, card.base_models) == ("apache-2.0", ("a/b",))
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: mine\nbase_model: c/d\n---\n")
    card = read_card(tmp_path)
    assert card is not None
    assert (card.license, card.base_models) == ("mine", ("c/d",))


@pytest.mark.parametrize(
    "text",
    [
        b"", b"# no front", b"---\nlicense: x\n", b"---\n[\n---\n", b"---\n- a\n---\n", b"\xff\xfe",
        b"---\na: &a [1]\nb: [*a, *a]\n---\n", b"---\n" + b"[" * 5000 + b"\n---\n",
    ],
)  # fmt: skip
def test_cards_that_are_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "README.md").write_bytes(text)
    assert read_card(tmp_path) is None


def test_a_card_elsewhere_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_text("---\nlicense: x\n---\n")
    (tmp_path / "model" / "README.md").symlink_to(tmp_path / "secret")
    assert read_card(tmp_path / "model") is None
