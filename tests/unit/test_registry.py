"""Plug-ins: tiny distributions in a folder on the path, used in this process and from the command line."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from platodef_cli import registry
from platodef_cli.cli.doctor import open_registries
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.registry import Registry, installed_plugins, used_plugins
from tests.unit.test_base import _tables


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


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path of this process; what is installed is looked up anew."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(registry, "_used", set())
    installed_plugins.cache_clear()
    yield folder
    installed_plugins.cache_clear()


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
    assert used_plugins() == {}
    assert things.load("z") == "Z"
    assert used_plugins() == {"two-things": "1.2"}
    with pytest.raises(UnknownNameError, match="choose one of: a, b, z"):
        things.load("c")
    assert Registry("thing", {"b": "math:pi"}).names() == ("b",)


def test_a_plugin_replaces_no_built_in_row(site: Path) -> None:
    install(
        site, "clash", {"clash": "b = 'evil'\n"}, {"platodef.things": {"b": "clash:b", "UP, down": "clash:b"}}
    )
    things = table()
    assert things.names() == ("b",)
    assert things.load("b") == pytest.approx(3.14159265)
    assert {plugin.name: reason for plugin, reason in things.ignored().items()} == {
        "b": "platodef has its own thing of that name",
        "UP, down": "a name has only a-z, 0-9, dot, dash and underscore",
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
    with pytest.raises(UsageError, match="the plug-in broken-one 1.2 .platodef.things: x = broken") as caught:
        table().load("x")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert used_plugins() == {}


def test_metadata_that_cannot_be_read_adds_nothing(site: Path) -> None:
    install(site, "fine", {"fine": "x = 1\n"}, {"platodef.things": {"x": "fine:x"}})
    info = site / "odd-1.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(b"[platodef.things]\nno equals sign\n\xff")
    assert table().names() == ("b", "x")


def test_the_working_directory_adds_nothing(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may stand in the folder of a model that he was sent."""
    install(site, "sent", {"sent": "x = 1\n"}, {"platodef.things": {"x": "sent:x"}})
    monkeypatch.chdir(site)
    assert table().names() == ("b",)


def test_the_doctor_knows_every_open_table() -> None:
    assert {t.group for _, t in _tables() if t.group} == {t.group for t in open_registries()}
    assert all(t.group.startswith("platodef.") for t in open_registries() if t.group)
