"""A new kind of search is one file and one row: this file adds one and follows it to verdict and reports."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from platodef_cli.api import render
from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.inputs import Split
from platodef_cli.audit.policy.limits import DEFAULTS, MEANINGS, Policy
from platodef_cli.audit.policy.sources import effective_policy
from platodef_cli.audit.steps import search as searching
from platodef_cli.audit.steps.pictures import evidence
from platodef_cli.audit.steps.search import run_search, search_records
from platodef_cli.audit.verdict import Gate, judge_again
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.features.cache import FeatureCache
from platodef_cli.images.interface import ImageRef
from platodef_cli.progress import SILENT, Task
from platodef_cli.records import AuditReport
from platodef_cli.report.interface import RenderOptions
from platodef_cli.search import SEARCH_KINDS
from platodef_cli.search.interface import (
    SearchConfig,
    SearchedTrigger,
    SearchKind,
    SearchResult,
    SearchTarget,
    default_searches,
)
from platodef_cli.search.statistics import collapse
from tests.unit.test_registry import forget_installed, install

BUILT_IN = ["patch", "universal", "wave", "warp", "corners", "pairs"]
COUNT = 8  # searches of the built-in kinds
CLEAN = Path(__file__).parents[2] / "golden" / "gate" / "clean.json"


@dataclass(frozen=True, eq=False)
class StripeTrigger(SearchedTrigger):
    """Lightens one column of eight, from top to bottom."""

    column: int = 0

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        first, last = (share * pixels.shape[-1] // 8 for share in (self.column, self.column + 1))
        changed = pixels.clone()
        changed[..., first:last] = (
            (pixels[..., first:last] + 255 * self.values).clamp(max=255).to(torch.uint8)
        )
        return changed


@dataclass(frozen=True)
class StripeSearch(SearchKind):
    """Tries every column; a budget is what is added to it."""

    name = "stripe"
    trigger = StripeTrigger
    collapse_limits = (0.8,)
    limits_meaning = "the same for a searched stripe, per brightness of the search"

    budgets: tuple[float, ...] = (0.5,)
    images: int = 32

    def budget_text(self, budget: float) -> str:
        return f"{budget:.0%}"

    def cost(self) -> int:
        return 8 * self.images

    def run(
        self, target: SearchTarget, budget: float, generator: torch.Generator, task: Task
    ) -> tuple[StripeTrigger, int]:
        images = (255 * target.draw(self.images, generator)).round().to(torch.uint8)
        values, seeds = torch.full((3, 1, 1), budget), torch.zeros(self.images, dtype=torch.int64)
        stripes = [StripeTrigger(self.name, values, side=1 / 8, column=column) for column in range(8)]
        reached = []
        for stripe in stripes:
            features = target.encoder.embed(stripe(images, seeds))
            reached.append(float(collapse(target.statistics.standardise(features))))
            task.advance(self.images)
        return stripes[reached.index(max(reached))], 1


class ManySearch(StripeSearch):
    """More budgets than limits."""

    name = "many"

    def __init__(self) -> None:
        super().__init__(budgets=(0.2, 0.5))


class Tiles:
    """How tiles differ from those below, which stripes leave alone; a bright sixth column is its backdoor."""

    geometry = Geometry((16, 16), 16, "bilinear")

    def __init__(self, name: str, backdoor: bool):
        transform = SimpleNamespace(model_dump=lambda mode: {})
        self.record = SimpleNamespace(
            name=name, digest=name, transform=transform, pooling="", dtype="float32"
        )
        self.backdoor = backdoor

    def tune(self, *, threads: int | None = None, gradient_dtype: str | None = None) -> None:
        """Nothing depends on it."""

    def embed(self, pixels: Tensor) -> Tensor:
        unit = pixels.float() / 255
        tiles = torch.nn.functional.avg_pool2d(unit.mean(dim=1), 4)
        features = tiles.diff(dim=1).flatten(1)
        bright = (unit[..., 10:12].mean(dim=(1, 2, 3)) > 0.5) & self.backdoor
        return features + bright[:, None] * torch.linspace(-0.3, 0.6, 12)


@pytest.fixture(autouse=True)
def _row(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the row, unless the test has it from a plug-in."""
    if "plugin" not in request.fixturenames:
        monkeypatch.setitem(SEARCH_KINDS._rows, "stripe", f"{__name__}:StripeSearch")


