"""Writes the pages of the measured zoos: python examples/draw_benchmark.py [FOLDER].

The words of a page come from INTRODUCTION.md in the folder of its results, its tables from the JSON
files beside it.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from platodef_cli.bench.rendering import goal_row, to_markdown  # noqa: E402
from platodef_cli.bench.results import BenchResult  # noqa: E402

EXAMPLES = ROOT / "examples"
PAGES = {"bench-small": "BENCHMARK.md", "bench-standard": "BENCHMARK-STANDARD.md"}
ORDER = ("table-1", "encoder", "table-2", "table-3", "solvers", "backbones", "alignment")


def compose(results: dict[str, BenchResult], introduction: str) -> str:
    """Return the page: the introduction, all goals, every table."""
    parts = [
        introduction.rstrip(),
        "",
        "## Goals",
        "",
        "| goal | wanted | measured | met |",
        "|:---|:---|---:|:---|",
    ]
    for result in results.values():
        parts += [f"| {' | '.join(goal_row(goal))} |" for goal in result.goals]
    for result in results.values():
        # one level down: the page has its own title
        body = to_markdown(result.model_copy(update={"goals": ()}))
        parts += ["", *(f"#{line}" if line.startswith("#") else line for line in body.rstrip().splitlines())]
    return "\n".join(parts) + "\n"


def main(arguments: list[str]) -> int:
    """Read, compose, write."""
    output = Path(arguments[0]) if arguments else EXAMPLES
    for folder, page in PAGES.items():
        results = {
            name: BenchResult.model_validate_json(path.read_bytes())
            for name in ORDER
            if (path := EXAMPLES / folder / f"{name}.json").is_file()
        }
        introduction = (EXAMPLES / folder / "INTRODUCTION.md").read_text(encoding="utf-8")
        (output / page).write_text(compose(results, introduction), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
