"""Folders that hold no model, or something in its place: which of it is unsafe, and what to do is said."""

import os
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.encoders.checks.configuration import check_configuration
from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.nothing import nothing
from platodef_cli.encoders.checks.preflight import preflight
from platodef_cli.errors import IncompleteError, PlatodefError, RefusedError, UnsupportedError, UsageError
from tests.unit.encoders.folders import TRANSFORMERS, WEIGHTS, folder, header, safetensors

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 346293860\n"
INDEX = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
FP8 = safetensors(header({"a.weight": ("F8_E4M3", [2])}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xef\xbb\xbf" + POINTER, "is a Git LFS pointer"),
        (POINTER.replace(b"git-lfs.github", b"hawser.github"), "is a Git LFS pointer"),
        (b"/annex/objects/SHA256E-s12--ab.safetensors\n", "is a pointer of git-annex.*git annex get"),
        (b"<!-- saved -->\n<html>", "is a web page"),
        (b"<Error><Code>AccessDenied</Code></Error>", "is a web page"),
        ("<!doctype html><html>".encode("utf-16"), "is a web page"),
        (b"502 Bad Gateway\n", "a server's error message"),
        (b"Too Many Requests", "a server's error message"),
        (b'{"detail":"Unauthorized"}', 'is a text .\'."detail":"Unauthorized".\'., not the file itself'),
        ("größer als erlaubt, bitte anmelden".encode(), "is a text .'größer als"),
        (("ä" * 400).encode()[:-1], "is a text"),
        (b"outs:\n- md5: abc\n  size: 12\n", "is a text"),
    ],
)
def test_what_lies_in_place_of_weights_is_incomplete(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match=message):
        preflight(folder(tmp_path / "model", {"model.safetensors": data}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cposix\nsystem\n(S'id'\ntR.", "is a pickle, not safetensors"),
        (b"\x80\x04K\x01.", "is a pickle, not safetensors"),
        (b"GGUF\x03\0\0\0" + bytes(90), "is a GGUF file"),
        (b"\x28\xb5\x2f\xfd" + bytes(90), "is a zstandard archive"),
        (b"\x89\x07\xff" * 90, "not a safetensors file"),
        (b"#!/bin/sh\necho this is a script", "is a script"),
    ],
)
def test_what_is_no_text_and_no_weights_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=message):
        preflight(folder(tmp_path / "model", {"model.safetensors": data}))


@pytest.mark.parametrize("end", ["t", "tru", "fals", "nul", "-", '"a', '"a\\', "[1,", "{"])
def test_a_configuration_that_ends_in_the_middle(end: str, tmp_path: Path) -> None:
    data = ('{"model_type": "vit", "x": ' + end).encode()
    with pytest.raises(IncompleteError, match=r"config\.json: ends in the middle"):
        preflight(folder(tmp_path / "model", {"config.json": data}))


@pytest.mark.parametrize("end", ["true,}", "tx", "1 2}", "{'a': 1}}"])
def test_a_configuration_that_is_wrong_in_the_middle(end: str, tmp_path: Path) -> None:
    data = ('{"model_type": "vit", "x": ' + end).encode()
    with pytest.raises(RefusedError, match="not valid JSON"):
        preflight(folder(tmp_path / "model", {"config.json": data}))


