"""Names and first bytes that trick: in headers of weights, in configurations, in a file's first letter."""

import json
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.encoders.checks.preflight import preflight
from platodef_cli.errors import RefusedError
from tests.unit.encoders.folders import TIMM, folder, safetensors

FOUR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "name", ["", "a\x00b", "a\nb", "\u202ea", "\ud800", "a" * 1025, "\x1b[31m"], ids=ascii
)
def test_a_tensor_without_a_proper_name_is_refused(name: str, tmp_path: Path) -> None:
    entries = {name: FOUR, "b" * 9: {**FOUR, "data_offsets": [4, 8]}}
    with pytest.raises(RefusedError, match="the name of a tensor") as error:
        preflight(folder(tmp_path, {"model.safetensors": safetensors(entries, 8)}))
    assert len(str(error.value)) < 400
    assert str(error.value).isascii()


def test_names_in_other_scripts_and_long_ones_are_names(tmp_path: Path) -> None:
    entries = {"b\u00fcro.\u5c42": FOUR, "a" * 1024: {**FOUR, "data_offsets": [4, 8]}}
    assert preflight(folder(tmp_path, {"model.safetensors": safetensors(entries, 8)})).parameters == 2


@pytest.mark.parametrize("metadata", [{"a": 1}, {"a": None}, {"a": {}}, [], "pt", 7, {"format": ["pt"]}])
def test_metadata_are_texts(metadata: Any, tmp_path: Path) -> None:
    weights = safetensors({"__metadata__": metadata, "a": FOUR}, 4)
    with pytest.raises(RefusedError, match="metadata are no texts"):
        preflight(folder(tmp_path, {"model.safetensors": weights}))


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, None])
def test_metadata_may_lack(metadata: Any, tmp_path: Path) -> None:
    weights = safetensors({"__metadata__": metadata, "a": FOUR}, 4)
    assert preflight(folder(tmp_path, {"model.safetensors": weights})).parameters == 1


@pytest.mark.parametrize("length", [ord("<"), ord("v"), ord("\x80"), ord("P")])
def test_the_length_of_a_header_may_look_like_a_letter(length: int, tmp_path: Path) -> None:
    """``<`` begins web pages, ``v`` pointers, ``P`` archives, and 128 pickles."""
    raw = json.dumps({"a": FOUR}, separators=(",", ":")).encode().ljust(length)
    weights = safetensors(raw if len(raw) == length else b"{}".ljust(length), 4)
    assert weights[0] == length
    assert preflight(folder(tmp_path, {"model.safetensors": weights})).digest


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:org/evil", "hf_hub:org/evil", "local-dir:/home", "https://evil.example/x", "../../etc/passwd",
        "/etc/passwd", "~/x", "resnet18\x00", "\ud800", "resnet18\n", "a" * 201, "..\\x",
    ],
    ids=ascii,
)  # fmt: skip
def test_an_architecture_that_is_an_address_or_no_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no name or leads elsewhere") as error:
        preflight(folder(tmp_path, {"config.json": {**TIMM, "architecture": name}}))
    assert len(str(error.value)) < 300
