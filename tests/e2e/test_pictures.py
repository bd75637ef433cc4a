"""The scripts in examples/ that draw and measure run, and give what they promise."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "examples" / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_the_picture_of_a_report_shows_its_verdict_and_fetches_nothing(tmp_path: Path) -> None:
    picture = tmp_path / "report.svg"
    done = run("draw_report.py", ROOT / "tests" / "golden" / "report_v2.json", picture)
    assert done.returncode == 0, done.stderr
    text = picture.read_text().replace("&#160;", " ")
    assert "FAIL (1)" in text
    assert "What next" in text
    assert "url(http" not in text
    assert "@font-face" not in text


def test_the_page_of_a_report_is_the_one_that_the_command_writes(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    report = ROOT / "tests" / "golden" / "report_v2.json"
    done = run("draw_report.py", report, page)
    assert done.returncode == 0, done.stderr
    command = [
        sys.executable,
        "-m",
        "platodef_cli.cli.app",
        "report",
        report,
        "-o",
        f"html={tmp_path}/own.html",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert page.read_bytes() == (tmp_path / "own.html").read_bytes()


def test_a_photograph_of_the_page(tmp_path: Path) -> None:
    if importlib.util.find_spec("PySide6") is None:
        pytest.skip("PySide6 is absent; it is 700 MB, and only the picture in examples/ is drawn with it")
    picture = tmp_path / "report.png"
    done = run("draw_report.py", ROOT / "tests" / "golden" / "report_v2.json", picture)
    assert done.returncode == 0, done.stderr
    with Image.open(picture) as image:
        assert image.size == (1120, 1200)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or ()}
    assert {(255, 255, 255), (0xA4, 0x0E, 0x26)} <= colours  # the page, and the red of a failure


def test_other_names_are_refused(tmp_path: Path) -> None:
    done = run("draw_report.py", ROOT / "tests" / "golden" / "report_v2.json", tmp_path / "report.gif")
    assert done.returncode == 2
    assert "end the name in one of .svg, .html, .png" in done.stderr


def test_limits_are_measured_on_clean_and_planted_encoders() -> None:
    clean = ROOT / "examples" / "encoders" / "clean"
    done = run(
        "measure_limits.py", "--clean", clean, "--plant", clean, "--trigger", "CTRL 50",
        "--images", "builtin:shapes?count=800", "--smoke", "--seeds", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("| clean |")]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table]
    searches = ["patch 22% of the side", "universal 8/255", "wave 20/255", "warp 6% of the side"]
    searches += ["corners 16% of the side", "pairs 22% of the side"]
    assert [row[1] for row in cells[:2]] == ["clean", "CTRL 50"]
    assert [row[1:3] for row in cells[2:]] == [[kind, s] for kind in ("clean", "CTRL 50") for s in searches]
    for reached, mean, least, most in zip(
        [*cells[0][2:], *cells[1][2:]], *([row[i] for row in cells[2:]] for i in (3, 4, 5)), strict=True
    ):
        # the first table is the first seed
        assert float(reached) in (float(least), float(most))
        assert float(least) <= float(mean) <= float(most)
