"""Fixtures that several folders of tests share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from platodef_cli.records import AuditReport

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_json() -> str:
    """Report version 1, as ``-o json`` writes it."""
    return (GOLDEN / "report_v1.json").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def golden_report(golden_json: str) -> AuditReport:
    """The report of a failing audit with every part filled."""
    return AuditReport.model_validate_json(golden_json)


@pytest.fixture(scope="session")
def check_golden() -> Callable[[str, str], None]:
    """Compare text with a file of tests/golden; ``UPDATE_GOLDEN=1 pytest`` writes it instead."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("UPDATE_GOLDEN") == "1":
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{name} differs; look, then UPDATE_GOLDEN=1 pytest"

    return check
