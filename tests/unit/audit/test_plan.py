"""The plan of an audit: its work, what the cache saves, a budget's choices, the time that is left."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.duration import in_words, parse_duration
from platodef_cli.audit.inputs import open_inputs, split
from platodef_cli.audit.plan.budget import CORE, Sizes, _words, choose, fitted
from platodef_cli.audit.plan.countdown import Countdown
from platodef_cli.audit.plan.plan import Phase, Plan, planned
from platodef_cli.audit.plan.work import work_of
from platodef_cli.audit.provenance import left_out_of
from platodef_cli.audit.run import plan as plan_audit
from platodef_cli.audit.steps.prepare import requests_of
from platodef_cli.audit.steps.search import chosen, search_title, settings_of
from platodef_cli.errors import InconclusiveError, UsageError
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import EXTRACTING, extract
from platodef_cli.progress import SILENT


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5m", 90), (" 9s ", 9)],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "m", "-5m", "soon", "0s", "30 m", "1d", "9999999h", "nan", "1e3s"]
)
def test_nonsense_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no time|is not between"):
        AuditConfig("m", budget=text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.44, "0.4 s"),
        (12.2, "12 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (1800, "30 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_times_are_said(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def shapes(folder: Path, count: int = 400, **more: Any) -> AuditConfig:
    images = f"builtin:shapes?seed=1&count={count}"
    return AuditConfig("builtin:clean", images=images, offline=True, cache_dir=folder, **more)


def test_what_the_cache_holds_is_no_work(tmp_path: Path) -> None:
    config = shapes(tmp_path, battery="quick", probe_images=30)
    cache = FeatureCache(tmp_path)
    with open_inputs(config, SILENT) as inputs:
        parts = split(400, config.seed)
        requests = requests_of(config, parts)
        names = [request.name for request in requests]
        first = work_of(config, inputs, parts, cache)
        assert [work.role for work in first] == ["suspect", "reference", "reference"]
        for work in first:
            assert (work.clean, work.battery, work.cached) == (400, 30 * (len(names) - 1), 0)
            assert work.only_if_needed is (work.role == "reference")
        suspect = first[0]
        settings = settings_of(config)
        kinds = [settings.searches()[place] for place in chosen(config, settings)]
        assert suspect.search.gradients == sum(kind.restarts * kind.cost() for kind, _ in kinds)
        assert suspect.gradients == suspect.search.gradients
        assert first[1].gradients == 0
        extract(inputs.images, inputs.encoders, requests[:3], cache=cache, batch_size=config.batch_size)
        for work in work_of(config, inputs, parts, cache):
            assert (work.clean, work.battery) == (0, 30 * (len(names) - 3))
            assert work.cached == 460
        # every search is made on references where that is asked for
        always = work_of(replace(config, search_controls="all"), inputs, parts, cache)
        assert not any(work.only_if_needed for work in always)


def test_a_plan_measures_and_adds_up(tmp_path: Path) -> None:
    plan = plan_audit(shapes(tmp_path, battery="quick", probe_images=30, searches=("universal",)))
    assert dict(plan.images) == {"fit": 200, "calibration": 80, "test": 120}
    assert (plan.probe_images, plan.changes) == (30, 10)
    for encoder in plan.encoders:
        assert encoder.speed.forward
        assert encoder.speed.gradient
        assert encoder.memory_mb > 1
    assert [phase.certain for phase in plan.phases if phase.name == "references"] == [False]
    assert 0 < plan.seconds < plan.at_most
    assert plan.memory_mb > 100
    values = plan.to_json()
    assert values["seconds"] == plan.seconds
    assert values["encoders"][0]["work"]["search"]["searches"] == 2
    # nothing was computed that would be kept
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_base_is_work_too(tmp_path: Path) -> None:
    config = shapes(tmp_path, battery="quick", probe_images=30, base="builtin:backdoored")
    cache = FeatureCache(tmp_path)
    with open_inputs(config, SILENT) as inputs:
        parts = split(400, config.seed)
        requests = requests_of(config, parts)
        *others, base = work_of(config, inputs, parts, cache)
        assert [work.role for work in others] == ["suspect", "reference", "reference"]
        assert (base.name, base.role, base.clean, base.battery) == ("base", "base", 400, 300)
        assert base.found == others[0].found > 0
        assert (base.search.searches, base.cached_searches, base.gradients) == (0, 0, 0)
        assert not base.only_if_needed
        assert base.passes == 700 + base.found
        alone = planned(replace(config, base=None), replace(inputs, base=None), parts, cache, 1, SILENT)
        beside = planned(config, inputs, parts, cache, 1, SILENT)
        assert "base" not in {phase.name for phase in alone.phases}
        (phase,) = [phase for phase in beside.phases if phase.name == "base"]
        assert phase.certain
        speed = beside.encoders[-1].speed
        assert speed.forward
        assert speed.gradient is None
        assert phase.seconds >= base.passes * speed.forward
        assert beside.memory_mb > alone.memory_mb + 300
        # what the audit will ask for is what was counted
        extract(inputs.images, {"base": inputs.base}, requests, cache=cache, batch_size=config.batch_size)
        kept = work_of(config, inputs, parts, cache)[-1]
        assert (kept.clean, kept.battery, kept.cached) == (0, 0, 700)
        # a reference may be called so, too
        named = {"base": inputs.references["reference-vit"]}
        clash = work_of(config, replace(inputs, references=named), parts, None)
        assert [(work.name, work.role) for work in clash] == [
            ("clean", "suspect"),
            ("base", "reference"),
            ("base-2", "base"),
        ]


def test_images_of_another_size_and_a_sample(tmp_path: Path) -> None:
    config = shapes(tmp_path, count=600, sample=350, probe_images=20, battery="quick")
    with open_inputs(config, SILENT) as inputs:
        parts = split(600, config.seed, config.sample)
        plan = planned(config, inputs, parts, None, 1, SILENT)
        assert sum(plan.images.values()) == 350
        assert {encoder.work.clean for encoder in plan.encoders} == {350}
    assert set(parts.rows) < set(range(600))
    assert split(600, 0, 9999) == split(600, 0)


def test_searches_that_are_left_out_keep_the_numbers_of_the_others() -> None:
    config = AuditConfig("m", searches=("universal", "wave"))
    settings = settings_of(config)
    places = chosen(config, settings)
    assert {settings.searches()[place][0].name for place in places} == {"universal", "wave"}
    everything = AuditConfig("m")
    assert chosen(everything, settings_of(everything)) == list(
        range(len(settings.searches()) - 1)
    )  # without the optional one
    (named,) = left_out_of(config)
    assert "patch" in named
    assert "universal" not in named
    assert list(left_out_of(everything)) == [
        "unknown triggers of the kinds that were not searched for: pairs"
    ]
    quick, _ = left_out_of(AuditConfig("m", battery="quick"))
    assert "wanet" in quick


FULL = Sizes(2000, 400, "standard", ("patch", "universal", "wave", "warp", "corners"))
COSTS = {"patch": 100.0, "universal": 50.0, "wave": 20.0, "warp": 30.0, "corners": 40.0}


def seconds(sizes: Sizes) -> float:
    changes = 30 if sizes.battery == "standard" else 10
    return (
        sizes.sample * 0.1 + sizes.probe_images * changes * 0.01 + sum(COSTS[name] for name in sizes.searches)
    )


def test_a_budget_takes_what_loses_least() -> None:
    assert choose(FULL, 343, seconds(FULL), seconds, COSTS) == FULL
    assert choose(FULL, 343, seconds(FULL) - 1, seconds, COSTS) == replace(FULL, probe_images=200)
    last = seconds(FULL) + 1.0
    for room in range(int(seconds(FULL)), 160, -10):
        sizes = choose(FULL, 343, room, seconds, COSTS)
        if sizes is None:
            break
        assert seconds(sizes) <= room
        assert seconds(sizes) <= last
        assert sizes.sample >= 343
        assert sizes.probe_images >= 100
        assert set(CORE) <= set(sizes.searches)
    least = Sizes(343, 100, "quick", CORE)
    assert choose(FULL, 343, seconds(least), seconds, COSTS) == least
    assert choose(FULL, 343, seconds(least) - 0.1, seconds, COSTS) is None


def test_a_budget_says_what_it_leaves_out() -> None:
    sizes = Sizes(500, 100, "quick", CORE)
    images, probed, known, unknown = _words(AuditConfig("m"), FULL, sizes)
    assert images == "1500 of 2000 images: intervals are 2.0 times as wide"
    assert probed == "300 of 400 probe images: intervals of the battery are 2.0 times as wide"
    assert "wanet" in known
    assert unknown == "the searches for unknown triggers: wave, warp, corners (not examined)"
    assert not list(_words(AuditConfig("m"), FULL, FULL))


def test_what_does_not_help_is_not_shortened() -> None:
    # only the searches cost anything
    def searching(sizes: Sizes) -> float:
        return sum(COSTS[name] for name in sizes.searches)

    sizes = choose(FULL, 343, 200, searching, COSTS)
    assert sizes == replace(FULL, searches=("patch", "universal", "wave", "warp"))


def test_a_budget_that_is_too_small_ends_before_anything_is_computed(tmp_path: Path) -> None:
    config = shapes(tmp_path, budget="1s")
    with open_inputs(config, SILENT) as inputs, pytest.raises(InconclusiveError) as error:
        fitted(config, inputs, None, 1, SILENT, spent=0.5)
    assert "a budget of 1s is too small for an answer" in str(error.value)
    assert "--budget" in str(error.value)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_budget_that_is_large_enough_leaves_nothing_out(tmp_path: Path) -> None:
    config = shapes(tmp_path, budget="100h")
    with open_inputs(config, SILENT) as inputs:
        found, plan = fitted(config, inputs, None, 1, SILENT, spent=0.0)
    assert plan.left_out == ()
    assert plan.options == {}
    assert (found.sample, found.probe_images, found.battery) == (400, 120, "standard")


class Clock:
    """Tells the time that it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def silent_step(title: str, total: int | None = None) -> Any:
    yield SimpleNamespace(advance=lambda amount=1, note="": None)


