"""The committed results of the benchmark and the page that is drawn from them."""

import re
from pathlib import Path

import pytest

from platodef_cli.bench.rendering import to_json
from platodef_cli.bench.results import BenchResult
from tests.e2e.test_examples import run

EXAMPLES = Path(__file__).parents[2] / "examples"
PAGES = ("BENCHMARK.md", "BENCHMARK-STANDARD.md")
RESULTS = sorted(EXAMPLES.glob("bench-*/*.json"))


def test_the_pages_are_what_the_results_say(tmp_path: Path) -> None:
    done = run("draw_benchmark.py", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PAGES)
    for page in PAGES:
        assert (tmp_path / page).read_text() == (EXAMPLES / page).read_text(), (
            f"{page}: run python examples/draw_benchmark.py"
        )


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_results_are_whole_and_name_no_folder_of_a_machine(path: Path) -> None:
    text = path.read_text()
    result = BenchResult.model_validate_json(text)
    assert to_json(result) == text
    assert result.recipe == path.parent.name.removeprefix("bench-")
    assert result.command.startswith("platodef bench run --zoo DIR --table ")
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    for grid in result.grids:
        keys = {column.key for column in grid.columns}
        for row in grid.rows:
            assert any(key in row.values for key in keys) or row.kind == "paper"
            for value in row.values.values():
                if value.value is not None and value.low is not None and value.high is not None:
                    assert value.low - 1e-6 <= value.value <= value.high + 1e-6
