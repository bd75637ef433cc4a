"""The scripts in examples/ that draw and measure run, and give what they promise."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "examples" / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_the_picture_of_a_report_shows_its_verdict_and_fetches_nothing(tmp_path: Path) -> None:
    picture = tmp_path / "report.svg"
    done = run("draw_report.py", ROOT / "tests" / "golden" / "report_v1.json", picture)
    assert done.returncode == 0, done.stderr
    text = picture.read_text().replace("&#160;", " ")
    assert "FAIL (1)" in text
    assert "Trigger search" in text
    assert "url(http" not in text
    assert "@font-face" not in text


def test_limits_are_measured_on_clean_and_planted_encoders() -> None:
    clean = ROOT / "examples" / "encoders" / "clean"
    done = run(
        "measure_limits.py", "--clean", clean, "--plant", clean, "--trigger", "CTRL 50",
        "--images", "builtin:shapes?count=800", "--smoke",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("| clean |")]
    assert [row.split("|")[2].strip() for row in table] == ["clean", "CTRL 50"]
