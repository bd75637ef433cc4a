"""Plug-ins: tiny distributions in a folder on the path, used in this process and from the command line."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.cli.doctor import open_registries
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.plugins import Plugin, installation, plugin_of, recording
from platodef_cli.registry import Registry, check_plugins, shortcomings
from tests.unit.test_base import ROOT, _tables


def install(site: Path, name: str, modules: dict[str, str], entries: dict[str, dict[str, str]]) -> None:
    """Lay out what ``pip install --target`` would: modules, and the metadata of a distribution."""
    site.mkdir(exist_ok=True)
    for module, text in modules.items():
        (site / f"{module}.py").write_text(text)
    info = site / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = (
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in rows.items()) for group, rows in entries.items()
    )
    (info / "entry_points.txt").write_text("\n".join(lines))


def forget_installed() -> None:
    """Look up anew what is installed, in every table."""
    installation.cache_clear()
    for tab in open_registries():
        vars(tab).pop("_added", None)
        vars(tab).pop("_fit", None)


def table() -> Registry:
    return Registry("thing", {"b": "math:pi"}, group="platodef.things")


def test_rows_of_plugins_come_after_the_own_ones_and_are_loaded_on_use(site: Path) -> None:
    install(
        site,
        "two-things",
        {"two_things": "z, a = 'Z', 'A'\n"},
        {"platodef.things": {"z": "two_things:z", "a": "two_things:a"}},
    )
    things = table()
    assert things.names() == ("b", "a", "z")
    assert things.plugins() == ("a", "z")
    assert "z" in things
    assert "two_things" not in sys.modules
    loaded: set[Plugin] = set()
    with recording(loaded):
        assert loaded == set()
        assert things.load("z") == "Z"
        things.load("b")
    assert [(plugin.name, plugin.release) for plugin in loaded] == [("z", "two-things 1.2")]
    things.load("a")
    assert len(loaded) == 1
    with pytest.raises(UnknownNameError, match="choose one of: a, b, z"):
        things.load("c")
    assert Registry("thing", {"b": "math:pi"}).names() == ("b",)


def test_a_plugin_replaces_no_built_in_row(site: Path) -> None:
    install(
        site,
        "clash",
        {"clash": "b = 'evil'\n"},
        {"platodef.things": {"b": "clash:b", "UP, down": "clash:b", "a.b": "clash:b"}},
    )
    things = table()
    assert things.names() == ("b",)
    assert things.load("b") == pytest.approx(3.14159265)
    assert {plugin.name: reason for plugin, reason in things.ignored().items()} == {
        "b": "platodef has its own thing of that name",
        "UP, down": "a name has only a-z, 0-9, dash and underscore",
        "a.b": "a name has only a-z, 0-9, dash and underscore",
    }


def test_two_plugins_of_one_name_are_refused_when_asked_for(site: Path) -> None:
    for name in ("one", "other"):
        install(site, name, {name: "x = 1\n"}, {"platodef.things": {"x": f"{name}:x"}})
    assert table().names() == ("b", "x")
    with pytest.raises(
        UsageError, match="the thing 'x' is added by one 1.2 and other 1.2; uninstall all but one"
    ):
        table().load("x")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("x = (", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("y = 1", "AttributeError"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_clear_error(site: Path, code: str, reason: str) -> None:
    module = f"broken{abs(hash(code))}"
    install(site, "broken-one", {module: code + "\n"}, {"platodef.things": {"x": f"{module}:x"}})
    loaded: set[Plugin] = set()
    with (
        recording(loaded),
        pytest.raises(UsageError, match="the plug-in broken-one 1.2 .platodef.things: x = broken") as caught,
    ):
        table().load("x")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert loaded == set()


def test_metadata_that_cannot_be_read_adds_nothing(site: Path) -> None:
    install(site, "fine", {"fine": "x = 1\n"}, {"platodef.things": {"x": "fine:x"}})
    info = site / "odd-1.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(b"[platodef.things]\nno equals sign\n\xff")
    bare = site / "bare-1.dist-info"
    bare.mkdir()
    (bare / "entry_points.txt").write_text("[platodef.things]\nx = bare:x\n")
    assert table().names() == ("b", "x")
    assert {Path(place).name for place in installation().unreadable} == {
        "odd-1.dist-info",
        "bare-1.dist-info",
    }


def test_the_working_directory_adds_nothing(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may stand in the folder of a model that he was sent."""
    install(site, "sent", {"sent": "x = 1\n"}, {"platodef.things": {"x": "sent:x"}})
    monkeypatch.chdir(site)
    assert table().names() == ("b",)


def test_the_doctor_knows_every_open_table() -> None:
    assert {t.group for _, t in _tables() if t.group} == {t.group for t in open_registries()}
    assert all(t.group.startswith("platodef.") for t in open_registries() if t.group)


