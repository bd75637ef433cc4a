"""The committed page about encoders is what the installed libraries say."""

from pathlib import Path

import pytest

from platodef_cli.bench.encoders_page import COMMAND, versions
from platodef_cli.cli.app import main
from platodef_cli.encoders.backends.transformers_catalogue import ALSO_TESTED
from platodef_cli.encoders.backends.transformers_models import FAMILIES, LEFT_OUT
from tests.contract import common_models, encoder_models, tower_models
from tests.contract.test_transformers_mapping import ELSEWHERE, KINDS

PAGE = Path(__file__).parents[2] / "examples" / "ENCODERS.md"


def rows(page: str) -> dict[str, list[str]]:
    """Return the cells behind every type in the tables of what loads."""
    cells = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    return {first.strip("`"): rest for first, *rest in cells}


def test_the_page_is_what_the_libraries_say(tmp_path: Path) -> None:
    committed = PAGE.read_text()
    assert f"made by `{COMMAND}`" in " ".join(committed.split())
    if versions() not in " ".join(committed.split()):
        pytest.skip(f"the page is about other versions than {versions()}")
    assert main(["bench", "encoders", "-o", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == committed, f"run {COMMAND}"


def test_every_type_that_the_page_calls_supported_has_a_test() -> None:
    tested = {
        *KINDS,
        *encoder_models.MAKERS,
        "qwen2_vl",
        *tower_models.MAKERS,
        *common_models.KINDS,
        *ELSEWHERE,
    }
    assert {*FAMILIES, *ALSO_TESTED} <= tested
    assert rows(PAGE.read_text()).keys() <= tested


def test_what_is_left_out_is_in_no_table_of_what_loads() -> None:
    page = PAGE.read_text()
    assert not rows(page).keys() & LEFT_OUT.keys()
    left = page.partition("### What is left out")[2].partition("## timm")[0]
    for kind in ("detr", "sam", "videomae", "glm_ocr", "llava_next"):
        assert f"`{kind}`" in left
    assert rows(page)["deit"] == ["`DeiTModel`", "pooler_output", "class token"]
    assert rows(page)["qwen3_vl_vision"][1] == "mean of image features"
