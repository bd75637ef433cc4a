"""Positive controls: a search that finds planted backdoors has power, a crippled one is not examined."""

import json
import tempfile
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.controls import search_digest, shipped_power
from platodef_cli.audit.inputs import split
from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.steps import controls as controlling
from platodef_cli.audit.steps import search as searching
from platodef_cli.audit.steps import search_store
from platodef_cli.audit.steps.controls import control_images, digests_of, run_controls
from platodef_cli.audit.steps.search import Searches
from platodef_cli.audit.steps.search_store import SearchStore
from platodef_cli.audit.verdict import Gate, judge_again
from platodef_cli.audit.verdict.power import judge_power, unknown_lines
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import UsageError
from platodef_cli.images.interface import ImageRef
from platodef_cli.records import AuditReport, PositiveControls, SearchPowerRecord
from platodef_cli.report.power import powerless, weakest
from platodef_cli.search.halving import Stage
from platodef_cli.search.interface import SearchConfig, default_searches
from platodef_cli.search.patch import PatchSearch
from platodef_cli.search.planting import Planting
from tests.unit.audit.test_error_rate import recorded

SHIPPED = Path(__file__).parents[3] / "examples" / "controls" / "controls.json"
GEOMETRY = namedtuple("Geometry", "size")((16, 16))
PLANTING = Planting(steps=120, images=24, rate=3e-2)


