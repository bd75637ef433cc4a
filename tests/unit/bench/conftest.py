"""A tiny zoo, built once by the real command."""

from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = "smoke"


@pytest.fixture
def platodef(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable:
    """Run the real ``main`` in this process; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("PLATODEF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("platodef_cli.environment.prepare", lambda: None)

    def call(*arguments: object) -> tuple[int, str, str]:
        from platodef_cli.cli.app import main

        capfd.readouterr()
        return (main([str(argument) for argument in arguments]), *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole ``smoke`` recipe."""
    from platodef_cli.cli.app import main

    folder = tmp_path_factory.mktemp("zoo") / "smoke"
    assert main(["bench", "zoo", "build", "--recipe", RECIPE, "-o", str(folder), "--jobs", "1", "-q"]) == 0
    return folder
