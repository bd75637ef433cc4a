"""The step that searches: other threads end between two steps, and the cache does not change the order."""

import json
import tempfile
import threading
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.inputs import Split, split
from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.provenance import left_out_of
from platodef_cli.audit.steps import search as searching
from platodef_cli.audit.steps import search_store
from platodef_cli.audit.steps.search import Stoppable
from platodef_cli.encoders.computed_by import encoding_libraries
from platodef_cli.errors import IncompleteError
from platodef_cli.images.interface import ImageRef
from platodef_cli.search import SEARCH_KINDS
from platodef_cli.search.interface import SearchConfig, SearchResult
from platodef_cli.search.pairs import PairTrigger
from platodef_cli.search.statistics import Effect


class Counting:
    """Counts what it is told."""

    def __init__(self):
        self.amounts, self.warnings = [], []

    @contextmanager
    def step(self, title, total=None):
        yield self

    def advance(self, amount=1, *, note=""):
        self.amounts.append(amount)

    def warn(self, message):
        self.warnings.append(message)


def test_a_stopped_task_raises_and_a_running_one_passes_on():
    progress = Counting()
    stoppable = Stoppable(progress)
    stoppable.warn("careful")
    with stoppable.step("work", 5) as task:
        task.advance(3)
        stoppable.stop()
        with pytest.raises(IncompleteError, match="stopped"):
            task.advance(2)
    assert progress.amounts == [3]
    assert progress.warnings == ["careful"]


COUNT = len(SearchConfig().searches()) - 1  # `pairs`, the last one, is optional
GEOMETRY = namedtuple("Geometry", "size")((32, 32))


class FakeEncoder:
    """Has a name and closes."""

    def __init__(self, name, closed):
        transform = SimpleNamespace(model_dump=lambda mode: {})
        self.record = SimpleNamespace(
            name=name, digest=name, transform=transform, pooling="", dtype="float32"
        )
        self.geometry, self.closed, self.tuned = GEOMETRY, closed, []

    def tune(self, **how):
        self.tuned.append(how)

    def close(self):
        self.closed.append(self.record.name)


def fake_inputs(closed, *names):
    encoders = {name: FakeEncoder(name, closed) for name in names}
    images = SimpleNamespace(skipped=[], refs=[])
    return SimpleNamespace(suspect=encoders["suspect"], images=images, encoders=encoders)


def result(kind, collapse):
    """One search that certainly reaches a collapse."""
    variant = SEARCH_KINDS.load(kind).trigger(kind, torch.zeros(3, 2, 2))
    return SearchResult(variant, f"{collapse}/255", 1, Effect(collapse, 1.0, 1.0), (collapse,) * 500, 64)


def run(monkeypatch, collapses, *, cache=None, images=0, seen=None, device_kind="cpu", **options):
    """Search fakes: encoder -> collapse of every search; return what was computed and the results.

    ``seen`` is filled with encoder, seed and images of every search.
    """
    computed = []

    class FakeSearch:
        def __init__(self, encoder, pixels, settings, *, seed):
            self.name, self.settings = encoder.record.name, settings
            if seen is not None:
                seen.append((self.name, seed, tuple(pixels)))

        def run(self, number, task):
            computed.append((self.name, number))
            return result(self.settings.searches()[number][0].name, collapses[self.name][number])

    monkeypatch.setattr(searching, "EncoderSearch", FakeSearch)
    monkeypatch.setattr(searching, "load_pixels", lambda source, geometries, rows, _: {GEOMETRY: rows})
    inputs = fake_inputs([], *collapses)
    inputs.images.refs = [ImageRef(id=str(row), digest=f"{row:064x}", label=None) for row in range(images)]
    for encoder in inputs.encoders.values():
        encoder.device = device_kind
    config = AuditConfig(model="m", **options)
    parts = split(images, config.seed)
    results = searching.run_search(inputs, parts, config, cache, Counting(), threads=4)
    return computed, results, inputs


LOW = {"suspect": [0.1] * COUNT, "reference": [0.2] * COUNT, "other": [0.3] * COUNT}


def test_references_are_searched_where_the_suspect_reaches_its_limit(monkeypatch):
    computed, results, inputs = run(monkeypatch, LOW)
    assert computed == [("suspect", number) for number in range(COUNT)]
    assert results["reference"] == results["other"] == {}
    records = searching.search_records(results, "suspect")
    assert [record.gap for record in records] == [None] * COUNT
    # alone it has all threads, and in the end what it had
    assert [how["threads"] for how in inputs.suspect.tuned] == [4, torch.get_num_threads()]
    high = LOW | {"suspect": [0.1, 0.99, 0.1, 0.8, *[0.1] * (COUNT - 4)]}
    computed, results, _ = run(monkeypatch, high)
    assert sorted(computed[COUNT:]) == [("other", 1), ("other", 3), ("reference", 1), ("reference", 3)]
    gaps = [record.gap for record in searching.search_records(results, "suspect") if record.role == "suspect"]
    assert [gap and round(gap.value, 2) for gap in gaps] == [None, 0.69, None, 0.5, *[None] * (COUNT - 4)]


@pytest.mark.parametrize(
    "options", [{"search_controls": "all"}, {"policy": Policy(fail_if=("search-gap>.5",))}]
)
def test_all_references_are_searched_on_request_and_where_a_rule_compares(monkeypatch, options):
    computed, results, _ = run(monkeypatch, LOW, **options)
    assert len(computed) == 3 * COUNT
    assert all(len(found) == COUNT for found in results.values())


