"""Reading a JSON report back: strictly, since it may come from anywhere."""

import codecs
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from platodef_cli.disk import check_json_size, is_special
from platodef_cli.errors import EXIT_CODES, UsageError

if TYPE_CHECKING:
    from platodef_cli.records import AuditReport

_MAX_REPORT_BYTES = 64 * 2**20
_MAX_VALUES = 2_000_000  # a report of three hundred encoders has a tenth of it
_VERSION = re.compile(r"\d{1,4}\.\d{1,4}")


def read_report(path: Path) -> "AuditReport":
    """Read a JSON report of this or an earlier version.

    Raises:
        UsageError: The file is missing, too large, no regular file, of a newer version, or is not a report.
    """
    from pydantic import ValidationError

    from platodef_cli.records import AuditReport

    try:
        content = _read_bytes(path)
        check_json_size(content, _MAX_VALUES)
        _check_numbers_and_version(path, content)
        report = AuditReport.model_validate_json(content, strict=True)  # "nan" is no number
    except OSError as error:
        raise UsageError(f"cannot read the report {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(f"{path} is not a platodef report: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a platodef report: the file: {error}") from error
    if report.exit_code != EXIT_CODES[report.verdict]:
        raise UsageError(
            f"{path} is damaged: its verdict {report.verdict!r} does not go with its exit code "
            f"{report.exit_code}"
        )
    return report


def _read_bytes(path: Path) -> bytes:
    if is_special(path) and not path.is_dir():
        # it may never end, and a pipe has no size to be checked
        raise UsageError(f"the report {path} is a pipe or a device, not a file; save it to a file first")
    if path.stat().st_size > _MAX_REPORT_BYTES:
        raise UsageError(f"{path} is larger than any report ({_MAX_REPORT_BYTES >> 20} MiB); check the path")
    return path.read_bytes().removeprefix(codecs.BOM_UTF8)


def _check_numbers_and_version(path: Path, content: bytes) -> None:
    """Refuse what the records cannot: numbers that would slip through limits, and newer versions.

    Raises:
        ValueError: It is no JSON, or holds NaN or a number beyond floating point.
        UsageError: A newer version wrote it, and fields that it added may decide.
    """
    from platodef_cli.records import SCHEMA_VERSION

    value = json.loads(content, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        return  # the records say what is wrong with it
    if tuple(map(int, version.split("."))) > tuple(map(int, SCHEMA_VERSION.split("."))):
        raise UsageError(
            f"{path} is a report of version {version}, newer than {SCHEMA_VERSION}; use the platodef that "
            "wrote it, or a newer one"
        )


def _whole(text: str) -> int:
    _finite(text)  # it would end in an overflow where it meets a measured number
    return int(text)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond floating point")
    return value
