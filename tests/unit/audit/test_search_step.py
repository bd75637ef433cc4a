"""The step that searches: other threads end between two steps, and the cache does not change the order."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.inputs import Split, split
from platodef_cli.audit.steps import search as searching
from platodef_cli.audit.steps.search import Stoppable
from platodef_cli.encoders.computed_by import encoding_libraries
from platodef_cli.errors import IncompleteError
from platodef_cli.features.cache import key_digest
from platodef_cli.images.interface import ImageRef


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


def fake_encoder(name, closed):
    record = SimpleNamespace(
        name=name, digest=name, transform=SimpleNamespace(model_dump=lambda mode: {}), pooling="", dtype=""
    )
    return SimpleNamespace(record=record, geometry=None, close=lambda: closed.append(name))


def fake_inputs(closed, *names):
    return SimpleNamespace(
        suspect=fake_encoder("suspect", closed),
        images=SimpleNamespace(skipped=[], refs=[]),
        encoders={name: fake_encoder(name, closed) for name in names},
    )


@pytest.mark.parametrize("cached", [(), ("reference",), ("suspect",), ("other", "reference", "suspect")])
def test_results_stand_in_the_order_of_the_encoders_whatever_the_cache_holds(monkeypatch, cached):
    class Cache:
        def load_artifact(self, kind, key):
            return key["encoder"] if key["encoder"] in cached else None

        def store_artifact(self, kind, key, write):
            assert key["encoder"] not in cached

    monkeypatch.setattr(searching, "_read", lambda folder: (folder,))
    monkeypatch.setattr(searching, "search", lambda encoder, *_, **__: (encoder.record.name,))
    monkeypatch.setattr(searching, "load_pixels", lambda *_: {None: None})
    names = ("suspect", "reference", "other")
    results = searching.run_search(
        fake_inputs([], *names), Split((), (), ()), AuditConfig(model="m"), Cache(), Counting()
    )
    assert list(results.items()) == [(name, (name,)) for name in names]


class Remembering:
    """A cache that keeps the digests of keys, and what was computed for each."""

    def __init__(self):
        self.kept = {}

    def load_artifact(self, kind, key):
        return self.kept.get(key_digest(key))

    def store_artifact(self, kind, key, write):
        self.kept[key_digest(key)] = key["encoder"]


class Searched:
    """In place of the search: lists (encoder, seed, images) of every search that was made."""

    def __init__(self, monkeypatch):
        self.made = []
        monkeypatch.setattr(searching, "_read", lambda folder: (folder,))
        monkeypatch.setattr(searching, "search", self)
        monkeypatch.setattr(searching, "load_pixels", lambda source, geometries, rows, _: {None: rows})

    def __call__(self, encoder, pixels, settings, *, seed, progress):
        self.made.append((encoder.record.name, seed, pixels))
        return (encoder.record.name,)

    def names(self):
        names = sorted(name for name, *_ in self.made)
        self.made.clear()
        return names


def audited(cache, seed=0, **changes):
    """Search a suspect and two references on 2000 images; ``changes`` are attributes of the encoders."""
    inputs = fake_inputs([], "suspect", "one", "two")
    inputs.images.refs = [ImageRef(id=str(row), digest=f"{row:064x}", label=None) for row in range(2000)]
    for encoder in inputs.encoders.values():
        vars(encoder).update(changes)
    return searching.run_search(
        inputs, split(2000, seed), AuditConfig(model="m", seed=seed), cache, Counting()
    )


def test_another_seed_searches_the_suspect_again_and_no_reference(monkeypatch):
    searched, cache = Searched(monkeypatch), Remembering()
    audited(cache)
    first = {name: (seed, rows) for name, seed, rows in searched.made}
    assert first["suspect"] == first["one"] == first["two"]
    assert searched.names() == ["one", "suspect", "two"]
    results = audited(cache, seed=7)
    ((name, seed, rows),) = searched.made
    assert (name, seed) == ("suspect", 7)
    # images that its found triggers are not tried on
    assert set(rows) <= set(split(2000, 7).fit)
    assert list(results) == ["suspect", "one", "two"]
    searched.made.clear()
    audited(None, seed=7)
    assert {name: (seed, rows) for name, seed, rows in searched.made} == {**first, "suspect": (7, rows)}


def test_another_device_or_library_is_another_search(monkeypatch):
    searched, cache = Searched(monkeypatch), Remembering()
    audited(cache, device="cpu one")
    assert len(searched.names()) == 3
    audited(cache, device="cpu one")
    assert searched.names() == []
    audited(cache, device="cuda two")
    assert len(searched.names()) == 3
    for library in encoding_libraries():
        monkeypatch.setattr(searching, "encoding_libraries", lambda name=library: {name: "other"})
        audited(cache, device="cpu one")
        assert len(searched.names()) == 3, library


@pytest.mark.parametrize("error", [IncompleteError("the suspect died"), KeyboardInterrupt()])
def test_a_failed_search_ends_the_others_and_the_suspect(monkeypatch, error):
    closed, endless = [], threading.Event()

    def search(searched, pixels, settings, *, seed, progress):
        with progress.step(searched.record.name) as task:
            if searched.record.name == "suspect":
                endless.wait(30)
                raise error
            while True:
                endless.set()
                task.advance()

    monkeypatch.setattr(searching, "search", search)
    monkeypatch.setattr(searching, "load_pixels", lambda *_: {None: None})
    inputs = fake_inputs(closed, "suspect", "reference", "waiting")
    before = threading.active_count()
    with pytest.raises(type(error)):
        searching.run_search(inputs, Split((), (), ()), AuditConfig(model="m"), None, Counting())
    assert closed == ["suspect"]
    assert threading.active_count() == before
