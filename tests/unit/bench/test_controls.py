"""`bench controls` on the embedded references, with a search and a planting of seconds."""

import functools

import pytest

from platodef_cli.audit.steps import controls as controlling
from platodef_cli.audit.steps import search as searching
from platodef_cli.bench.controls import ControlsConfig, controls
from platodef_cli.cli.app import main
from platodef_cli.records import PositiveControls
from platodef_cli.search.halving import Stage
from platodef_cli.search.interface import SearchConfig
from platodef_cli.search.patch import PatchSearch
from platodef_cli.search.planting import Planting

IMAGES = "builtin:shapes?seed=5&count=420"


@pytest.fixture
def quick(monkeypatch):
    """Make searches and plantings quick, and count the plantings."""
    kind = PatchSearch(budgets=(5 / 32,), grid=1, stages=(Stage(2, 1, 1),))
    settings = SearchConfig((kind,), pool=60, held_out=40)
    monkeypatch.setattr(searching, "settings_of", lambda config: settings)
    monkeypatch.setattr(controlling, "Planting", functools.partial(Planting, steps=1, images=2))
    made, plant = [], controlling.planted

    def counted(encoder, *given):
        made.append(encoder.record.name)
        return plant(encoder, *given)

    monkeypatch.setattr(controlling, "planted", counted)
    return made


def test_the_command_writes_a_file_and_goes_on_where_it_stopped(quick, tmp_path, capsys):
    path, words = tmp_path / "controls.json", ["bench", "controls", "--search", "patch", "--repeats", "5"]
    words += ["--images", IMAGES, "--cache-dir", str(tmp_path / "cache"), "-o", str(path)]
    assert main(words) == 0
    assert "patch: power not measured" in capsys.readouterr().err
    found = PositiveControls.model_validate_json(path.read_bytes())
    (power,) = found.power
    # the strongest alone, in turn: backdoors of one step do not work, and nothing is shown by weaker ones
    assert (power.kind, power.strength, power.enough) == ("patch", 7 / 32, None)
    assert [c.reference for c in power.controls] == ["reference-vit", "reference-cnx"] * 2 + ["reference-vit"]
    assert [c.seed for c in power.controls] == [1, 2, 3, 4, 5]
    assert found.search_images == 100
    assert sorted(found.references) == ["reference-cnx", "reference-vit"]
    assert found.command == f"platodef bench controls --repeats 5 --images '{IMAGES}' --search patch"
    assert str(tmp_path) not in path.read_text()
    assert len(quick) == 5
    config = ControlsConfig(
        images=IMAGES, searches=("patch",), repeats=6, cache=tmp_path / "cache", command="again"
    )
    again = controls(config)
    assert len(quick) == 6  # five of them come from the cache
    assert again.power[0].controls[:5] == power.controls


def test_too_few_repeats_and_unknown_searches_are_refused(tmp_path):
    for words in (["--repeats", "2"], ["--search", "nonsense"]):
        assert main(["bench", "controls", "-o", str(tmp_path / "x.json"), *words]) == 2
        assert not (tmp_path / "x.json").exists()