SHAPES = """
class Fine:
    name = "x"
    bank = 0
    needs = frozenset()

    def __init__(self, heads, clean=None, setup=None):
        pass

    def score(self, tuples):
        return self.purify(tuples, generator=None)

    @staticmethod
    def purify(tuples, *, generator):
        return tuples

class Unnamed(Fine):
    name = "y"

class WrongType(Fine):
    bank = "many"
    needs = ["features"]

class Unscored:
    name, bank, needs = "x", 0, frozenset()

class Narrow(Fine):
    def __init__(self):
        pass

    def score(self):
        return None

class Faulty(Fine):
    fault = "its fault"

class Raising(Fine):
    @property
    def fault(self):
        return None

def function(heads, clean, setup):
    return None
"""


def fault_of(row: Any) -> str:
    """What a row says of itself."""
    fault = getattr(row, "fault", "")
    return str(len(fault) and fault or "")


def shaped() -> Registry:
    """A table of rows with a contract."""
    return Registry(
        "thing",
        {},
        group="platodef.things",
        requires=(
            "name: str",
            "bank: int",
            "needs: set",
            "(heads, clean, setup)",
            "score(tuples)",
            "purify(tuples, *, generator)",
        ),
        named=True,
        fault=f"{__name__}:fault_of",
    )


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ("Fine", None),
        ("Unnamed", "its name is 'y', not 'x'"),
        ("WrongType", "its 'bank' is 'many', not a whole number, its 'needs' is ['features'], not a set"),
        ("Unscored", "it cannot be called with (heads, clean, setup), it has no 'score', it has no 'purify'"),
        (
            "Narrow",
            "it cannot be called with (heads, clean, setup), its 'score' cannot be called with (tuples)",
        ),
        ("Faulty", "its fault"),
        ("Raising", "TypeError: object of type 'property' has no len()"),
        ("function", "it has no 'name', it has no 'bank'"),
    ],
)
def test_what_a_row_lacks_is_one_error_that_names_the_distribution(
    site: Path, row: str, wrong: str | None
) -> None:
    install(site, "shaped", {"shaped_rows": SHAPES}, {"platodef.things": {"x": f"shaped_rows:{row}"}})
    if wrong is None:
        assert shaped().load("x").name == "x"
        return
    with pytest.raises(UsageError) as caught:
        shaped().load("x")
    place = f"the plug-in shaped 1.2 (platodef.things: x = shaped_rows:{row}) is no thing: "
    assert str(caught.value).startswith(place + wrong)
    assert str(caught.value).endswith("; repair or uninstall it")


def test_every_built_in_row_keeps_the_contract_of_its_table() -> None:
    """What is asked of plug-ins is what the rows of platodef have."""
    for tab in open_registries():
        if tab.kind == "image source":
            continue  # those of platodef are opened by their own arguments
        for name in tab.names():
            row = tab.load(name)
            rules = [
                rule
                for rule in tab.requires
                # patterns and networks are learned, so they have no defaults
                if not (name in ("pattern", "generator") and rule in ("()", "name"))
            ]
            assert shortcomings(row, rules) == "", name
            if tab.named:
                assert row.name == name
            if tab.fault is not None and name not in ("pattern", "generator"):
                module, _, attribute = tab.fault.partition(":")
                assert getattr(import_module(module), attribute)(row) == "", name


def test_names_are_checked_without_loading(site: Path) -> None:
    install(site, "fine", {}, {"platodef.things": {"x": "no_such_module:x"}})
    assert table().check("x") == "x"
    with pytest.raises(UnknownNameError, match="unknown thing 'y'; choose one of: b, x"):
        table().check("y")
    check_plugins(["x"], table())
    with pytest.raises(UnknownNameError, match="unknown plug-in 'b'; choose one of: x"):
        check_plugins(["x", "b"], table())
    closed = Registry("thing", {"b": "math:pi"})
    with pytest.raises(UsageError, match="no plug-in 'x': nothing that is installed adds a thing or other"):
        check_plugins(["x"], closed, Registry("other", {}))


def test_the_plugin_of_an_object_is_that_of_its_package(site: Path) -> None:
    text = "class Thing:\n    pass\n"
    install(site, "own", {"own_things": text}, {"platodef.things": {"x": "own_things:Thing"}})
    plugin = plugin_of(table().load("x")())
    assert plugin is not None
    assert plugin.release == "own 1.2"
    assert plugin_of(table()) is None
    assert plugin_of(3) is None


def test_importing_platodef_reads_no_metadata_of_distributions() -> None:
    code = (
        "import sys, platodef_cli, platodef_cli.search, platodef_cli.audit.policy.limits;"
        "from platodef_cli.plugins import installation; sys.exit(installation.cache_info().currsize)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