class Cache:
    """Keeps what is stored in memory."""

    def __init__(self, folder):
        self.folder, self.entries = folder, {}

    def load_artifact(self, kind, key):
        return self.entries.get(json.dumps(key))

    def keep_artifact(self, kind, key, write):
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        write(folder)
        self.entries[json.dumps(key)] = folder


@pytest.mark.parametrize("lost", [(), (0,), (COUNT + 2, 3), range(3 * COUNT)])
def test_only_what_the_cache_lacks_is_searched_and_the_order_stays(monkeypatch, tmp_path, lost):
    cache = Cache(tmp_path)
    _, first, _ = run(monkeypatch, LOW, cache=cache, search_controls="all")
    keys = list(cache.entries)
    for number in lost:
        del cache.entries[keys[number]]
    computed, again, _ = run(monkeypatch, LOW, cache=cache, search_controls="all")
    assert len(computed) == len(lost)
    assert [(name, list(found)) for name, found in again.items()] == [
        (name, list(range(COUNT))) for name in LOW
    ]
    assert searching.search_records(again, "suspect") == searching.search_records(first, "suspect")


def names_of(computed):
    return sorted({name for name, _ in computed})


def test_another_seed_searches_the_suspect_again_and_no_reference(monkeypatch, tmp_path):
    cache, seen = Cache(tmp_path), []
    everything = {"cache": cache, "search_controls": "all", "images": 2000, "seen": seen}
    computed, _, _ = run(monkeypatch, LOW, **everything)
    assert names_of(computed) == ["other", "reference", "suspect"]
    assert len({(seed, rows) for _, seed, rows in seen}) == 1
    first = seen[0][1:]
    seen.clear()
    computed, results, _ = run(monkeypatch, LOW, seed=7, **everything)
    assert names_of(computed) == ["suspect"]
    ((name, seed, rows),) = seen
    assert (name, seed) == ("suspect", 7)
    # images that its found triggers are not tried on
    assert set(rows) <= set(split(2000, 7).fit)
    assert list(results) == ["suspect", "reference", "other"]
    seen.clear()
    run(monkeypatch, LOW, seed=7, **(everything | {"cache": None}))
    assert {name: how for name, *how in seen} == {
        "suspect": [7, rows],
        "reference": list(first),
        "other": list(first),
    }


def test_another_device_or_library_is_another_search(monkeypatch, tmp_path):
    cache = Cache(tmp_path)
    assert len(run(monkeypatch, LOW, cache=cache, device_kind="one")[0]) == COUNT
    assert len(run(monkeypatch, LOW, cache=cache, device_kind="one")[0]) == 0
    assert len(run(monkeypatch, LOW, cache=cache, device_kind="two")[0]) == COUNT
    for library in encoding_libraries():
        monkeypatch.setattr(search_store, "encoding_libraries", lambda name=library: {name: "other"})
        assert len(run(monkeypatch, LOW, cache=cache, device_kind="one")[0]) == COUNT, library


@pytest.mark.parametrize("error", [IncompleteError("the suspect died"), KeyboardInterrupt()])
def test_a_failed_search_ends_the_others_and_the_suspect(monkeypatch, error):
    endless = threading.Event()

    class FakeSearch:
        def __init__(self, encoder, pixels, settings, *, seed):
            self.name = encoder.record.name

        def run(self, number, task):
            if self.name == "suspect":
                return result("patch", 0.99)
            if self.name == "reference":
                endless.wait(30)
                raise error
            while True:
                endless.set()
                task.advance()

    monkeypatch.setattr(searching, "EncoderSearch", FakeSearch)
    monkeypatch.setattr(searching, "load_pixels", lambda *_: {GEOMETRY: None})
    closed = []
    inputs = fake_inputs(closed, "suspect", "reference", "waiting")
    before = threading.active_count()
    config = AuditConfig(model="m", search_controls="all")
    with pytest.raises(type(error)):
        searching.run_search(inputs, Split((), (), ()), config, None, Counting())
    assert closed == ["suspect"]
    assert threading.active_count() == before


def test_a_found_pair_comes_back_from_the_cache_with_its_corners(tmp_path):
    colours = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(1))
    pair = PairTrigger("pairs", colours, 7 / 32, corners=(1, 3))
    search_store._write(
        tmp_path, SearchResult(pair, "22% of the side", 24, Effect(0.9, 0.1, 1.3), (0.9,), 64)
    )
    read = search_store._read(tmp_path).variant
    assert read.name == pair.name
    images, seeds = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    assert torch.equal(read(images, seeds), pair(images, seeds))


def test_an_optional_search_runs_only_where_it_is_asked_for_and_is_named_as_not_examined():
    usual = AuditConfig(model="m")
    asked = AuditConfig(model="m", searches=("patch", "pairs"))
    settings = searching.settings_of(usual)
    names = [settings.searches()[place][0].name for place in searching.chosen(usual, settings)]
    assert list(dict.fromkeys(names)) == ["patch", "universal", "wave", "warp", "corners"]
    places = searching.chosen(asked, settings)
    assert [settings.searches()[place][0].name for place in places] == ["patch", "patch", "pairs"]
    assert any(line.endswith("not searched for: pairs") for line in left_out_of(usual))
    assert not any("pairs" in line for line in left_out_of(asked))
