"""Checks of `.ci/run` that are easier to read in Python: README blocks, changelog, wheel."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_WHEEL_BYTES = 20 * 10**6
DATA = "platodef_cli/_data"
REQUIRED = (
    rf"{DATA}/encoders/[^/]+/model\.safetensors",
    rf"{DATA}/pretrained_heads/[^/]+/head\.safetensors",
    r"platodef_cli/report/templates/page\.css",
    *(rf"platodef_cli/report/templates/{name}\.html" for name in ("page", "pieces", "report")),
    *(rf"platodef_cli/bench/templates/benchmark\.{kind}" for kind in ("css", "html")),
)


def block(name: str) -> str:
    """Return the fenced block that follows ``<!-- ci:NAME -->`` in the README."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    pattern = rf"<!--\s*ci:{re.escape(name)}\s*-->\s*\n```[a-z]*\n(.*?)\n```"
    found = re.findall(pattern, text, re.DOTALL)
    if len(found) != 1:
        raise SystemExit(
            f"README.md must hold exactly one fenced block after <!-- ci:{name} -->, found {len(found)}"
        )
    return re.sub(r"^\$ ", "", found[0], flags=re.MULTILINE)


def changelog() -> str:
    """Check that the newest version in the changelog is the version of the package."""
    version = re.search(
        r'__version__ = "([^"]+)"', (ROOT / "platodef_cli/version.py").read_text(encoding="utf-8")
    )
    headings = re.findall(
        r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    released = [heading for heading in headings if heading != "Unreleased"]
    if version is None or not released or released[0] != version[1]:
        raise SystemExit(
            f"CHANGELOG.md starts with {released[:1]}, the package says {version and version[1]}"
        )
    return f"version {version[1]} in both"


def wheel(path: str, unpacked: str) -> str:
    """Check the wheel's size, its embedded encoders and heads, its command, and that it finds its data."""
    size = Path(path).stat().st_size
    if size > MAX_WHEEL_BYTES:
        raise SystemExit(f"{path} has {size} bytes, more than {MAX_WHEEL_BYTES}")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        entry_points = next(name for name in names if name.endswith(".dist-info/entry_points.txt"))
        commands = archive.read(entry_points).decode()
    for pattern in REQUIRED:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise SystemExit(f"{path} lacks {pattern}")
    if "platodef = platodef_cli.cli.app:main" not in commands:
        raise SystemExit(f"{path} does not install the command platodef: {commands}")
    outside = [name for name in names if not name.startswith(("platodef_cli/", "platodef-"))]
    if outside:
        raise SystemExit(f"{path} installs files outside the package: {outside[:5]}")
    code = "from platodef_cli.resources import data_dir as at; print(at('encoders'), at('pretrained_heads'))"
    environment = {**os.environ, "PYTHONPATH": unpacked}
    places = subprocess.run(
        [sys.executable, "-c", code],
        cwd=unpacked,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    if not all(Path(place).is_relative_to(Path(unpacked).resolve()) for place in places):
        raise SystemExit(f"the installed wheel takes its data from {places}")
    return f"{Path(path).name}: {size / 1e6:.1f} MB, {len(names)} files"


def main(arguments: list[str]) -> None:
    """Run ``block NAME``, ``changelog`` or ``wheel PATH UNPACKED``."""
    match arguments:
        case ["block", name]:
            print(block(name))
        case ["changelog"]:
            print(changelog())
        case ["wheel", path, unpacked]:
            print(wheel(path, unpacked))
        case _:
            raise SystemExit(main.__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
