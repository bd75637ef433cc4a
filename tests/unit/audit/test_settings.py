"""Where a policy comes from: precedence of all places for keys of every kind, and files that are refused."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platodef_cli.audit.policy.files import refuse_inside
from platodef_cli.audit.policy.limits import DEFAULTS, Policy
from platodef_cli.audit.policy.sources import Effective, effective_policy, policy_of
from platodef_cli.audit.policy.waiver_file import read_waivers
from platodef_cli.errors import PlatodefError, UsageError

EXAMPLES = Path(__file__).parents[3] / "examples" / "ci"
# highest precedence first
PLACES = ("--set", "--policy", "environment", "PLATODEF_POLICY", "platodef.toml", "pyproject.toml")
# one key of every kind: a distinct value per place, as TOML and as text
VALUES: dict[str, list[tuple[str, str, Any]]] = {
    "name": [(f'"n{i}"', f"n{i}", f"n{i}") for i in range(6)],
    "auroc": [(f"0.6{i}", f"0.6{i}", 0.6 + i / 100) for i in range(6)],
    "min_test": [(f"20{i}", f"20{i}", 200 + i) for i in range(6)],
    "patch_collapse": [(f"[0.5, 0.7{i}]", f"0.5, 0.7{i}", (0.5, 0.7 + i / 100)) for i in range(6)],
    "fail_if": [(f'["auroc > 0.{i}", "cknna < 1"]', f"auroc > 0.{i}, cknna < 1", i) for i in range(6)],
}


def place_files(folder: Path, toml: dict[str, str]) -> dict[str, Any]:
    """Write one key into the given places and return the arguments that name them."""
    words: list[str] = []
    variables: dict[str, str] = {"PATH": "/bin", "PLATODEF_CACHE_DIR": "/x", "PLATODEF_WAVE_COLLAPSE": ""}
    arguments: dict[str, Any] = {"folder": folder, "environment": variables, "overrides": words}
    for place, text in toml.items():
        key, _, value = text.partition("=")
        if place == "--set":
            words.append(text)
        elif place == "environment":
            variables[f"PLATODEF_{key.upper()}"] = value
        elif place == "pyproject.toml":
            (folder / place).write_text(f'[project]\nname = "x"\n[tool.platodef]\n{text}\n')
        else:
            name = {"--policy": "cli.toml", "PLATODEF_POLICY": "env.toml"}.get(place, place)
            (folder / name).write_text(text)
            if place == "--policy":
                arguments["file"] = folder / name
            elif place == "PLATODEF_POLICY":
                variables[place] = str(folder / name)
    return arguments


@pytest.mark.parametrize("key", VALUES)
@pytest.mark.parametrize("first", range(len(PLACES) + 1))
def test_every_key_comes_from_the_first_place_that_has_it(tmp_path: Path, key: str, first: int) -> None:
    given_to = {
        place: f"{key}={VALUES[key][i][1 if place in ('--set', 'environment') else 0]}"
        for i, place in enumerate(PLACES)
        if i >= first
    }
    found = effective_policy(**place_files(tmp_path, given_to))
    value = getattr(found.policy, key)
    if first == len(PLACES):
        assert value == DEFAULTS[key]
        assert found.sources[key] == "default"
        return
    wanted = VALUES[key][first][2]
    if key == "fail_if":
        wanted = (f"auroc > 0.{wanted}", "cknna < 1")
    assert value == (pytest.approx(wanted) if key in ("auroc", "patch_collapse") else wanted)
    told = {
        "--set": "--set",
        "--policy": str(tmp_path / "cli.toml"),
        "environment": f"PLATODEF_{key.upper()}",
        "PLATODEF_POLICY": str(tmp_path / "env.toml"),
        "platodef.toml": str(tmp_path / "platodef.toml"),
        "pyproject.toml": f"{tmp_path / 'pyproject.toml'} [tool.platodef]",
    }
    assert found.sources[key] == told[PLACES[first]]


def test_keys_of_several_places_come_together(tmp_path: Path) -> None:
    places = {
        "--set": "auroc=0.9",
        "platodef.toml": "auroc = 0.7\nmin_test = 7",
        "pyproject.toml": "search_gap=0.3",
    }
    found = effective_policy(**place_files(tmp_path, places), rules=("auroc>0.5",))
    assert found.policy == Policy(
        name="platodef.toml, adjusted", auroc=0.9, min_test=7, search_gap=0.3, fail_if=("auroc>0.5",)
    )
    assert found.sources["fail_if"] == "--fail-if"


def test_rules_of_the_command_line_are_added(tmp_path: Path) -> None:
    arguments = place_files(tmp_path, {"platodef.toml": 'fail_if = ["auroc > 0.9"]'})
    found = effective_policy(**arguments, rules=("findings > 0",))
    assert found.policy.fail_if == ("auroc > 0.9", "findings > 0")
    again = effective_policy(**arguments, rules=("auroc > 0.9", "findings > 0", "findings > 0"))
    assert again.policy == found.policy
    with pytest.raises(UsageError, match="did you mean 'auroc'"):
        effective_policy(**arguments, rules=("aurok > 0.9",))


def recorded_base(folder: Path, toml: dict[str, str]) -> Effective:
    return effective_policy(**place_files(folder, toml), recorded=Policy(name="mine", auroc=0.61).to_json())


def test_the_policy_of_a_report_takes_the_place_of_the_defaults_only(tmp_path: Path) -> None:
    assert recorded_base(tmp_path, {}).policy == Policy(name="mine", auroc=0.61)
    adjusted = recorded_base(tmp_path, {"--set": "min_test=5"})
    assert adjusted.policy == Policy(name="mine, adjusted", auroc=0.61, min_test=5)
    assert adjusted.sources["auroc"] == "report"
    # a file of comments, as `policy init` writes it, is no policy; one with a key is
    assert recorded_base(tmp_path, {"platodef.toml": "# auroc = 0.8"}).policy.auroc == 0.61
    assert recorded_base(tmp_path, {"platodef.toml": "min_test = 5"}).policy.auroc == DEFAULTS["auroc"]
    named = place_files(tmp_path, {"--policy": ""})
    assert effective_policy(**named, recorded=Policy(auroc=0.61).to_json()).policy.auroc == DEFAULTS["auroc"]


def test_a_recorded_policy_comes_back() -> None:
    policy = Policy(name="x", patch_collapse=(0.5, 0.6), fail_if=("auroc > 0.9", "cknna < 0.1"))
    assert Policy.from_json(policy.to_json()) == policy
    with pytest.raises(UsageError, match="max_auroc"):
        Policy.from_json({"max_auroc": 0.8})


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ({"--set": "auroc"}, "give KEY=VALUE"),
        ({"--set": "aurok=1"}, "did you mean 'auroc'"),
        ({"--set": "auroc=high"}, "must be a number between"),
        ({"--set": "auroc=nan"}, "must be a number between"),
        ({"--set": "patch_collapse=0.5"}, "a list of 2 numbers"),
        ({"--set": "patch_collapse=0.5,x"}, "patch_collapse[1] is 'x', it must be a number"),
        ({"--set": "min_test=1.5"}, "whole number"),
        ({"platodef.toml": "min_test = 5.0"}, "min_test is 5.0, it must be a whole number"),
        ({"platodef.toml": "auroc = true"}, "auroc is True, it must be a number between"),
        ({"platodef.toml": "auroc = '0.5'"}, "auroc is '0.5', it must be a number between"),
        ({"platodef.toml": "wave_collapse = []"}, "wave_collapse is [], it must be a list of 1 numbers"),
        ({"platodef.toml": "name = ' '"}, "name is ' ', it must be a name"),
        ({"platodef.toml": "fail_if = ['a', 3]"}, "fail_if is ['a', 3], it must be a list of rules"),
        ({"environment": "min_tset=100"}, "did you mean 'PLATODEF_MIN_TEST'"),
        ({"environment": "auroc=x"}, "the environment variable PLATODEF_AUROC"),
        ({"PLATODEF_POLICY": "auroc = "}, "is not TOML"),
        ({"platodef.toml": "[policy]\nauroc = 1"}, "unknown key"),
        ({"platodef.toml": "fail_if = 'auroc > 1'"}, "a list of rules"),
        ({"platodef.toml": "fail_if = ['auroc']"}, "METRIC OP VALUE"),
        ({"pyproject.toml": "search_gap = 0"}, "above 0"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, toml: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("[", r"\[")):
        effective_policy(**place_files(tmp_path, toml))


def test_variables_of_other_tools_are_left_alone(tmp_path: Path) -> None:
    found = effective_policy(environment={"PLATODEF_MODEL": "x", "PLATODEF_IMAGES": "y"}, folder=tmp_path)
    assert found.policy == Policy()


def test_a_project_file_without_the_table_is_no_policy(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 3\n")
    assert effective_policy(environment={}, folder=tmp_path).policy == Policy()
    (tmp_path / "pyproject.toml").write_text("[tool]\nplatodef = 3\n")
    with pytest.raises(UsageError, match="not a table"):
        effective_policy(environment={}, folder=tmp_path)


def test_nothing_is_read_from_the_audited_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "platodef.toml").write_text("auroc = 1.0")
    (model / "waivers.toml").write_text("")
    (tmp_path / "link.toml").symlink_to(model / "platodef.toml")
    for arguments in ({"folder": model}, {"folder": None, "file": tmp_path / "link.toml"}):
        with pytest.raises(UsageError, match="inside the audited model"):
            effective_policy(environment={}, models=[str(model)], **arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="inside the audited model"):
        read_waivers(model / "waivers.toml", [str(model)])
    cached = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    (cached / "p.toml").write_text("")
    for name in ("org/name", "org/name@main", "hf://org/name@main"):
        with pytest.raises(UsageError, match="inside the audited model"):
            refuse_inside(cached / "p.toml", [name], "the policy")
    refuse_inside(cached / "p.toml", ["org/other"], "the policy")
    assert effective_policy(environment={}, folder=tmp_path, models=[str(model)]).policy == Policy()


ENTRY = {
    "id": '"search-patch"',
    "model": f'"{"a" * 64}"',
    "reason": '"r"',
    "owner": '"o"',
    "expires": "2027-01-31",
}


def waiver_file(folder: Path, **fields: str | None) -> Path:
    path = folder / "w.toml"
    entry = {key: value for key, value in {**ENTRY, **fields}.items() if value is not None}
    path.write_text("[[waiver]]\n" + "".join(f"{key} = {value}\n" for key, value in entry.items()))
    return path


@pytest.mark.parametrize("day", ["2027-01-31", '"2027-01-31"'])
def test_waivers_are_read(tmp_path: Path, day: str) -> None:
    (waiver,) = read_waivers(waiver_file(tmp_path, expires=day))
    assert (waiver.id, waiver.owner, waiver.expires) == ("search-patch", "o", date(2027, 1, 31))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        *(({key: None}, f"lacks {key}") for key in ENTRY),
        ({"owner": "3"}, "owner is 3"),
        ({"reason": '" "'}, "must be a text"),
        ({"model": '"abc"'}, "64 hexadecimal digits"),
        ({"model": '"org/name"'}, "64 hexadecimal digits"),
        ({"expires": "2027"}, "must be a date"),
        ({"expires": '"soon"'}, "must be a date"),
        ({"expires": "2027-01-31T00:00:00"}, "must be a date"),
        ({"expiers": "2027-01-31"}, "did you mean 'expires'"),
    ],
)
def test_wrong_waivers_are_refused(tmp_path: Path, fields: dict[str, str | None], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_waivers(waiver_file(tmp_path, **fields))


@pytest.mark.parametrize(
    "text", ["waiver = 3", "waiver = [3]", "[[waivers]]", "[waiver]\nid = 'x'", "\x00", "a ="]
)
def test_files_that_hold_no_waivers_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "w.toml").write_text(text)
    with pytest.raises(UsageError, match="the waiver file"):
        read_waivers(tmp_path / "w.toml")


def test_the_examples_are_valid() -> None:
    assert policy_of(EXAMPLES / "platodef.toml").name == "production"
    assert len(policy_of(EXAMPLES / "platodef.toml").fail_if) == 2
    assert [waiver.id for waiver in read_waivers(EXAMPLES / "waivers.toml")] == ["battery-patch"]


@given(key=st.sampled_from(sorted(DEFAULTS)), text=st.text(max_size=30))
def test_any_text_is_a_value_of_its_kind_or_an_error(key: str, text: str) -> None:
    try:
        policy = effective_policy(environment={}, folder=None, overrides=[f"{key}={text}"]).policy
    except PlatodefError:
        return
    assert type(getattr(policy, key)) is type(DEFAULTS[key])
    assert Policy.from_json(policy.to_json()) == policy