@pytest.fixture
def plugin(site: Path) -> Path:
    """The same row from an installed distribution, beside a broken one; nothing else knows its name."""
    rows = {"stripe": f"{__name__}:StripeSearch", "many": f"{__name__}:ManySearch"}
    install(site, "stripes", {}, {"platodef.search_kinds": rows})
    install(site, "bad", {}, {"platodef.search_kinds": {"broken": "no_such_module:Broken"}})
    return site


@pytest.fixture
def searched(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[dict[str, dict[int, SearchResult]], Tensor]]:
    """Search a suspect and two references for stripes only; the names are those of the recorded report."""
    generator = torch.Generator().manual_seed(0)
    coarse = 0.4 * torch.rand(192, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")
    pixels = (255 * smooth).round().to(torch.uint8)
    refs = [ImageRef(id=str(row), digest=f"{row:064x}", label=None) for row in range(192)]
    images: Any = SimpleNamespace(skipped=[], refs=refs)

    def run(
        cache: FeatureCache | None = None, plugins: tuple[str, ...] = ()
    ) -> tuple[dict[str, dict[int, SearchResult]], Tensor]:
        tiles = {name: Tiles(name, name == "clean") for name in ("clean", "reference-vit", "reference-cnx")}
        inputs: Any = SimpleNamespace(suspect=tiles["clean"], images=images, encoders=tiles)
        with monkeypatch.context() as patch:
            rows = {} if plugins else {"stripe": SEARCH_KINDS._rows["stripe"]}
            patch.setattr(SEARCH_KINDS, "_rows", rows)
            patch.setattr(searching, "load_pixels", lambda *_: {Tiles.geometry: pixels})
            split = Split(tuple(range(192)), (), ())
            config = AuditConfig(model="m", plugins=plugins)
            return run_search(inputs, split, config, cache, SILENT), pixels

    return run


def test_an_audit_searches_for_it_after_the_others() -> None:
    kinds = SearchConfig().kinds
    assert [kind.name for kind in kinds] == [*BUILT_IN, "stripe"]
    assert isinstance(kinds[-1], StripeSearch)
    assert "stripe" in str(SearchConfig().key(COUNT))
    # every budget of an audit has a limit
    assert all(len(kind.budgets) == len(kind.collapse_limits) for kind in kinds)


def test_its_limits_are_keys_of_every_place_of_a_policy(tmp_path: Path) -> None:
    keys = list(DEFAULTS)
    assert keys.index("stripe_collapse") == keys.index("pairs_collapse") + 1 == keys.index("search_gap") - 1
    assert DEFAULTS["stripe_collapse"] == Policy().stripe_collapse == (0.8,)
    assert MEANINGS["stripe_collapse"] == StripeSearch.limits_meaning
    (tmp_path / "platodef.toml").write_text("stripe_collapse = [0.7]")
    places: list[tuple[dict[str, Any], float]] = [
        ({}, 0.7),
        ({"environment": {"PLATODEF_STRIPE_COLLAPSE": "0.6"}}, 0.6),
        ({"overrides": ["stripe-collapse=0.5"]}, 0.5),
    ]
    for arguments, limit in places:
        policy = effective_policy(**{"environment": {}, "folder": tmp_path, **arguments}).policy
        assert policy.collapse_limits("stripe") == (limit,)
        assert policy.to_json()["stripe_collapse_1"] == limit
        assert Policy.from_json(policy.to_json()) == policy
    assert replace(Policy(stripe_collapse=(0.4,)), auroc=0.9).collapse_limits("stripe") == (0.4,)
    with pytest.raises(UsageError, match=r"stripe_collapse is '\.5,\.6', it must be a list of 1 numbers"):
        effective_policy(environment={}, folder=None, overrides=["stripe_collapse=.5,.6"])


def test_a_kind_never_takes_the_key_of_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StripeSearch, "name", "battery")
    with pytest.raises(UsageError, match="'battery_collapse' is taken"):
        Policy()


