"""The house is as its map says: folders in order, no circle of imports, no long file."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import platodef_cli

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "platodef_cli"
LONGEST = 350


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else node.module for name in inner}
    return found & set(modules())


def test_no_circle_of_imports_between_files() -> None:
    # the package itself only names the public functions, and everything imports from inside it
    left = {name: imported(path) - {name, "platodef_cli"} for name, path in modules().items()}
    left.pop("platodef_cli")
    # what imports nothing that is left, or is imported by nothing that is left, is in no circle
    while free := {
        name
        for name, needs in left.items()
        if not needs & set(left) or not any(name in others for others in left.values())
    }:
        for name in free:
            del left[name]
    assert not left, f"these files import each other in a circle: {sorted(left)}"


def test_no_file_is_long() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: count for name, count in lengths.items() if count > LONGEST} == {}


def test_the_map_names_every_room_in_the_order_of_the_layers() -> None:
    rows = re.findall(r"^([a-z_]+)  +\S", platodef_cli.__doc__ or "", re.MULTILINE)
    there = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set(rows) == there - {"__init__", "version"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (layers,) = [contract["layers"] for contract in project["tool"]["importlinter"]["contracts"]]
    floors = [re.findall(r"platodef_cli\.(\w+)", floor) for floor in reversed(layers)]
    assert [sorted(floor) for floor in floors] == [
        sorted(rows[start : start + len(floor)])
        for start, floor in zip([sum(map(len, floors[:i])) for i in range(len(floors))], floors, strict=True)
    ]
