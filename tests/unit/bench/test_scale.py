"""The page on large work: what it says follows from what was measured."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from platodef_cli.bench.scale import ScaleCosts, to_json
from platodef_cli.bench.scale_page import IMAGES, SUSPECTS, draw
from platodef_cli.cli.app import main
from tests.unit.cli.calls import ROOT

COSTS = ScaleCosts(
    machine="a machine",
    decode=0.01,
    forward=0.5,
    backward=1.0,
    extract_rows=4096,
    shard_bytes=40_000_000,
    write=0.1,
    score=1e-4,
    purify=2e-4,
    piece=1e-3,
    manifest_bytes=500.0,
    process=5.0,
    report_bytes=200_000,
    summary=0.01,
    battery_images=10_000,
    search_images=20_000,
    ray_start=None,
)


def test_the_sums() -> None:
    page = draw(COSTS, 0.05, "# Title")
    assert page.startswith("# Title\n")
    each = 2000 * 0.01 + 12_000 * 0.5 + 20_000 * 1.0 + 5.0
    total = 2 * 26_000 + SUSPECTS * each
    assert f"Together {total / 3600:,.0f} core hours" in page
    images = IMAGES * (1.5 + 0.01 + 2e-4) + -(-IMAGES // 4096) * 0.101
    assert f"Together {images / 3600:,.0f} core hours" in page
    assert "not installed" in page
    for part in page.split("##")[2:4]:
        shares = [float(share) for share in re.findall(r"\| ([\d.]+)% \|", part)]
        assert sum(shares) == pytest.approx(100, abs=0.1)


def test_more_expensive_is_more() -> None:
    pages = [draw(costs, 0.05, "") for costs in (COSTS, replace(COSTS, forward=1.0))]
    prices = [re.findall(r"at 0.05 per core hour ([\d,]+)", page)[0] for page in pages]
    cheap, dear = (float(price.replace(",", "")) for price in prices)
    assert dear > cheap


def test_the_page_was_drawn_from_the_numbers_beside_it() -> None:
    """Nobody typed a number: the page follows from its JSON and its text."""
    costs = ScaleCosts(**json.loads((ROOT / "examples" / "SCALE.json").read_text()))
    text = (ROOT / "examples" / "scale" / "how.md").read_text()
    assert (ROOT / "examples" / "SCALE.md").read_text() == draw(costs, 0.04, text)
    assert json.loads(to_json(costs)) == json.loads((ROOT / "examples" / "SCALE.json").read_text())


def test_links_and_commands_of_the_page() -> None:
    text = (ROOT / "examples" / "SCALE.md").read_text()
    assert all((ROOT / "examples" / link).exists() for link in re.findall(r"\]\(([^)#]+)\)", text))
    from typer.main import get_command

    from platodef_cli.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    used = re.findall(r"platodef (extract|fit|score|purify|align)([^`#\n]*)", text)
    assert {name for name, _ in used} == {"extract", "fit", "score", "purify", "align"}
    for name, rest in used:
        known = {flag for option in commands[name].params for flag in option.opts}
        assert set(re.findall(r"(?<= )-(?:-[a-z-]+|[a-z])\b", rest)) <= known, (name, rest)


def test_slips(tmp_path: Path, golden_json: str) -> None:
    assert main(["bench", "scale", str(tmp_path / "absent.json")]) == 2
    (tmp_path / "r.json").write_text(golden_json)
    assert main(["bench", "scale", str(tmp_path / "r.json"), "--text", str(tmp_path / "no.md")]) == 2
    assert main(["bench", "scale", str(tmp_path / "r.json"), "-o", str(tmp_path)]) == 2
