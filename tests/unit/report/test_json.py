"""The JSON report: schema, byte stability, nothing that a terminal could interpret."""

import json
import math

import pytest
from pydantic import ValidationError

from platodef_cli.records import AuditReport
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.json import dumps, render

_OPTIONS = RenderOptions()


def test_golden_report_round_trips_byte_identically(golden_json: str) -> None:
    report = AuditReport.model_validate_json(golden_json)
    assert render(report, _OPTIONS) == golden_json


def test_output_is_ascii_and_ends_in_one_newline(golden_report: AuditReport) -> None:
    hostile = golden_report.model_copy(update={"warnings": ("\x1b[31m \u009b31m \u202e reversed ä",)})
    text = render(hostile, _OPTIONS)
    assert text.isascii()
    assert "\x1b" not in text
    assert text.endswith("}\n")
    assert not text.endswith("\n\n")
    assert AuditReport.model_validate_json(text) == hostile


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_say_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        dumps({"value": bad})


def test_options_do_not_change_it(golden_report: AuditReport, golden_json: str) -> None:
    assert (
        render(golden_report, RenderOptions(width=40, color=True, unicode=False, details=True)) == golden_json
    )


def _validate(value: object, schema: dict[str, object], root: dict[str, object], path: str = "") -> None:
    """Check a value against the part of JSON Schema that pydantic writes: an oracle apart from pydantic."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        _validate(value, root["$defs"][name], root, path)  # type: ignore[index]
        return
    if "anyOf" in schema:
        failures = []
        for choice in schema["anyOf"]:  # type: ignore[attr-defined]
            try:
                _validate(value, choice, root, path)
                return
            except AssertionError as error:
                failures.append(str(error))
        raise AssertionError(f"{path}: no alternative fits: {failures}")
    if "enum" in schema:
        assert value in schema["enum"], path  # type: ignore[operator]
    if "const" in schema:
        assert value == schema["const"], path
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    kind = schema.get("type")
    if kind:
        assert isinstance(value, kinds[str(kind)]), f"{path}: {value!r} is no {kind}"  # type: ignore[arg-type]
        assert kind == "boolean" or not isinstance(value, bool), path
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        assert set(schema.get("required", ())) <= set(value), path  # type: ignore[call-overload]
        for key, item in value.items():
            rule = properties.get(key, schema.get("additionalProperties"))  # type: ignore[attr-defined]
            assert rule is not False, f"{path}.{key}: not in the schema"
            if isinstance(rule, dict):
                _validate(item, rule, root, f"{path}.{key}")
    if isinstance(value, list):
        prefix = schema.get("prefixItems", ())
        for index, item in enumerate(value):
            rule = prefix[index] if index < len(prefix) else schema.get("items", {})  # type: ignore[arg-type,index]
            _validate(item, rule, root, f"{path}[{index}]")


def test_golden_report_validates_against_the_published_schema(golden_json: str) -> None:
    schema = AuditReport.model_json_schema()
    _validate(json.loads(golden_json), schema, schema)
    broken = json.loads(golden_json)
    broken["searches"][0]["role"] = "bystander"
    with pytest.raises(AssertionError, match="role"):
        _validate(broken, schema, schema)
    with pytest.raises(ValidationError):
        AuditReport.model_validate(broken)


def test_schema_describes_every_leaf_of_the_report(golden_json: str) -> None:
    """Parts that people script against must not be free-form objects."""
    schema = AuditReport.model_json_schema()
    for name in ("reasons", "probes", "searches", "metrics", "thresholds", "alignment", "accuracy"):
        assert "$ref" in schema["properties"][name]["items"]
