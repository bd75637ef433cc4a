"""The table of many reports as SARIF 2.1.0: one result per suspect that did not pass."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from platodef_cli.report.escaping import plain
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.json import dumps
from platodef_cli.report.sarif import SCHEMA
from platodef_cli.report.summary.rows import Row, worst_code
from platodef_cli.version import __version__

_RULES: Mapping[str, tuple[str, str, str]] = {
    "fail": ("suspicious-encoder", "An encoder is suspicious", "error"),
    "refused": ("refused-encoder", "An encoder's files are unsafe; nothing of it was loaded", "error"),
    "inconclusive": ("no-answer", "The evidence on an encoder is too small or contradicts itself", "warning"),
    "": ("not-audited", "An encoder was not audited to the end; it may be anything", "warning"),
}
"""Verdict -> id, title and level of its rule; the last one is for all others."""
_IDS = list(_RULES)


def _rule(row: Row) -> str:
    return row.verdict if row.verdict in _RULES else ""


def _text(text: str) -> dict[str, str]:
    return {"text": plain(text.strip(), 1000).replace("](", "] (") or "no message"}


def _result(row: Row, anchor: str) -> dict[str, Any]:
    verdict = _rule(row)
    identity, _, level = _RULES[verdict]
    # names of files that are no UTF-8 hold surrogates
    mark = sha256(f"{row.model}\0{identity}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return {
        "ruleId": identity,
        "ruleIndex": _IDS.index(verdict),
        "level": level,
        "message": _text(f"{row.model}: {row.summary}"),
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(anchor), "uriBaseId": "%SRCROOT%"},
                    "region": {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 2},
                },
                "logicalLocations": [{"name": plain(row.model, 200), "kind": "resource"}],
            }
        ],
        "partialFingerprints": {"primaryLocationLineHash": f"{mark}:1"},
        "properties": {
            name: plain(value, 500) if isinstance(value, str) else value
            for name, value in asdict(row).items()
            if name in ("verdict", "exit_code", "margin", "check", "digest", "commit", "file")
        },
    }


def render(rows: Sequence[Row], options: RenderOptions) -> str:
    """Return a log with one run; results are in the order of the rows."""
    rules = [
        {
            "id": identity,
            "shortDescription": {"text": title},
            "fullDescription": {"text": title},
            "help": {"text": f"{title}. Look at its report before you conclude anything."},
            "defaultConfiguration": {"level": level},
            "properties": {"tags": ["security", "machine-learning"], "precision": "medium"},
        }
        for identity, title, level in _RULES.values()
    ]
    code = worst_code([row.exit_code for row in rows])
    run = {
        "tool": {"driver": {"name": "platodef", "version": __version__, "rules": rules}},
        "automationDetails": {"id": "platodef-summary/"},
        "originalUriBaseIds": {"%SRCROOT%": {"description": {"text": "root of the repository"}}},
        "invocations": [{"executionSuccessful": True, "exitCode": code}],
        "results": [_result(row, options.anchor) for row in rows if row.verdict != "pass"],
        "columnKind": "unicodeCodePoints",
        "properties": {"suspects": len(rows)},
    }
    return dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})
