"""`platodef policy init | check | metrics`, by hand of a new user."""

import json
import tomllib
from pathlib import Path

import pytest

from platodef_cli.audit.policy.limits import DEFAULTS, MEANINGS
from tests.unit.cli.calls import Call


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_init_writes_every_key_with_default_and_meaning(platodef: Call) -> None:
    assert platodef("policy", "init").code == 0
    text = Path("platodef.toml").read_text()
    assert tomllib.loads(text) == {}
    uncommented = "\n".join(line[2:] for line in text.splitlines() if line.startswith("# ") and " = " in line)
    values = tomllib.loads(uncommented)
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()} == DEFAULTS
    assert all(f"# {meaning}\n" in text for meaning in MEANINGS.values())
    assert all(len(line) <= 110 for line in text.splitlines())


def test_init_never_overwrites_unasked(platodef: Call) -> None:
    Path("mine.toml").write_text("auroc = 0.9\n")
    done = platodef("policy", "init", "mine.toml")
    assert done.code == 2
    assert "--force" in done.last
    assert Path("mine.toml").read_text() == "auroc = 0.9\n"
    assert platodef("policy", "init", "mine.toml", "--force").code == 0
    assert platodef("policy", "init", "no/such/folder.toml").code == 2
    assert [path.name for path in Path().iterdir()] == ["mine.toml"]


def test_check_says_where_values_come_from(platodef: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("platodef.toml").write_text("min_test = 300\n")
    monkeypatch.setenv("PLATODEF_SEARCH_GAP", "0.3")
    done = platodef("policy", "check", "--set", "auroc=0.9", "--fail-if", "findings > 0")
    assert done.code == 0
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert lines["auroc"].split() == ["auroc", "0.9", "--set"]
    assert lines["min_test"].split() == ["min_test", "300", "platodef.toml"]
    assert lines["search_gap"].split()[-1] == "PLATODEF_SEARCH_GAP"
    assert lines["alignment_p"].split()[-1] == "default"
    assert all(len(line) <= 80 for line in done.out.splitlines())
    table = json.loads(platodef("policy", "check", "--json").out)
    assert table["min_test"] == {"value": 300, "source": "platodef.toml"}
    assert set(table) == set(DEFAULTS)


@pytest.mark.parametrize(
    ("text", "told"),
    [("aurok = 1", "did you mean 'auroc'"), ("auroc = 2", "must be a number"), ("=", "TOML")],
)
def test_check_ends_with_2_on_errors(platodef: Call, text: str, told: str) -> None:
    Path("platodef.toml").write_text(text)
    done = platodef("policy", "check")
    assert (done.code, done.out) == (2, "")
    assert told in done.last


def test_metrics_are_listed(platodef: Call) -> None:
    done = platodef("policy", "metrics")
    assert "poisoned-accuracy" in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines())
    assert {"metric", "meaning"} == set(json.loads(platodef("policy", "metrics", "--json").out)[0])
