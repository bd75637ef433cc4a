"""How the tests of the command line call it."""

from pathlib import Path

import pytest

from tests.unit.cli.calls import Call, Result


@pytest.fixture
def platodef(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Run the real ``main`` in this process, with a cache of its own."""
    monkeypatch.setenv("PLATODEF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("platodef_cli.environment.prepare", lambda: None)

    def call(*arguments: object) -> Result:
        from platodef_cli.cli.app import main

        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return call