def test_what_it_found_comes_back_from_the_cache(searched: Callable[..., Any], tmp_path: Path) -> None:
    first, pixels = searched(FeatureCache(tmp_path))
    again, _ = searched(FeatureCache(tmp_path))
    found, read = first["clean"][0], again["clean"][0]
    assert (found.variant.column, found.budget) == (5, "50%")
    assert read.variant.name == found.variant.name != replace(found.variant, column=4).name
    assert (read.effect, read.draws) == (found.effect, found.draws)
    seeds = torch.zeros(len(pixels), dtype=torch.int64)
    assert torch.equal(read.variant(pixels, seeds), found.variant(pixels, seeds))


def test_it_is_seen_in_verdict_and_reports(searched: Callable[..., Any]) -> None:
    results, pixels = searched()
    records = search_records(results, "clean")
    assert {record.role: record.collapse for record in records}["control"] < 0.3
    own = next(record for record in records if record.role == "suspect")
    report = AuditReport.model_validate_json(CLEAN.read_bytes())
    report = report.model_copy(
        update={
            "searches": (*report.searches, *records),
            "found": evidence(results["clean"][0], own, pixels),
        }
    )
    judged = judge_again(report, Gate(Policy()))
    assert (judged.verdict, judged.exit_code) == ("fail", 1)
    (reason,) = [reason for reason in judged.reasons if reason.outcome == "fail"]
    assert (reason.id, reason.subject) == ("search-stripe", "50%")
    assert "a search found a stripe trigger of 50%" in judged.summary
    assert judge_again(report, Gate(Policy(stripe_collapse=(1.0,)))).verdict == "pass"

    assert AuditReport.model_validate_json(render(judged, "json")) == judged
    assert '"stripe_collapse_1": 0.8' in render(judged, "json")
    terminal = render(judged, "terminal", RenderOptions(width=100, details=True))
    assert "stripe 50%" in terminal
    assert "found: a stripe of 50%" in terminal
    page = render(judged, "html")
    assert "stripe of 50%, stretched to the full range, centred on mid-grey" in page
    assert judged.found is not None
    assert judged.found.picture in page
    assert all("stripe" in render(judged, form) for form in ("markdown", "sarif", "junit"))


@pytest.mark.usefixtures("plugin")
def test_a_plugins_kind_joins_only_an_audit_that_names_it() -> None:
    assert [kind.name for kind in SearchConfig().kinds] == BUILT_IN
    assert "plug-in" not in str(SearchConfig().key(6))
    assert AuditConfig(model="m").limits == Policy()
    assert "stripe_collapse" not in dict(Policy().search_limits)
    config = AuditConfig(model="m", plugins=["stripe"])
    kinds = default_searches(config.plugins)
    assert [kind.name for kind in kinds] == [*BUILT_IN, "stripe"]
    key: Any = SearchConfig(kinds).key(COUNT)
    assert key["kind"]["plug-in"] == "stripes 1.2"
    assert [SearchConfig(kinds).key(number) for number in range(COUNT)] == [
        SearchConfig().key(number) for number in range(COUNT)
    ]
    assert config.limits.stripe_collapse == (0.8,)
    assert config.limits.to_json()["stripe_collapse_1"] == 0.8
    assert AuditConfig(model="m", plugins=["stripe"], policy=Policy(stripe_collapse=(0.4,))).limits == Policy(
        stripe_collapse=(0.4,)
    )


