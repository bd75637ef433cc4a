"""Restarts: the best one counts, and intervals vary as the search does."""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from platodef_cli.progress import Task
from platodef_cli.search.additive import AdditiveTrigger
from platodef_cli.search.interface import SearchConfig, SearchKind, SearchTarget, fault_of
from platodef_cli.search.resampling import DRAWS
from platodef_cli.search.restarts import SearchError, best_deviation, spread_of
from platodef_cli.search.run import search
from platodef_cli.search.statistics import collapse


@dataclass(frozen=True)
class Drawn(SearchKind):
    """Adds a random amount of white: the more, the more the features of :class:`Grey` collapse."""

    name = "drawn"
    trigger = AdditiveTrigger
    collapse_limits = (0.9,)
    limits_meaning = "of a test"

    budgets: tuple[float, ...] = (0.5,)

    def budget_text(self, budget: float) -> str:
        return f"{budget:.0%}"

    def cost(self) -> int:
        return 1

    def run(
        self, target: SearchTarget, budget: float, generator: torch.Generator, task: Task
    ) -> tuple[AdditiveTrigger, int]:
        task.advance(1)
        return AdditiveTrigger(
            "drawn", torch.full((3, 1, 1), budget * float(torch.rand(1, generator=generator)))
        ), 1


class Grey:
    """The brightness of sixteen tiles, as they are."""

    record: Any = SimpleNamespace(name="grey")

    def embed(self, pixels: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(pixels.float().mean(dim=1) / 255, 2).flatten(1)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    noise = torch.rand(128, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return (100 * noise).to(torch.uint8)


def test_the_best_of_the_restarts_counts_and_all_are_told(pixels: Tensor) -> None:
    encoder: Any = Grey()
    amounts, told = {}, {}
    for restarts in (1, 2, 6):
        counting = Counting()
        config = SearchConfig(kinds=(Drawn(restarts=restarts),), pool=64, held_out=64)
        (result,) = search(encoder, pixels, config, seed=3, progress=counting)
        amounts[restarts], told[restarts] = (
            float(result.variant.values.max()),
            (counting.total, counting.done),
        )
    generator = torch.Generator().manual_seed(3000)
    drawn = [0.5 * float(torch.rand(1, generator=generator)) for _ in range(6)]
    assert amounts == pytest.approx({1: drawn[0], 2: max(drawn[:2]), 6: max(drawn)})
    assert told == {1: (1, 1), 2: (2, 2), 6: (6, 6)}


def test_the_restarts_of_a_kind_that_nobody_measured_widen_its_interval(pixels: Tensor) -> None:
    encoder: Any = Grey()
    widths = []
    for restarts in (1, 6):
        config = SearchConfig(kinds=(Drawn(restarts=restarts),), pool=64, held_out=64)
        (result,) = search(encoder, pixels, config, seed=3)
        draws = torch.tensor(result.draws)
        widths.append(float(draws.quantile(0.975) - draws.quantile(0.025)))
    assert widths[1] > 1.5 * widths[0] > 0


class Counting:
    """Counts what it is told; is its own task."""

    def __init__(self) -> None:
        self.total: int | None = 0
        self.done = 0

    def step(self, title: str, total: int | None = None) -> "Counting":
        self.total = total
        return self

    def __enter__(self) -> "Counting":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        self.done += amount

    def warn(self, message: str) -> None:
        raise AssertionError(message)


@pytest.mark.parametrize(("count", "known"), [(1, 1.0), (2, 0.8256), (3, 0.7480), (10, 0.5868)])
def test_the_best_of_several_varies_less_than_one(count: int, known: float) -> None:
    """Order statistics of the normal distribution (Tippett 1925)."""
    assert best_deviation(count) == pytest.approx(known, abs=0.004)


def test_own_restarts_and_what_was_measured_are_averaged() -> None:
    one, two = math.atanh(0.2), math.atanh(0.5)
    own = (one - two) ** 2 / 2
    error = SearchError.of([0.2, 0.5], 0.1)
    assert error.freedom == 9
    usual = 0.1 * two  # a share of the level that the best one reached
    assert error.deviation == pytest.approx(best_deviation(2) * math.sqrt((8 * usual**2 + own) / 9))
    assert SearchError.of([0.2], 0.1) == SearchError(pytest.approx(0.1 * one, rel=1e-3), 8)
    assert SearchError.of([0.2, 0.5]) == SearchError(pytest.approx(best_deviation(2) * math.sqrt(own)), 1)
    assert SearchError.of([0.4]) == SearchError()
    # searches that reach nothing vary a little, too
    assert SearchError.of([-0.01], 0.1).deviation == SearchError.of([0.03], 0.1).deviation > 0


def test_errors_widen_the_draws_where_there_is_room_and_never_leave_the_range() -> None:
    draws = torch.linspace(0.49, 0.51, DRAWS, dtype=torch.float64)
    error = SearchError(0.15, 6)
    wide = error.added_to(draws, "found-patch-1")
    low, high = torch.quantile(wide, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    # Student's t of 6 degrees of freedom
    assert low == pytest.approx(math.tanh(math.atanh(0.5) - 2.447 * 0.15), abs=0.02)
    assert high == pytest.approx(math.tanh(math.atanh(0.5) + 2.447 * 0.15), abs=0.02)
    near = error.added_to(torch.full((DRAWS,), 0.99, dtype=torch.float64), "x")
    assert near.max() <= 1
    assert near.quantile(0.025) > 0.97
    assert torch.equal(SearchError().added_to(draws, "x"), draws)


def test_errors_of_two_encoders_are_independent_and_those_of_equal_searches_equal() -> None:
    error, draws = SearchError(0.1, 6), torch.full((DRAWS,), 0.3, dtype=torch.float64)
    one, again, other = (error.added_to(draws, name) for name in ("a", "a", "b"))
    assert torch.equal(one, again)
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.15


def test_every_search_of_an_audit_was_measured() -> None:
    assert all(0 < spread_of(kind.name, 32) < 0.5 for kind in SearchConfig().kinds)
    assert spread_of("a plug-in's", 32) == 0


def test_the_spread_between_seeds_follows_the_size_where_it_was_measured_at_two():
    sizes = [spread_of("universal", side) for side in (16, 32, 96, 224, 512)]
    assert sizes[0] == sizes[1] > sizes[2] > sizes[3] == sizes[4]
    assert spread_of("patch", 32) == spread_of("patch", 224)


def test_a_plugin_with_no_runs_is_refused() -> None:
    class Never(Drawn):
        def __init__(self) -> None:
            super().__init__(restarts=0)

    assert "its 'restarts' are 0" in fault_of(Never)


def test_intervals_hold_what_the_search_reaches_on_average() -> None:
    """Simulated: searches whose collapse varies as the measured kind says, in 400 audits."""
    generator = torch.Generator().manual_seed(5)
    truth, share, held = 0.5, 0.15, 0
    for audit in range(400):
        z = math.atanh(truth) * (1 + share * torch.randn(1, generator=generator).double())
        reached = z.tanh()
        draws = SearchError.of(reached.tolist(), share).added_to(reached.expand(DRAWS), f"audit {audit}")
        low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        held += low <= truth <= high
    # the deviation counts as known from few encoders, so that intervals are a little wide
    assert 0.95 <= held / 400 <= 0.995


def test_collapse_of_a_bright_image_is_larger(pixels: Tensor) -> None:
    """What the stand-in above relies on."""
    features = Grey().embed(pixels)
    assert float(collapse(features)) > 0.9
