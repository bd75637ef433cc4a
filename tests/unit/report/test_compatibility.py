"""Reports of every earlier version can be read, and shown in every format."""

import json
from pathlib import Path

import pytest

from platodef_cli.records import SCHEMA_VERSION, AuditReport
from platodef_cli.report import REPORTS
from platodef_cli.report.interface import RenderOptions

GOLDEN = Path(__file__).parents[2] / "golden"
EARLIER = sorted(GOLDEN.glob("report_v1.?*.json"))


def test_the_present_version_has_a_golden_report_and_the_earlier_ones_keep_theirs() -> None:
    assert json.loads((GOLDEN / "report_v2.json").read_text())["schema_version"] == SCHEMA_VERSION
    assert [path.name for path in EARLIER] == ["report_v1.0.json", "report_v1.1.json", "report_v1.2.json"]
    for path in EARLIER:
        assert json.loads(path.read_text())["schema_version"] == path.stem.removeprefix("report_v")


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.stem)
def test_an_earlier_report_keeps_every_value(path: Path) -> None:
    old = json.loads(path.read_text())
    new = AuditReport.model_validate_json(path.read_text()).model_dump(mode="json")

    def kept(before: object, after: object, where: str) -> None:
        if isinstance(before, dict):
            assert isinstance(after, dict), where
            for name, value in before.items():
                kept(value, after[name], f"{where}.{name}")
        elif isinstance(before, list):
            assert isinstance(after, list), where
            assert len(before) == len(after), where
            for number, (one, other) in enumerate(zip(before, after, strict=True)):
                kept(one, other, f"{where}[{number}]")
        else:
            assert before == after, where

    kept(old, new, path.stem)


@pytest.mark.parametrize("name", REPORTS.names())
@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.stem)
def test_an_earlier_report_is_shown_in_every_format(path: Path, name: str) -> None:
    report = AuditReport.model_validate_json(path.read_text())
    text = REPORTS.load(name)(report, RenderOptions())
    assert report.verdict in text.lower()
    assert text.endswith("\n")