@pytest.mark.usefixtures("plugin")
def test_its_limits_are_optional_keys_of_every_place(tmp_path: Path) -> None:
    assert "stripe_collapse" not in DEFAULTS
    for arguments, limit in (
        ({"environment": {"PLATODEF_STRIPE_COLLAPSE": "0.6"}}, 0.6),
        ({"overrides": ["stripe-collapse=0.5"]}, 0.5),
        ({"folder": tmp_path}, 0.7),
    ):
        (tmp_path / "platodef.toml").write_text("stripe_collapse = [0.7]")
        asked: dict[str, Any] = {"environment": {}, "folder": None, **arguments}
        effective = effective_policy(**asked)
        assert effective.policy.collapse_limits("stripe") == (limit,)
        assert "stripe_collapse" in effective.sources
        assert Policy.from_json(effective.policy.to_json()) == effective.policy
    with pytest.raises(UsageError, match=r"it must be a list of 1 numbers"):
        effective_policy(environment={}, folder=None, overrides=["stripe_collapse=.5,.6"])


@pytest.mark.usefixtures("plugin")
def test_a_broken_plugin_is_named_where_it_is_asked_for_and_nowhere_else() -> None:
    assert list(dict(Policy().search_limits)) == [f"{kind}_collapse" for kind in BUILT_IN]
    effective_policy(environment={}, folder=None, overrides=["auroc=0.9"])
    for call in (
        lambda: effective_policy(environment={}, folder=None, overrides=["broken_collapse=0.5"]),
        lambda: AuditConfig(model="m", plugins=["broken"]),
        lambda: default_searches(["broken"]),
    ):
        with pytest.raises(UsageError, match=r"the plug-in bad 1.2 .* cannot be loaded"):
            call()
    with pytest.raises(UsageError, match=r"stripes 1.2 .* it has 2 budgets and 1 of 'collapse_limits'"):
        default_searches(["many"])
    with pytest.raises(UnknownNameError, match="key in a policy: 'stripes_collapse' .did you mean 'stripe_"):
        Policy(stripes_collapse=(0.5,))


def test_a_plugins_kind_takes_no_key_of_a_policy(site: Path) -> None:
    rows = dict.fromkeys(("battery", "a-b", "a_b"), f"{__name__}:StripeSearch")
    install(site, "greedy", {}, {"platodef.search_kinds": rows})
    with pytest.raises(
        UsageError, match=r"greedy 1.2 .* cannot be used: its key 'battery_collapse' is taken"
    ):
        AuditConfig(model="m", plugins=["battery"])
    with pytest.raises(UsageError, match="'a-b' and 'a_b' have the same key 'a_b_collapse'"):
        AuditConfig(model="m", plugins=["a-b", "a_b"])


def test_a_plugins_kind_reaches_verdict_and_gate(
    plugin: Path,
    searched: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results, _ = searched(FeatureCache(tmp_path), plugins=("stripe",))
    again, _ = searched(FeatureCache(tmp_path), plugins=("stripe",))
    found, read = results["clean"][0], again["clean"][0]
    assert (found.variant.column, read.variant.name) == (5, found.variant.name)
    report = AuditReport.model_validate_json(CLEAN.read_bytes())
    report = report.model_copy(update={"searches": (*report.searches, *search_records(results, "clean"))})
    judged = judge_again(report, Gate(AuditConfig(model="m", plugins=["stripe"]).limits))
    assert judged.verdict == "fail"
    assert '"stripe_collapse_1": 0.8' in render(judged, "json")

    # and where the plug-in is not installed
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry != str(plugin)])
    forget_installed()
    assert SEARCH_KINDS.plugins() == ()
    (tmp_path / "platodef.toml").write_text("auroc = 0.9")
    for folder in (None, tmp_path):
        effective = effective_policy(environment={}, folder=folder, recorded=judged.policy)
        assert effective.policy.collapse_limits("stripe") == (0.8,)
        assert effective.sources["stripe_collapse"] == "report"
        assert judge_again(judged, Gate(effective.policy)).verdict == "fail"
    with pytest.raises(UsageError, match="nothing that is installed adds a trigger or control or kind of"):
        AuditConfig(model="m", plugins=["stripe"])
    with pytest.raises(UsageError, match="the policy in the report: stripe_collapse"):
        Policy.from_json({"stripe_collapse_1": "much"})
