"""The manifest of audit-many: every slip is found before anything runs, and said where it is."""

from pathlib import Path

import pytest

from platodef_cli.audit.config import AuditConfig
from platodef_cli.errors import UsageError
from platodef_cli.jobs.audits import option_words
from platodef_cli.jobs.manifest import OWN, common_keys, default_name, read_manifest
from tests.unit.cli.calls import ROOT

GOOD = """
version = 1
suspects = [
  "org/a", {model = "org/b@main", name = "bee", pooling = ["mean"], memory_limit_gb = 4}, "builtin:clean",
]
[audit]
images = "calibration"
references = ["org/r1", "org/r2"]
policy = "strict.toml"
set = ["auroc=0.9"]
seed = 3
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "m.toml"
    path.write_text(text)
    return path


def test_what_a_manifest_says(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path, GOOD))
    assert [each.name for each in manifest.suspects] == ["org--a", "bee", "builtin-clean"]
    second = manifest.suspects[1]
    assert second.options["pooling"] == ["mean"]
    assert second.options["seed"] == 3
    assert manifest.policy == Path("strict.toml")
    assert manifest.set == ("auroc=0.9",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("suspects = []", "suspects is missing or empty"),
        ("[audit]\nimages = 'x'", "suspects is missing or empty"),
        ("suspects = ['org/a']\nversion = 2", "this platodef reads 1"),
        ("suspects = ['org/a']\nversion = true", "this platodef reads 1"),
        ("suspects = ['org/a']\naudti = 1", "did you mean 'audit'"),
        ("suspects = ['org/a']\naudit = 1", "audit is no table"),
        ("suspects = ['org/a']\n[audit]\nbatch-size = 8", "did you mean 'batch_size'"),
        ("suspects = ['org/a']\n[audit]\nbatch_size = '8'", "[audit] batch_size is '8'"),
        ("suspects = ['org/a']\n[audit]\nbatch_size = 0", "batch_size is 0; give a number of at least 1"),
        ("suspects = ['org/a']\n[audit]\nbattery = 'quik'", "battery is 'quik'"),
        ("suspects = ['org/a']\n[audit]\nreferences = 'org/r'", "references is 'org/r'"),
        ("suspects = ['org/a']\n[audit]\nfail_if = [1]", "fail_if is [1]"),
        ("suspects = ['org/a']\n[audit]\nmodel = 'org/b'", "unknown key 'model'"),
        ("suspects = [7]", "suspect 1 is int"),
        ("suspects = [{name = 'x'}]", "suspect 1 has no model"),
        ("suspects = [{model = 'org/a', images = 'x'}]", "unknown key 'images'"),
        ("suspects = [{model = 'org/a', name = '../x'}]", "no name of a file"),
        ("suspects = [{model = 'org/a', name = 'x.json'}]", "no name of a file"),
        ("suspects = [{model = 'org/a', name = '.x'}]", "no name of a file"),
        ("suspects = ['org/a', 'org/a']", "it is called 'org--a', as"),
        (
            "suspects = [{model = 'org/a', name = 'X'}, {model = 'org/b', name = 'x'}]",
            "give it a name of its own",
        ),
        ("suspects = ['org/a', 'resnet50']", "suspect 2 ('resnet50'): 'resnet50' is neither"),
        ("suspects = [{model = 'org/a@main', revision = 'dev'}]", "give only one"),
        ("suspects = ['builtin:cleen']", "unknown embedded encoder 'cleen' (did you mean 'clean'?)"),
        ("suspects = ['org/a'", "is not TOML"),
    ],
)
def test_slips(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        read_manifest(written(tmp_path, text))
    assert words in str(error.value)
    assert str(tmp_path / "m.toml") in str(error.value)


def test_a_folder_that_is_not_there_is_the_fault_of_one_suspect(tmp_path: Path) -> None:
    (absent,) = read_manifest(written(tmp_path, "suspects = ['./absent']")).suspects
    assert absent.model == "./absent"


def test_shards_are_every_suspect_once(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path, f"suspects = {[f'org/m{n}' for n in range(10)]}"))
    parts = [manifest.shard(number, 3) for number in (1, 2, 3)]
    assert sorted(each.name for part in parts for each in part) == sorted(e.name for e in manifest.suspects)
    assert {len(part) for part in parts} == {3, 4}
    assert manifest.shard(11, 11) == ()


def test_names_tell_models_apart() -> None:
    models = [
        "org/name",
        "org--name",
        "./org/name",
        "org-name",
        "/org/name",
        "org/name@main",
        "a/" + "b" * 90,
    ]
    names = [default_name(model) for model in models]
    assert len(set(names)) == len(models)
    assert names[0] == "org--name"
    assert default_name("org/name", "main") == default_name("org/name@main") == "org--name-main"
    assert all(len(name) <= 80 and "/" not in name for name in names)


def test_options_become_words_of_the_command_line() -> None:
    given = {
        "references": ["a", "b"], "use_labels": False, "offline": True, "follow_links": False, "limit": 5,
        "false_positive_rate": 0.1, "detectors": ["ridge"], "time_limit_s": 60.0,
    }  # fmt: skip
    assert option_words(given) == [
        "--reference", "a", "--reference", "b", "--no-labels", "--limit", "5", "--offline",
        "--time-limit", "60.0", "--fpr", "0.1", "--detector", "ridge",
    ]  # fmt: skip
    assert option_words({"use_labels": True}) == []


def test_the_page_names_every_key() -> None:
    page = (ROOT / "examples" / "MANY.md").read_text()
    for key in {*common_keys(), *OWN, "version", "suspects"}:
        assert f"`{key}`" in page, key
    assert set(OWN) - {"name", "baseline"} <= set(AuditConfig.__dataclass_fields__)
