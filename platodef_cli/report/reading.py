"""``platodef report``, and the writing of reports that ``platodef audit`` shares."""

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from platodef_cli.errors import (
    EXIT_FAIL,
    EXIT_INCOMPLETE,
    EXIT_INCONCLUSIVE,
    EXIT_PASS,
    EXIT_REFUSED,
    UsageError,
)

if TYPE_CHECKING:
    from platodef_cli.records import AuditReport

_CODES = {
    "pass": EXIT_PASS,
    "fail": EXIT_FAIL,
    "inconclusive": EXIT_INCONCLUSIVE,
    "refused": EXIT_REFUSED,
    "error": EXIT_INCOMPLETE,
}

_MAX_REPORT_BYTES = 64 * 2**20


def read_report(path: Path) -> "AuditReport":
    """Read a JSON report of this or an earlier version.

    Raises:
        UsageError: The file is missing, too large, of a newer version, or is not a report.
    """
    from pydantic import ValidationError

    from platodef_cli.records import SCHEMA_VERSION, AuditReport

    try:
        if path.stat().st_size > _MAX_REPORT_BYTES:
            raise UsageError(
                f"{path} is larger than any report ({_MAX_REPORT_BYTES >> 20} MiB); check the path"
            )
        content = path.read_bytes()
        # NaN and numbers beyond floating point would slip through limits
        raw = json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)
        _refuse_newer(path, raw, SCHEMA_VERSION)
        report = AuditReport.model_validate_json(content)
    except OSError as error:
        raise UsageError(f"cannot read the report {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(f"{path} is not a platodef report of version 1: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a platodef report of version 1: the file: {error}") from error
    if report.exit_code != _CODES[report.verdict]:
        raise UsageError(
            f"{path} is damaged: its verdict {report.verdict!r} does not go with its exit code "
            f"{report.exit_code}"
        )
    return report


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond floating point")
    return value


def _refuse_newer(path: Path, raw: object, known: str) -> None:
    """Refuse what a newer version wrote: fields that it added may decide.

    Raises:
        UsageError: The version is newer than ``known``.
    """
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(found, str) or not re.fullmatch(r"\d{1,4}\.\d{1,4}", found):
        return
    if tuple(map(int, found.split("."))) > tuple(map(int, known.split("."))):
        raise UsageError(
            f"{path} is a report of version {found}, newer than {known}; use the platodef that wrote it, "
            "or a newer one"
        )
