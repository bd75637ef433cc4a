"""`platodef audit --plan`: what would be computed and how long, as a table and as JSON."""

import json
from pathlib import Path

import pytest

from tests.unit.cli.calls import Call

IMAGES = "builtin:shapes?seed=1&count=400"
WORDS = ("audit", "builtin:clean", "--images", IMAGES, "--offline", "--battery", "quick", "--plan")


def test_a_plan_is_a_table_that_ends_with_0_and_leaves_nothing(platodef: Call, tmp_path: Path) -> None:
    done = platodef(*WORDS)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "plan: 400 images (200 fit, 80 calibration, 120 test);"
    assert lines[1] == "      10 changes of 120 images, 7 searches"
    assert lines[2].split() == ["encoder", "passes", "cached", "ms", "gradients", "ms", "precision"]
    assert [line.split()[0] for line in lines[3:6]] == ["clean", "reference-vit", "reference-cnx"]
    assert any(line.startswith("in all") for line in lines)
    assert any(line.startswith("memory") for line in lines)
    assert all(len(line) <= 80 for line in lines)
    assert done.last.startswith("OK (0): the audit takes about ")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_plan_as_json_beside_the_table(platodef: Call, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    done = platodef(*WORDS, "-o", f"json={path}", "-o", "terminal")
    assert done.code == 0
    assert done.out.startswith("plan: ")
    plan = json.loads(path.read_text())
    assert plan["images"] == {"fit": 200, "calibration": 80, "test": 120}
    assert {phase["name"] for phase in plan["phases"]} == {
        "features",
        "heads",
        "search",
        "references",
        "measure",
    }
    done = platodef(*WORDS, "-o", "json")
    assert json.loads(done.out)["encoders"][0]["work"]["role"] == "suspect"


def test_a_base_is_a_row_and_a_phase(platodef: Call) -> None:
    done = platodef(*WORDS, "--base", "builtin:backdoored")
    assert done.code == 0, done.err
    row = next(line.split() for line in done.out.splitlines() if line.startswith("base "))
    assert row[1:3] == ["2200", "0"]  # 400 clean, 10 and 5 changes of 120
    assert row[4:6] == ["0", "-"]
    assert any(line.startswith("features of the base") for line in done.out.splitlines())


def test_a_budget_in_a_plan(platodef: Call) -> None:
    done = platodef(*WORDS, "--budget", "1s")
    assert done.code == 4
    assert "too small for an answer" in done.last
    done = platodef(*WORDS, "--budget", "20h")
    assert done.code == 0
    assert "left out" not in done.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-o", "sarif"), "a plan is written as terminal or json"),
        (("--budget", "soon"), "'soon' is no time"),
        (("--searches", "foo"), "unknown kind of search 'foo'"),
        (("--sample", "0"), "sample"),
    ],
)
def test_nonsense_is_a_usage_error(platodef: Call, words: tuple[str, ...], told: str) -> None:
    done = platodef(*WORDS, *words)
    assert done.code == 2
    assert told in done.last