def test_the_time_left_follows_the_plan_and_then_the_pace() -> None:
    clock = Clock()
    times = {"features": 100.0, "heads": 20.0, "search": 200.0, "measure": 10.0}
    phases = (*(Phase(name, value) for name, value in times.items()), Phase("references", 500.0, False))
    encoder: Any = SimpleNamespace(work=SimpleNamespace(name="suspect"))
    countdown = Countdown(Plan({}, 0, 0, (encoder,), phases, 0.0), clock)
    assert countdown.left() == 330
    step = countdown.watching(silent_step)
    countdown.enter("extract")
    with step(EXTRACTING, 1000) as task:
        clock.now = 10.0
        assert countdown.left() == 320
        task.advance(500)  # at once, by the cache
        for _ in range(10):
            clock.now += 4.0
            task.advance(10)
        # 400 of 1000 are left, 2.5 a second
        assert countdown.left() == pytest.approx(230 + 160)
    countdown.enter("heads")
    clock.now = 60.0
    assert countdown.left() == 220
    countdown.enter("search")
    with step(search_title("suspect"), 100) as task, step("decoding images", 5) as other:
        other.advance(5)
        for _ in range(10):
            clock.now += 3.0
            task.advance(5)
        assert countdown.left() == pytest.approx(10 + 30)
    with step(search_title("a reference"), 100) as task:
        for _ in range(4):
            clock.now += 5.0
            task.advance(10)
        assert countdown.left() == pytest.approx(10 + 30)
    countdown.enter("measure")
    clock.now += 100
    assert countdown.left() == 0


def test_the_features_of_a_base_are_part_of_the_time_left() -> None:
    clock = Clock()
    times = {"features": 100.0, "measure": 10.0, "base": 40.0}
    encoder: Any = SimpleNamespace(work=SimpleNamespace(name="suspect"))
    phases = tuple(Phase(name, value) for name, value in times.items())
    countdown = Countdown(Plan({}, 0, 0, (encoder,), phases, 0.0), clock)
    assert countdown.left() == 150
    countdown.enter("measure")
    with countdown.watching(silent_step)(EXTRACTING, 1000):
        assert countdown.left() == 40
        clock.now = 15.0
        assert countdown.left() == 25