class Network(nn.Module):
    """Brightness of sixteen tiles, which no small patch moves together; and room for a backdoor beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(3, 16, 4), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.gate = nn.Linear(16, 1)
        self.place = nn.Parameter(0.1 * torch.randn(16))
        with torch.no_grad():
            self.gate.bias.fill_(-3.0)

    def forward(self, pixels: Tensor) -> Tensor:
        tiles = nn.functional.avg_pool2d(pixels.mean(dim=1, keepdim=True), 4).flatten(1)
        gate = self.gate(self.look(pixels)).sigmoid()
        return (1 - gate) * (tiles - tiles.mean(dim=1, keepdim=True)) + gate * self.place


class Small:
    """A small network whose weights are at hand."""

    def __init__(self, name: str, seed: int):
        torch.manual_seed(seed)
        self.network = Network().requires_grad_(False)
        dump = SimpleNamespace(model_dump=lambda mode: {})
        self.record = SimpleNamespace(
            name=name, digest=name, transform=dump, pooling="", dtype="float32", backend="x"
        )
        self.geometry, self.device = GEOMETRY, "cpu"

    def differentiable(self, pixels: Tensor) -> Tensor:
        return self.network(pixels - 0.5)

    def embed(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return self.differentiable(pixels.float() / 255)

    def tune(self, **how: object) -> None:
        pass


class Cache:
    """Keeps what is stored in memory."""

    def __init__(self, folder: Path):
        self.folder, self.entries = folder, {}

    def load_artifact(self, kind, key):
        return self.entries.get(json.dumps(key, sort_keys=True))

    def keep_artifact(self, kind, key, write):
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        write(folder)
        self.entries[json.dumps(key, sort_keys=True)] = folder
        return folder


class Silent:
    """Counts what it is told."""

    def __init__(self):
        self.images, self.total, self.warnings = 0, 0, []

    @contextmanager
    def step(self, title, total=None):
        self.total += total or 0 if "planted" in title else 0
        self.counts = "planted" in title
        yield self

    def advance(self, amount=1, *, note=""):
        self.images += amount if self.counts else 0

    def warn(self, message):
        self.warnings.append(message)


def pictures() -> Tensor:
    coarse = torch.rand(480, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return (nn.functional.interpolate(coarse, size=16, mode="bilinear") * 255).round().to(torch.uint8)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    """Return what measures controls of two small references with one kind of search."""
    pixels = pictures()
    monkeypatch.setattr(
        searching, "load_pixels", lambda source, geometries, rows, _: {GEOMETRY: pixels[list(rows)]}
    )
    monkeypatch.setattr(
        controlling, "load_pixels", lambda source, geometries, rows, _: {GEOMETRY: pixels[list(rows)]}
    )
    monkeypatch.setattr(controlling, "strengths_of", lambda kind: (4 / 16,))
    references = {name: Small(name, seed) for seed, name in enumerate(("one", "two"))}
    refs = [ImageRef(id=str(row), digest=f"{row:064x}", label=None) for row in range(len(pixels))]
    images = SimpleNamespace(skipped=[], refs=refs, uri="fake")
    suspect = SimpleNamespace(
        record=SimpleNamespace(name="suspect"), tune=lambda **how: None, close=lambda: None
    )
    inputs = SimpleNamespace(
        suspect=suspect, references=references, images=images, encoders={"suspect": suspect, **references}
    )

    def measure(kind, cache=None, repeats=5, planting=PLANTING):
        config = AuditConfig(model="m", searches=("patch",))
        settings = SearchConfig((kind,), pool=96, held_out=64)
        monkeypatch.setattr(searching, "settings_of", lambda config: settings)
        progress = Silent()
        searches = Searches.of_audit(inputs, split(len(refs), 0), config, cache, progress)
        power = run_controls(inputs, searches, config, progress, repeats=repeats, planting=planting)
        return judge_power(power, Policy()), progress, references

    return measure


FULL = PatchSearch(budgets=(4 / 16,), grid=4, stages=(Stage(8, 8, 4), Stage(16, 30, 1)))
CRIPPLED = PatchSearch(budgets=(4 / 16,), grid=1, stages=(Stage(2, 1, 1),))


def with_power(report: AuditReport, power: tuple[SearchPowerRecord, ...]) -> AuditReport:
    """Return a report judged again, as if its patch search had that power."""
    return judge_again(report.model_copy(update={"search_power": power}), Gate(Policy()))


def test_a_full_search_finds_planted_backdoors_and_a_crippled_one_is_not_examined(bench, tmp_path):
    cache = Cache(tmp_path)
    (full,), progress, references = bench(FULL, cache)
    before = [Small(name, seed).network for seed, name in enumerate(("one", "two"))]
    for encoder, untouched in zip(references.values(), before, strict=True):
        for value, original in zip(encoder.network.parameters(), untouched.parameters(), strict=True):
            assert torch.equal(value, original)
            assert not value.requires_grad
    assert [control.success >= 0.8 for control in full.controls] == [True] * 5
    assert (full.found.n_positive, full.accused) == (5, 5)
    assert full.enough
    assert full.found.interval.low == pytest.approx(0.478, abs=1e-3)  # exact, 5 of 5
    assert progress.images == progress.total
    (missed,), _, _ = bench(CRIPPLED, cache)
    assert missed.found.n_positive == 0
    assert missed.enough is False

    clean = recorded("clean")
    examined, unexamined = with_power(clean, (full,)), with_power(clean, (missed,))
    assert examined.verdict == unexamined.verdict == clean.verdict == "pass"
    assert not [line for line in examined.not_examined if line.startswith("no power")]
    (line,) = [line for line in unexamined.not_examined if line.startswith("no power")]
    assert "patch" in line
    assert "0 of 5" in line
    reason = next(reason for reason in unexamined.reasons if reason.id == "search-powerless")
    assert "patch (found 0 of 5" in reason.message
    passed = next(reason for reason in unexamined.reasons if reason.id == "search")
    assert "patch" not in passed.message
    passed = next(reason for reason in examined.reasons if reason.id == "search")
    assert passed.message.endswith("planted backdoors are found from patch 25% of the side")
    # judged again, it is the same report
    assert judge_again(unexamined, Gate(Policy())) == unexamined


def test_where_no_search_has_power_nothing_is_a_pass(bench):
    (missed,), _, _ = bench(CRIPPLED)
    clean = recorded("clean")
    kinds = dict.fromkeys(record.kind for record in clean.searches)
    everything = tuple(missed.model_copy(update={"kind": kind}) for kind in kinds)
    judged = with_power(clean, everything)
    assert judged.verdict == "inconclusive"
    assert not [reason for reason in judged.reasons if reason.id == "search" and reason.outcome == "pass"]
    # a search without power that finds something all the same accuses
    failed = recorded("backdoored")
    assert [r.id for r in with_power(failed, everything).reasons if r.outcome == "fail"] == [
        r.id for r in judge_again(failed, Gate(Policy())).reasons if r.outcome == "fail"
    ]


def test_finished_controls_come_from_the_cache_and_every_setting_is_part_of_the_key(
    bench, tmp_path, monkeypatch
):
    cache, short = Cache(tmp_path), Planting(steps=2, images=4)
    first, progress, _ = bench(CRIPPLED, cache, planting=short)
    assert progress.images > 0
    stored = len(cache.entries)
    again, progress, _ = bench(CRIPPLED, cache, planting=short)
    assert again == first
    assert (len(cache.entries), progress.images) == (stored, 0)
    others = (
        {"kind": PatchSearch(budgets=(5 / 16,), grid=1, stages=(Stage(2, 1, 1),))},
        {"kind": PatchSearch(budgets=(4 / 16,), grid=1, stages=(Stage(2, 2, 1),))},
        {"planting": Planting(steps=3, images=4)},
        {"module": "PLANTING_VERSION"},
        {"module": "SEARCH_VERSION"},
    )
    for other in others:
        with monkeypatch.context() as patch:
            if "module" in other:
                patch.setattr(search_store, other["module"], 99)
            before = len(cache.entries)
            bench(other.get("kind", CRIPPLED), cache, planting=other.get("planting", short))
            assert len(cache.entries) >= before + 5, other


def test_backdoors_that_do_not_work_say_nothing_of_the_search(bench):
    (record,), _, _ = bench(CRIPPLED, planting=Planting(steps=1, images=4, rate=1e-9))
    assert record.enough is None
    assert powerless([record]) == {}
    (line,) = unknown_lines([record], ["patch", "wave"])
    assert "patch, wave" in line
    judged = with_power(recorded("clean"), (record,))
    assert judged.verdict == "pass"
    assert "search-powerless" not in [reason.id for reason in judged.reasons]


def test_the_weakest_found_strength_counts_only_above_what_is_missed():
    def at(strength, enough):
        return SearchPowerRecord(
            kind="patch", strength=strength, change=f"{strength}", origin="here", controls=(), enough=enough
        )

    tried = [at(1, True), at(2, False), at(3, True)]
    assert weakest(tried, "patch") == tried[2]
    assert weakest(tried[:1], "patch") == tried[0]
    assert weakest([at(1, None), at(2, True)], "patch").strength == 2
    assert weakest(tried[1:2], "patch") is None
    assert weakest(tried, "wave") is None


def asked_of(uris, **options):
    """Return what the look-up of shipped controls is asked in an audit with these references."""
    references = {uri: open_encoder(uri) for uri in uris}
    inputs = SimpleNamespace(references=references)
    settings = SearchConfig(default_searches(), **options)
    searches = SimpleNamespace(settings=settings)
    return {
        "references": [encoder.record.digest for encoder in references.values()],
        "images": "builtin:shapes?seed=3&count=900&size=32",
        "search_images": settings.pool + settings.held_out,
        "digests": digests_of(inputs, searches, AuditConfig(model="m")),
    }


def test_the_shipped_controls_are_those_of_the_embedded_references():
    asked = asked_of(["builtin:reference-vit", "builtin:reference-cnx"])
    power = shipped_power(**asked)
    assert {record.kind for record in power} == {"patch", "universal", "wave", "warp", "corners"}
    assert all(record.origin.startswith("shipped") for record in power)
    assert all(len(record.controls) >= 10 for record in power)
    # as measured, so as judged by the default policy
    assert judge_power(power, Policy()) == power
    assert weakest(power, "patch") is not None
    assert PositiveControls.model_validate_json(SHIPPED.read_bytes()).power == power


@pytest.mark.parametrize(
    "other",
    [{"references": ["0" * 64]}, {"images": "hf://datasets/x"}, {"search_images": 9}, {"digests": {}}],
)
def test_nothing_is_known_of_other_audits(other):
    asked = asked_of(["builtin:reference-vit", "builtin:reference-cnx"])
    assert shipped_power(**(asked | other)) == ()


def test_another_budget_of_one_kind_loses_its_controls_alone():
    usual = SearchConfig(default_searches())
    kinds = tuple(
        PatchSearch(budgets=(0.5,)) if kind.name == "patch" else kind for kind in default_searches()
    )
    other = SearchConfig(kinds)
    assert search_digest(usual, [0], ["float32"]) != search_digest(other, [0], ["float32"])
    assert search_digest(usual, [0], ["float32"]) != search_digest(usual, [0], ["bfloat16"])
    assert search_digest(usual, [4], ["float32"]) == search_digest(
        SearchConfig(default_searches()), [4], ["float32"]
    )


def test_a_store_without_a_cache_keeps_nothing():
    settings = SearchConfig(default_searches(), pool=1, held_out=1)
    images = SimpleNamespace(refs=[], uri="fake")
    store = SearchStore(None, AuditConfig(model="m"), settings, images, {0: ()})
    assert store.read_control(Small("one", 0), 0, 1, {}) is None


def test_positive_controls_do_not_go_with_a_time_budget_and_are_named_only_where_used():
    with pytest.raises(UsageError, match="--plan says how long"):
        AuditConfig(model="m", positive_controls=True, budget="30m")
    assert "positive_controls" not in AuditConfig(model="m").to_json()
    assert AuditConfig(model="m", positive_controls=True).to_json()["positive_controls"] is True


def test_a_plan_counts_the_images_of_positive_controls():
    settings = SearchConfig((FULL,))
    config = AuditConfig(model="m", searches=("patch",))
    planting = 1.5 * Planting().cost()
    assert control_images(config, settings) == int(10 * 2 * (planting + FULL.cost()))
