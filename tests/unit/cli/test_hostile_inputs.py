"""Files that others wrote, or that are none, end with the right exit code and one line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.unit.cli.calls import Call
from tests.unit.encoders.folders import folder, safetensors

GOLDEN = Path(__file__).parents[2] / "golden" / "report_v2.json"


def dtype_of(kind: Any) -> bytes:
    return safetensors({"conv.weight": {"dtype": kind, "shape": [1], "data_offsets": [0, 4]}}, 4)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": {"architecture": "resnet18", "num_features": 10**400}}, "num_features = 1000"),
        ({"model.safetensors": dtype_of(["F32"])}, "unknown element type"),
        ({"model.safetensors": dtype_of({"F32": 1})}, "unknown element type"),
        (
            {
                "config.json": {"model_type": "vit", "hidden_size": 32},
                "preprocessor_config.json": {"size": {"shortest_edge": 0}},
            },
            "size.shortest_edge = 0 must lie in",
        ),
        (
            {"config.json": {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 0, 32]}}},
            "input_size = 0 must lie in",
        ),
        ({"config.json": b'{"architecture": ' + b"[" * 100_000}, "nested deeper"),
        ({"config.json": b'{"architecture": "resnet18", "a": [' + b"[]," * 4_000_000 + b"[]]}"}, "values"),
        (
            {"model.safetensors": (2**62).to_bytes(8, "little") + b"{}"},
            "its header is longer than the file",
        ),
    ],
)
def test_unsafe_models_are_refused_before_anything_is_loaded(
    platodef: Call, tmp_path: Path, files: dict[str, Any], message: str
) -> None:
    result = platodef("preflight", folder(tmp_path / "model", files))
    assert (result.code, message in result.last) == (5, True), result.last
    assert "unexpected" not in result.err


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("option", [(), ("--follow-links",)])
def test_a_file_that_links_to_itself_is_refused(
    platodef: Call, tmp_path: Path, name: str, option: tuple[str, ...]
) -> None:
    model = folder(tmp_path / "model", {name: None})
    (model / name).symlink_to(name)
    result = platodef("preflight", *option, model)
    assert (result.code, result.last) == (
        5,
        f"REFUSED (5): {model / name}: a link to nothing; do not use this model",
    )


def test_a_result_replaces_a_link_to_itself(platodef: Call, tmp_path: Path) -> None:
    (tmp_path / "out.md").symlink_to("out.md")
    assert platodef("report", GOLDEN, "-o", f"markdown={tmp_path / 'out.md'}").code == 0
    assert (tmp_path / "out.md").read_text().startswith("#")


def test_a_side_file_without_end_is_not_read_whole(platodef: Call, tmp_path: Path) -> None:
    model = folder(tmp_path / "model", {"modules.json": b""})
    with (model / "modules.json").open("r+b") as stream:
        stream.truncate(2**40)
    result = platodef("preflight", model)
    assert result.code == 0
    assert "an unreadable modules.json" in " ".join(result.out.split())
    (model / "modules.json").write_bytes(b"[" * 50_000)
    assert platodef("preflight", model).code == 0


@pytest.mark.parametrize("option", ["--policy", "--waivers", "--baseline"])
@pytest.mark.parametrize("kind", ["pipe", "device", "deep", "digits", "many digits"])
def test_judging_files_are_bounded_and_regular(
    platodef: Call, tmp_path: Path, option: str, kind: str
) -> None:
    path, policy = tmp_path / "judge", tmp_path / "policy.toml"
    policy.write_text("auroc = 0.9\n")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        path.write_text(
            "auroc = " + {"deep": "[" * 100_000, "digits": "9" * 400, "many digits": "9" * 5000}[kind]
        )
    words = (option, path) if option == "--policy" else ("--policy", policy, option, path)
    result = platodef("gate", GOLDEN, *words)
    assert (result.code, result.last.startswith("USAGE (2): ")) == (2, True), result.last


@pytest.mark.parametrize("command", ["gate", "report"])
def test_reports_are_bounded_and_regular(platodef: Call, tmp_path: Path, command: str) -> None:
    more = () if command == "report" else ("--set", "auroc=0.9")
    text = GOLDEN.read_text()
    seed = f'"seed": {json.loads(text)["seed"]}'
    assert seed in text
    contents = {
        "digits": text.replace(seed, '"seed": ' + "9" * 400),
        "deep": '{"a":' * 100_000,
        "wide": "[" + "[]," * 3_000_000 + "[]]",
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.json"
        path.write_text(content)
        result = platodef(command, path, *more)
        assert result.code == 2
        assert "is not a platodef report: the file: " in " ".join(result.err.split())
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        assert "is a pipe or a device" in " ".join(platodef(command, place, *more).err.split())
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert platodef("report", marked, "-o", "json").out == platodef("report", GOLDEN, "-o", "json").out


@pytest.mark.parametrize("constant", ["source", "reference.other"])
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_nothing_is_fitted_to_features_that_never_change(
    platodef: Call, tmp_path: Path, constant: str, value: float
) -> None:
    generator = torch.Generator().manual_seed(3)
    features = {name: torch.randn(300, 8, generator=generator) for name in ("source", "reference.other")}
    features[constant] = torch.full((300, 8), value)
    save_file(features, tmp_path / "features.safetensors")
    result = platodef("fit", tmp_path / "features.safetensors", "-o", tmp_path / "heads", "--preset", "tiny")
    assert result.code == 2
    assert "are the same for every image" in " ".join(result.err.split())
    assert not (tmp_path / "heads").exists()
