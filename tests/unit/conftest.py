"""A place to install plug-ins in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_registry import forget_installed


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path of this process; what is installed is looked up anew."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))
    forget_installed()
    yield folder
    monkeypatch.undo()
    forget_installed()
