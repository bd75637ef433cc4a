"""Reports that are read back: whatever the file is, one line and code 2."""

import codecs
import json
import os
from pathlib import Path

import pytest

from platodef_cli.errors import UsageError
from platodef_cli.report.reading import read_report

GOLDEN = Path(__file__).parents[2] / "golden" / "report_v2.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file"),
        (b"[]", "the file"),
        (b"[" * 200_000, "the file"),
        (b"[" + b"[]," * 2_000_000 + b"0]", "values, more than 2000000"),
        (b'{"exit_code": ' + b"9" * 400 + b"}", "beyond floating point"),
        (b'{"exit_code": 1e400}', "beyond floating point"),
        (b'{"exit_code": NaN}', "NaN is not a number"),
        (b'{"schema_version": "999.0"}', "newer than"),
        (b"\xff\xfe", "the file"),
    ],
)
def test_what_is_no_report(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_report(tmp_path / "report.json")


def test_a_number_in_quotes_is_none(tmp_path: Path) -> None:
    """pydantic takes "nan" for a float otherwise, which is above no limit and below none."""
    report = json.loads(GOLDEN.read_text())
    for text in ("nan", "inf", "0.5"):
        report["probes"][0]["collapse"] = text
        (tmp_path / "report.json").write_text(json.dumps(report))
        with pytest.raises(UsageError, match="probes.0.collapse"):
            read_report(tmp_path / "report.json")


def test_a_byte_order_mark_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(codecs.BOM_UTF8 + GOLDEN.read_bytes())
    assert read_report(tmp_path / "report.json") == read_report(GOLDEN)


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UsageError, match="a pipe or a device, not a file; save it"):
            read_report(path)
    with pytest.raises(UsageError, match="Is a directory"):
        read_report(tmp_path)