@pytest.mark.parametrize("data", [bytes(200), b'{"error":"Invalid credentials"}', POINTER, b"<head><title>"])
def test_what_lies_in_place_of_a_configuration(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match=r"config\.json: "):
        preflight(folder(tmp_path / "model", {"config.json": data}))


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (
            {"model.fp16-00001-of-00002.safetensors": WEIGHTS},
            UsageError,
            "variant='fp16', save it with save_p",
        ),
        ({"vit_base.safetensors": WEIGHTS}, UsageError, "do not look for vit_base.safetensors: if these"),
        ({"model (1).safetensors": WEIGHTS}, UsageError, "copy the folder with that file"),
        (
            {"model-00001-of-00002.safetensors": WEIGHTS},
            IncompleteError,
            "without their model.safetensors.ind",
        ),
        ({"model.safetensors.index.json": INDEX}, IncompleteError, "names the shard .* which is missing"),
        (
            {"model-q4.gguf": b"GGUF"},
            UnsupportedError,
            "only in model-q4.gguf .GGUF., which is not supported",
        ),
        ({"model.onnx": b"\x08\x07"}, UnsupportedError, "only in model.onnx .ONNX."),
        ({"pytorch_model.bin": b"PK", "x.safetensors": WEIGHTS}, RefusedError, "only in pytorch_model.bin"),
        ({"training_args.bin": b"PK", "x.safetensors": WEIGHTS}, UsageError, "do not look for x.safetensors"),
        ({"model.safetensors": FP8}, UnsupportedError, "F8_E4M3, which is not supported .*quantised from"),
    ],
)
def test_weights_under_other_names(
    files: dict[str, Any], error: type[PlatodefError], message: str, tmp_path: Path
) -> None:
    files = {"config.json": TRANSFORMERS, "model.safetensors": None, **files}
    with pytest.raises(error, match=message) as caught:
        preflight(folder(tmp_path / "model", files))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": None}, "model.safetensors are weights without a configuration .*platodef convert"),
        ({"config.json": {"architectures": ["ViTModel"]}}, "has neither model_type .* nor architecture"),
        ({"config.json": None, "model.safetensors": None, "model.zip": b"PK"}, "unpack model.zip first"),
    ],
)
def test_folders_without_a_configuration(files: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        preflight(folder(tmp_path / "model", files))


@pytest.mark.parametrize("inner", ["0_CLIPModel", "checkpoint-10", "snapshots/" + "a" * 40])
def test_a_folder_around_a_model_names_the_model(inner: str, tmp_path: Path) -> None:
    folder(tmp_path / "around" / inner)
    with pytest.raises(UsageError, match=f"holds no model itself; give the folder in it, .*around/{inner}$"):
        preflight(tmp_path / "around")


def test_a_repository_around_models_names_them_before_the_revision() -> None:
    inner = ["b/open_clip_config.json", "a/x/config.json", "a/config.json", "c/README.md"]
    error = nothing(["README.md"], "org/name@main", False, "", inner)
    assert str(error).endswith("give the folder in it, org/name/a@main (or b, a/x)")


def test_a_link_whose_target_is_gone_is_incomplete(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", {"model.safetensors": None})
    os.symlink("../../blobs/" + "a" * 64, path / "model.safetensors")
    with pytest.raises(IncompleteError, match="a link to .* which is not there"):
        preflight(path)


@pytest.mark.parametrize(
    ("config", "fine"),
    [
        ({"image_processor_type": "CLIPImageProcessor", "auto_map": {"AutoProcessor": "x.X"}}, True),
        ({"feature_extractor_type": "ViTFeatureExtractor", "auto_map": {"AutoImageProcessor": "x.X"}}, True),
        (
            {"image_processor": {"image_processor_type": "ViTImageProcessorFast"}, "auto_map": {"a": "b"}},
            True,
        ),
        ({"image_processor_type": "OwnProcessor", "auto_map": {"AutoImageProcessor": "x.X"}}, False),
        ({"auto_map": {"AutoImageProcessor": "x.X"}}, False),
        ({"image_processor_type": "CLIPImageProcessor", "x": {"auto_map": {"a": "b"}}}, False),
    ],
)
def test_code_beside_a_processor_of_the_library_is_not_run(config: dict[str, Any], fine: bool) -> None:
    if fine:
        check_configuration(config, "preprocessor_config.json", Limits())
        return
    with pytest.raises(RefusedError, match="would run Python code of the repository"):
        check_configuration(config, "preprocessor_config.json", Limits())


def test_a_quantised_model_says_what_to_give_instead() -> None:
    with pytest.raises(RefusedError, match="quantised, .*give the model they are of"):
        check_configuration(
            {"quantization_config": {"quant_method": "bitsandbytes"}}, "config.json", Limits()
        )
