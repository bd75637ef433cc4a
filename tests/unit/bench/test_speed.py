"""`platodef bench speed`: both sides do the same work, and the page says what was measured."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from platodef_cli.bench.speed import CONTESTS
from platodef_cli.bench.speed import contest as contests
from platodef_cli.bench.speed.contest import Contest, SpeedResult, SpeedRow, run
from platodef_cli.bench.speed.kernels import dense_cka, dense_cknna
from platodef_cli.bench.speed.networks import _denoiser, plain_guidance
from platodef_cli.bench.speed.page import draw, machine
from platodef_cli.defences.diffusion import guided
from tests.unit.cli.calls import Call
from tests.unit.cli.conftest import platodef as platodef
from tests.unit.metrics.test_alignment import slow_cka, slow_cknna

NAMES = CONTESTS.names()


def spaces(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    one, two = (shared @ torch.randn(6, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    noise = torch.randn(count, 9, generator=generator, dtype=torch.float64)
    return normalize(one, dim=1), normalize(two + noise, dim=1)


def test_the_dense_peers_are_the_definitions() -> None:
    x, y = spaces(40)
    assert dense_cka(x, y) == pytest.approx(slow_cka(x.numpy(), y.numpy()), abs=1e-12)
    assert dense_cknna(x, y, 5) == pytest.approx(slow_cknna(x.numpy(), y.numpy(), 5, 1e-6), abs=1e-12)


def test_the_plain_loop_of_guidance_is_the_same_network() -> None:
    denoiser = _denoiser(12, 16, 1, isolated=False)
    references = [torch.randn(5, 12), torch.randn(5, 12)]
    x, sigma = torch.randn(5, 12), torch.tensor(1.5)
    plain = plain_guidance(denoiser, references, 2.0)(x, sigma)
    assert torch.allclose(plain, guided(denoiser, references, 2.0)(x, sigma), atol=1e-5)
    # the network and its references take part
    assert not torch.allclose(plain, plain_guidance(denoiser, references, 1.0)(x, sigma), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_give_the_same(name: str) -> None:
    threads = torch.get_num_threads()
    row = run(name, CONTESTS.load(name)("small"), 1)
    assert torch.get_num_threads() == threads
    assert row.name == name
    assert row.seconds > 0
    assert row.lowest == row.ratio == row.highest
    assert {
        "P1": "difference", "P2": "difference", "P5": "held-out accuracy", "P7": "cosine at least",
        "P8": "9 of 18 shards were there, the same bytes",
    }.get(name, "") in row.quality  # fmt: skip
    if name in ("P1", "P2"):
        assert float(row.quality.split()[-1]) < 1e-5
    if name == "P7":
        assert float(row.quality.split()[3]) > 0.99


def test_runs_take_turns_and_preparation_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def done(what: str) -> Any:
        return lambda: order.append(what)

    contest = Contest(
        "work", "peer", 0.0, done("ours"), done("theirs"), lambda a, b: "equal", prepare=done("prepare")
    )
    row = run("X", contest, 3)
    assert order == ["prepare", "ours", "theirs"] * 4
    assert row.repeats == 3
    assert row.quality == "equal"
    # a peer that takes minutes is not run as often
    monkeypatch.setattr(contests, "LONG_S", -1.0)
    order.clear()
    assert run("X", contest, 5).repeats == 3
    assert order == ["prepare", "ours", "theirs"] * 3


def row(name: str, ratio: float) -> SpeedRow:
    return SpeedRow(
        name=name, work="work", peer="peer", goal=2.0, ratio=ratio, lowest=ratio, highest=ratio, seconds=1.0,
        peer_seconds=ratio, memory_mb=1.0, peer_memory_mb=20.0, quality="equal", repeats=5,
        profile="aten::mm 90%", note="It is all products",
    )  # fmt: skip


def test_a_page_says_which_goals_are_missed() -> None:
    rows = (row("P1", 3.0), row("P2", 1.5))
    result = SpeedResult(tool_version="1", size="usual", machine="a CPU", libraries={"torch": "2"}, rows=rows)
    page = draw(result)
    assert "| P1 | work | peer | **3.00** (3.00 to 3.00) | 2 | 5 | 1 | 3 | 1 | 20 | equal |" in page
    assert "| 2 (missed) |" in page
    assert "- P2, 1.5 of 2: aten::mm 90%. It is all products" in page
    assert "--size usual --repeats 5" in page
    assert "Not measured in this run: P3, P3-isolated, " in page
    assert "Not measured" not in draw(result.model_copy(update={"rows": [row(n, 3.0) for n in NAMES]}))
    assert machine()


def test_the_command_writes_page_and_json(platodef: Call, tmp_path: Path) -> None:
    page, values = tmp_path / "page.md", tmp_path / "speed.json"
    words = ("bench", "speed", "--contest", "P2", "--size", "small", "--repeats", "1")
    done = platodef(*words, "-o", page, "--json", values)
    assert done.code == 0, done.err
    assert done.last.endswith("of 1 goals are met")
    found = SpeedResult.model_validate_json(values.read_text())
    assert draw(found) == page.read_text()
    assert json.loads(values.read_text())["rows"][0]["name"] == "P2"


def test_a_run_goes_on_after_the_last_finished_contest(platodef: Call, tmp_path: Path) -> None:
    values, page = tmp_path / "speed.json", tmp_path / "page.md"
    words = ("bench", "speed", "--size", "small", "--repeats", "1", "--json", values, "--resume")
    assert platodef(*words, "--contest", "P2").code == 0
    first = SpeedResult.model_validate_json(values.read_text())
    assert platodef(*words, "--contest", "P2", "--contest", "P1", "-o", page, "--beside", values).code == 0
    both = SpeedResult.model_validate_json(values.read_text())
    # in the order of the table; what was there was not measured again
    assert [row.name for row in both.rows] == ["P1", "P2"]
    assert both.rows[1] == first.rows[0]
    assert page.read_text() == draw(both, [first])
    assert page.read_text().count("| P2 |") == 2

    kept = values.read_text()
    other = platodef(*words[:3], "usual", *words[4:])
    assert other.code == 2
    assert "another size (small, now usual)" in other.last
    assert values.read_text() == kept
    values.write_text("{}")
    damaged = platodef(*words)
    assert damaged.code == 2
    assert "was not written by bench speed" in damaged.last


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--contest", "P99"), "unknown contest 'P99'"),
        (("-o", "no/such/folder/x.md"), "does not exist"),
        (("-o", "x", "--json", "x"), "name two files"),
        (("--resume",), "name it"),
        (("--beside", "no-such.json"), "cannot read no-such.json"),
        (("--repeats", "0"), "greater than or equal to 1"),
    ],
)
def test_nonsense_is_a_usage_error(platodef: Call, words: tuple[str, ...], told: str) -> None:
    done = platodef("bench", "speed", *words)
    assert done.code == 2
    assert told in done.last
