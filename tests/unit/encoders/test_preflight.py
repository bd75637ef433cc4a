"""Static checks: what is accepted, and what each kind of hostile folder is refused for."""

import contextlib
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.preflight import Preflight, preflight
from platodef_cli.errors import IncompleteError, PlatodefError, RefusedError, UnsupportedError, UsageError
from tests.unit.encoders.folders import SIZES, TIMM, TRANSFORMERS, WEIGHTS, folder, header, safetensors

ZIP = b"PK\x03\x04 an archive"
PICKLE = pickle.dumps({"weights": [1, 2]}, protocol=2)


def test_a_good_folder_passes(tmp_path: Path) -> None:
    result = preflight(folder(tmp_path / "model"))
    assert (result.backend, result.architecture, result.parameters) == ("timm", "resnet18", 16)
    assert [record.path for record in result.files] == ["config.json", "model.safetensors"]
    assert result.files[1].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert result.files[1].bytes == len(WEIGHTS)
    assert result.findings == result.not_examined == ()
    pairs = json.dumps([[f.path, f.sha256] for f in result.files], separators=(",", ":"))
    assert result.digest == hashlib.sha256(pairs.encode()).hexdigest()
    assert Preflight.model_validate_json(result.model_dump_json()) == result


def test_torch_is_not_needed(tmp_path: Path) -> None:
    path = folder(tmp_path / "model")
    code = (
        "import sys; from platodef_cli.encoders.checks.preflight import preflight; "
        f"preflight({str(path)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.parametrize(
    ("files", "backend"),
    [
        ({}, "timm"),
        ({"config.json": TRANSFORMERS}, "transformers"),
        ({"config.json": {**TRANSFORMERS, "architecture": "x"}}, "transformers"),
        ({"open_clip_config.json": {"model_cfg": {}}, "config.json": None}, "open_clip"),
        ({"open_clip_config.json": {"model_cfg": {}}}, "open_clip"),
        ({"open_clip_config.json": {"model_cfg": {}}, "config.json": TRANSFORMERS}, "transformers"),
        (
            {
                "open_clip_config.json": {"model_cfg": {}},
                "config.json": TRANSFORMERS,
                "model.safetensors": None,
                "open_clip_model.safetensors": WEIGHTS,
            },
            "open_clip",
        ),
    ],
)
def test_the_library_follows_from_the_files(files: dict[str, Any], backend: str, tmp_path: Path) -> None:
    assert preflight(folder(tmp_path / "model", files)).backend == backend


def test_other_files_are_listed_but_not_read(tmp_path: Path) -> None:
    path = folder(
        tmp_path / "model",
        {
            "README.md": b"# hello",
            "pytorch_model.bin": ZIP,
            "notes.txt": PICKLE,
            "modeling_x.py": b"import os",
            "other.safetensors": b"not even safetensors",
        },
    )
    (path / "onnx").mkdir()
    result = preflight(path)
    assert [record.path for record in result.files] == ["config.json", "model.safetensors"]
    listed = {line.partition(":")[0] for line in result.not_examined}
    assert listed == {
        "README.md",
        "pytorch_model.bin",
        "notes.txt",
        "modeling_x.py",
        "other.safetensors",
        "onnx",
    }
    assert {finding.id for finding in result.findings} == {"pickle", "disguised-pickle", "repository-code"}
    disguised = next(finding for finding in result.findings if finding.id == "disguised-pickle")
    assert "notes.txt" in disguised.message
    assert "pytorch_model.bin" not in disguised.message


def test_archives_that_say_what_they_are_are_no_disguise(tmp_path: Path) -> None:
    """Office documents, packed samples and weights of other programs lie beside many models."""
    honest = ("assets.tar.gz", "paper.docx", "table.xlsx", "a.whl", "samples.zip")
    weights = ("rust_model.ot", "model.pt2", "model.torchscript")
    files = {name: b"\x1f\x8b\x08" if name.endswith("gz") else ZIP for name in (*honest, *weights)}
    (finding,) = preflight(folder(tmp_path / "model", files)).findings
    assert (finding.id, finding.severity) == ("pickle", "low")
    assert all(name in finding.message for name in weights)
    assert not any(name in finding.message for name in honest)
    hidden = {"paper.docx": PICKLE, "cover.png": ZIP, "notes": b"\x1f\x8b\x08"}
    findings = preflight(folder(tmp_path / "other", hidden)).findings
    disguised = next(finding for finding in findings if finding.id == "disguised-pickle")
    assert all(name in disguised.message for name in hidden)


@pytest.mark.parametrize("code", [None, {}])
def test_an_empty_list_of_code_is_no_finding(code: Any, tmp_path: Path) -> None:
    config = {**TRANSFORMERS, "auto_map": code}
    assert preflight(folder(tmp_path / "model", {"config.json": config})).findings == ()


def test_a_configuration_in_utf_16_says_so(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", {"config.json": json.dumps(TRANSFORMERS).encode("utf-16")})
    with pytest.raises(UsageError, match="saved as UTF-16.*save it as UTF-8"):
        preflight(path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 346293860\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"config.json": None}, UsageError, "holds no model"),
        ({"config.json": {"hello": 1}}, UsageError, "holds no model"),
        ({"model.safetensors": None}, UsageError, "no model.safetensors; get the weights"),
        (
            {"model.safetensors": None, "model.fp16.safetensors": WEIGHTS},
            UsageError,
            r"take model\.fp16\.safetensors only where they are told so .* as model\.safetensors, and give",
        ),
        ({"model.safetensors": None, "pytorch_model.bin": ZIP}, RefusedError, "only in pytorch_model.bin"),
        ({"config.json": None, "model.safetensors": None, "x.pt": ZIP}, RefusedError, "only in x.pt"),
        ({"model.safetensors": PICKLE}, RefusedError, "is a pickle, not safetensors"),
        ({"model.safetensors": ZIP}, RefusedError, "zip archive.*not safetensors"),
        ({"model.safetensors": b""}, IncompleteError, "is empty; download it again"),
        ({"model.safetensors": WEIGHTS[:-1]}, IncompleteError, "only .* bytes are there"),
        ({"model.safetensors": WEIGHTS[:20]}, IncompleteError, "fewer than its header"),
        ({"model.safetensors": WEIGHTS[:5]}, IncompleteError, "has only 5 bytes.*download it again"),
        ({"model.safetensors": bytes(len(WEIGHTS))}, IncompleteError, "begins with zeros.*download it again"),
        ({"model.safetensors": b"Entry not found"}, IncompleteError, "a server's error message .'Entry not"),
        ({"model.safetensors": b'{"error":"Invalid token."}'}, IncompleteError, "a server's error message"),
        ({"config.json": b'{"model_type": "vi'}, IncompleteError, "ends in the middle.*download it again"),
        ({"config.json": b'{"a": [1, 2,\n'}, IncompleteError, "ends in the middle.*download it again"),
        (
            {"model.safetensors": None, "model.safetensors.incomplete": WEIGHTS[:50]},
            IncompleteError,
            "safetensors.incomplete is an unfinished download",
        ),
        ({"model.safetensors": POINTER}, IncompleteError, "is a Git LFS pointer.*git lfs pull"),
        ({"config.json": POINTER}, IncompleteError, r"config\.json: is a Git LFS pointer"),
        ({"model.safetensors": PAGE}, IncompleteError, "is a web page"),
        ({"config.json": b"\n" + PAGE.lower()}, IncompleteError, r"config\.json: is a web page"),
        ({"config.json": b"   "}, IncompleteError, r"config\.json: is empty"),
        ({"adapter_config.json": {"peft_type": "LORA"}}, RefusedError, "holds an adapter.*merge_and_unload"),
        ({"adapter_model.safetensors": WEIGHTS}, RefusedError, "weights of an adapter"),
        ({"config.json": None, "adapter_config.json": {"r": 8}}, UnsupportedError, "without the model"),
        ({"model.safetensors": WEIGHTS + b"\0"}, RefusedError, "bytes but the file has"),
        ({"config.json": PICKLE}, RefusedError, "not valid JSON"),
        ({"config.json": b"[1, 2]"}, RefusedError, "not a JSON object"),
        ({"config.json": b"{" * 50}, RefusedError, "not valid JSON"),
        ({"config.json": b'{"a": NaN}'}, RefusedError, "constant NaN"),
        ({"config.json": b"[" * 100_000}, RefusedError, "nested|JSON"),
        ({"config.json": b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}"}, RefusedError, "nested"),
    ],
)  # fmt: skip
def test_unusable_folders(
    files: dict[str, Any], error: type[PlatodefError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        preflight(folder(tmp_path / "model", files))
    assert "\n" not in str(caught.value)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such model folder"):
        preflight(tmp_path / "nothing")


def _timm(**settings: Any) -> dict[str, Any]:
    return {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], **settings}}


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({**TRANSFORMERS, "model_type": "own", "auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ({**TRANSFORMERS, "quantization_config": {"bits": 4}}, "quantization_config"),
        ({**TRANSFORMERS, "vision_config": {"auto_map": {"a": "b"}}}, r"vision_config\.auto_map"),
        ({**TRANSFORMERS, "_attn_implementation": "evil/kernel"}, "_attn_implementation"),
        ({**TRANSFORMERS, "attn_implementation": {"": "evil/kernel"}}, "attn_implementation"),
        ({**TRANSFORMERS, "attn_implementation": {"": {"": "evil/kernel"}}}, "attn_implementation"),
        ({**TRANSFORMERS, "_attn_implementation_internal": "evil/kernel"}, "_attn_implementation_internal"),
        ({**TRANSFORMERS, "experts_implementation": "evil/kernel"}, "experts_implementation"),
        ({**TRANSFORMERS, "use_kernels": True}, "use_kernels"),
        ({**TRANSFORMERS, "kernel_config": {"a": "b/c"}}, "kernel_config"),
        ({**TRANSFORMERS, "fusion_config": {"a": True}}, "fusion_config"),
        ({**TRANSFORMERS, "transformers_weights": "../x.safetensors"}, "transformers_weights"),
        ({**TRANSFORMERS, "use_timm_backbone": True}, "use_timm_backbone"),
        (_timm(hf_hub_filename="other.bin"), "hf_hub_filename"),
        ({**TIMM, "model_args": {"pretrained_strict": False}}, "pretrained_strict"),
        ({**TIMM, "model_args": {"checkpoint_path": "/x"}}, "checkpoint_path"),
    ],
)
def test_keys_that_choose_code_or_repositories(config: dict[str, Any], key: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=key):
        preflight(folder(tmp_path / "model", {"config.json": config}))


@pytest.mark.parametrize(
    "vision",
    [
        {"timm_model_name": "hf-hub:evil/model"},
        {"timm_model_name": "local-dir:/x"},
        {"timm_model_name": "a/b"},
        {"timm_model_name": "resnet18", "timm_model_pretrained": True},
        {"hf_model_name": "evil/model"},
    ],
)
def test_open_clip_keys_that_choose_repositories(vision: dict[str, Any], tmp_path: Path) -> None:
    files = {"config.json": None, "open_clip_config.json": {"model_cfg": {"vision_cfg": vision}}}
    with pytest.raises(RefusedError, match="_name|pretrained"):
        preflight(folder(tmp_path / "model", files))


@pytest.mark.parametrize(
    "config",
    [
        {**TIMM, "model_args": {"depths": [2, 2], "img_size": 224}},
        _timm(custom_load=False, hf_hub_filename=None, hf_hub_id="timm/resnet18", std=[0.2, 0.2, 0.2]),
        _timm(label_names=["cat"] * 2000),
        {
            **TRANSFORMERS,
            "_attn_implementation": "sdpa",
            "id2label": {str(i): "x" * 30 for i in range(21_000)},
        },
        {**TRANSFORMERS, "auto_map": None, "vocab_size": 256_000, "max_position_embeddings": 32_768},
        {**TRANSFORMERS, "rope_theta": 1_000_000.0, "image_token_id": 151_655, "quantization_config": {}},
    ],
)
def test_what_published_configurations_hold_is_accepted(config: dict[str, Any], tmp_path: Path) -> None:
    preflight(folder(tmp_path / "model", {"config.json": config}))


def test_pixel_budgets_of_qwen2_vl_are_accepted(tmp_path: Path) -> None:
    inner = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"shortest_edge": 3136, "longest_edge": 10**7},
    }
    video = {"video_processor_type": "Qwen2VLVideoProcessor", "size": {"longest_edge": 602_112}}
    files = {
        "config.json": {"model_type": "qwen2_vl"},
        "processor_config.json": {"image_processor": inner, "video_processor": video},
    }
    assert "processor_config.json" in [f.path for f in preflight(folder(tmp_path / "model", files)).files]


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (_timm(input_size=[3, 200_000, 200_000]), "input_size"),
        (_timm(std=[0.0, 0.2, 0.2]), "std"),
        (_timm(std=[-1, 0.2, 0.2]), "std"),
        ({**TIMM, "model_args": {"depth": 100_000}}, "depth"),
        ({**TIMM, "model_args": {"depths": [100, 100, 100]}}, "depths"),
        ({**TIMM, "model_args": {"embed_dim": 10**6}}, "embed_dim"),
        ({**TIMM, "model_args": {"anything": 10**15}}, "anything"),
        ({**TIMM, "model_args": {"anything": 1e300}}, "anything"),
        ({**TIMM, "model_args": {"anything": 10**400}}, "anything"),
        ({**TRANSFORMERS, "image_size": -(10**400)}, "image_size"),
        ({**TRANSFORMERS, "num_hidden_layers": 201}, "num_hidden_layers"),
        ({**TRANSFORMERS, "hidden_size": 10**6}, "hidden_size"),
        ({**TRANSFORMERS, "image_size": 10**5}, "image_size"),
        (
            {**TRANSFORMERS, "vision_config": {"intermediate_size": 10**9}},
            r"vision_config\.intermediate_size",
        ),
        ({**TRANSFORMERS, "vocab_size": 2**33}, "vocab_size"),
        ({**TRANSFORMERS, "num_labels": 2 * 10**9}, "num_labels"),
    ],
)
def test_numbers_out_of_bounds(config: dict[str, Any], key: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=key):
        preflight(folder(tmp_path / "model", {"config.json": config}))


@pytest.mark.parametrize(
    "processor",
    [{"size": 200_000}, {"size": {"height": 200_000, "width": 3}}, {"crop_size": {"height": 10**6}},
     {"image_std": [0, 0, 0]}, {"image_std": [0.2, 0.2, 1e-9]}, {"size": -5}],
)  # fmt: skip
def test_preprocessing_out_of_bounds(processor: dict[str, Any], tmp_path: Path) -> None:
    files = {"config.json": TRANSFORMERS, "preprocessor_config.json": processor}
    with pytest.raises(RefusedError, match=next(iter(processor))):
        preflight(folder(tmp_path / "model", files))


GOOD = header({"a.weight": ("F32", [2, 3]), "b.weight": ("F16", [4])})


def _changed(name: str, **entry: Any) -> dict[str, Any]:
    return {**GOOD, name: {**GOOD[name], **entry}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (safetensors(_changed("b.weight", data_offsets=[20, 28]), 32), "overlaps"),
        (safetensors(_changed("b.weight", data_offsets=[30, 38]), 38), "gap"),
        (safetensors(_changed("b.weight", data_offsets=[24, 30]), 32), "its shape denies"),
        (safetensors(_changed("b.weight", shape=[5]), 32), "its shape denies"),
        (safetensors(_changed("b.weight", shape=[-4]), 32), "malformed shape"),
        (safetensors(_changed("b.weight", shape=[True, 4]), 32), "malformed shape"),
        (safetensors(_changed("b.weight", shape=[2**60, 2**60]), 32), "malformed shape"),
        (safetensors(_changed("b.weight", shape=[2**40, 2**40]), 32), "its shape denies"),
        (safetensors(_changed("b.weight", dtype="X9"), 32), "unknown element type"),
        (safetensors(_changed("b.weight", dtype=["F16"]), 32), "unknown element type"),
        (safetensors(_changed("b.weight", dtype={"F16": 1}), 32), "unknown element type"),
        (safetensors(b'{"__metadata__": [' + b"[]," * 700_000 + b"0]}", 0), "values, more than 640000"),
        (safetensors(_changed("b.weight", extra=1), 32), "malformed header entry"),
        (safetensors({**GOOD, "c": 3}, 32), "malformed header entry"),
        (safetensors(b'{"a": 1, "a": 2}', 0), "a name occurs twice"),
        (safetensors(b"[]", 0), "not a JSON object"),
        (safetensors(b"{}", 0), "hold no tensors"),
        (safetensors(b"\xff\xfe", 0), "not valid JSON"),
        (safetensors(b"[" * 90_000, 0), "nested|JSON"),
        ((2**60).to_bytes(8, "little") + b"{}", "longer than the file"),
        (safetensors(b"{" + b" " * 2**24 + b"}", 0), "more than 16777216"),
        (safetensors(header({"a.weight": ("I32", [2])})), "must be floating point"),
    ],
)  # fmt: skip
def test_hostile_weight_files(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=message):
        preflight(folder(tmp_path / "model", {"model.safetensors": data}))


def test_integer_counters_are_accepted_but_not_counted(tmp_path: Path) -> None:
    data = safetensors(header({"bn.num_batches_tracked": ("I64", []), "w.weight": ("BF16", [3])}))
    assert preflight(folder(tmp_path / "model", {"model.safetensors": data})).parameters == 3


def test_a_header_length_that_looks_like_a_pickle(tmp_path: Path) -> None:
    raw = json.dumps(GOOD).encode().ljust(0x280)
    data = safetensors(raw, 32)
    assert data.startswith(b"\x80\x02")
    assert preflight(folder(tmp_path / "model", {"model.safetensors": data})).parameters == 10


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(parameters=15), "16 parameters"),
        (Limits(total_bytes=100), "bytes"),
        (Limits(tensors=1), "declares 2 tensors"),
        (Limits(json_bytes=10), "more than 10"),
        (Limits(json_values=1), "values, more than 1"),
        (Limits(files=1), "holds 2 files"),
        (Limits(header_bytes=20), "more than 20"),
    ],
)
def test_bounds(limits: Limits, message: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=message):
        preflight(folder(tmp_path / "model"), limits=limits)


def _sharded(weight_map: Any, **shards: bytes | None) -> dict[str, Any]:
    files = {f"{name}.safetensors": data for name, data in shards.items()}
    return {
        "config.json": TRANSFORMERS,
        "model.safetensors": None,
        "model.safetensors.index.json": {"weight_map": weight_map},
        **files,
    }


ONE = safetensors(header({"a": ("F32", [2])}))
TWO = safetensors(header({"b": ("F32", [3])}))
SHARDS = {"a": "one.safetensors", "b": "two.safetensors"}


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    result = preflight(folder(tmp_path / "model", _sharded(SHARDS, one=ONE, two=TWO)))
    assert result.parameters == 5
    names = ["config.json", "model.safetensors.index.json", "one.safetensors", "two.safetensors"]
    assert [record.path for record in result.files] == names


@pytest.mark.parametrize(
    ("weight_map", "shards", "message"),
    [
        ({"a": "../../x.safetensors"}, {"one": ONE}, "names the shard"),
        ({"a": "/etc/passwd"}, {"one": ONE}, "names the shard"),
        ({"a": "one.bin"}, {"one": ONE}, "names the shard"),
        ({"a": "one.safetensors\n"}, {"one": ONE}, "names the shard"),
        ({"a": "..safetensors/../x.safetensors"}, {"one": ONE}, "names the shard"),
        ({"a": 3}, {"one": ONE}, "no weight_map"),
        ([], {"one": ONE}, "no weight_map"),
        ({"a": "one.safetensors"}, {"one": safetensors(header({"z": ("F32", [1])}))}, "disagree"),
        ({**SHARDS, "c": "one.safetensors"}, {"one": ONE, "two": TWO}, "disagree about tensor 'c'"),
        ({**SHARDS}, {"one": ONE, "two": ONE}, "also in one.safetensors"),
    ],
)
def test_hostile_indexes(weight_map: Any, shards: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=message):
        preflight(folder(tmp_path / "model", _sharded(weight_map, **shards)))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md"])
def test_links_out_of_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "model")
    (tmp_path / "outside").write_bytes(WEIGHTS)
    (path / name).unlink(missing_ok=True)
    (path / name).symlink_to(tmp_path / "outside")
    with pytest.raises(RefusedError, match="a link out of the model folder"):
        preflight(path)


def test_links_inside_the_folder_and_to_the_folder_are_fine(tmp_path: Path) -> None:
    path = folder(tmp_path / "model")
    os.rename(path / "model.safetensors", path / "weights")
    (path / "model.safetensors").symlink_to("weights")
    (tmp_path / "alias").symlink_to(path)
    assert preflight(tmp_path / "alias").parameters == 16


def test_a_snapshot_of_the_hub_cache_may_link_to_its_own_blobs_only(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = folder(repository / "snapshots" / ("a" * 40))
    (repository / "blobs").mkdir()
    os.rename(snapshot / "model.safetensors", repository / "blobs" / "b1")
    (snapshot / "model.safetensors").symlink_to("../../blobs/b1")
    assert preflight(snapshot).parameters == 16
    os.rename(repository / "blobs" / "b1", repository / "stray")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../stray")
    with pytest.raises(RefusedError, match="a link out of the model folder"):
        preflight(snapshot)


def test_dangling_links_pipes_and_folders_in_place_of_files(tmp_path: Path) -> None:
    path = folder(tmp_path / "dangling", {"README.md": None})
    (path / "README.md").symlink_to("nothing")
    with pytest.raises(RefusedError, match="a link to nothing"):
        preflight(path)
    path = folder(tmp_path / "pipe", {"model.safetensors": None})
    os.mkfifo(path / "model.safetensors")
    with pytest.raises(RefusedError, match="not a regular file"):
        preflight(path)
    path = folder(tmp_path / "directory", {"model.safetensors": None})
    (path / "model.safetensors").mkdir()
    with pytest.raises(UsageError, match="no model.safetensors"):
        preflight(path)


HOSTILE = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@HOSTILE
@given(data=st.binary(max_size=300), position=st.integers(0, 200))
def test_damaged_weight_files_never_crash(data: bytes, position: int, tmp_path: Path) -> None:
    path = folder(tmp_path / "model")
    (path / "model.safetensors").write_bytes(WEIGHTS[:position] + data + WEIGHTS[position + len(data) :])
    with contextlib.suppress(PlatodefError):
        assert preflight(path).parameters <= len(WEIGHTS)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["model_type", "architecture", "pretrained_cfg", "model_args", "size", "std", "depths", "auto_map",
     "kernel_size", "timm_model_name", "attn_implementation", "image_size", "id2label"]
)  # fmt: skip


@HOSTILE
@given(config=st.dictionaries(KEYS, VALUES, max_size=6))
def test_odd_configurations_never_crash(config: dict[str, Any], tmp_path: Path) -> None:
    path = folder(tmp_path / "model", {"config.json": config})
    with contextlib.suppress(PlatodefError):
        preflight(path)


def test_sizes_of_the_hand_made_files_agree_with_the_checked_table() -> None:
    from platodef_cli.encoders.checks.safetensors_header import ITEM_BYTES

    assert SIZES.items() <= ITEM_BYTES.items()


def _messages(tmp_path: Path, files: dict[str, Any]) -> list[str]:
    found = preflight(folder(tmp_path / "model", files)).findings
    return [finding.message for finding in found if finding.id == "other-loader"]


def test_who_would_load_other_bytes_is_said(tmp_path: Path) -> None:
    both = {"config.json": TRANSFORMERS, "open_clip_config.json": {"model_cfg": {}}}
    (message,) = _messages(tmp_path / "a", {"config.json": TRANSFORMERS, "model.fp16.safetensors": WEIGHTS})
    assert message.startswith("loaders that are told a variant would load model.fp16.safetensors")
    (message,) = _messages(tmp_path / "b", {**both, "open_clip_model.safetensors": WEIGHTS})
    assert message.startswith("open_clip would load open_clip_model.safetensors, which was not examined")
    pipeline = [{"idx": 0, "path": ""}, {"idx": 2, "path": "2_Dense"}]
    modules = {"config.json": TRANSFORMERS, "modules.json": json.dumps(pipeline).encode()}
    (message,) = _messages(tmp_path / "c", modules)
    assert message == "sentence-transformers would load and apply 2_Dense, which was not examined"
    assert _messages(tmp_path / "d", {**modules, "modules.json": b'[{"path": ""}]'}) == []


def test_code_beside_a_known_architecture_is_a_finding(tmp_path: Path) -> None:
    files = {"config.json": {**TRANSFORMERS, "auto_map": {"AutoModel": "modeling_x.X"}}}
    found = preflight(folder(tmp_path / "model", files)).findings
    assert [(entry.id, entry.severity) for entry in found] == [("repository-code", "low")]
    assert "never run here" in found[0].message


def test_what_a_repository_holds_beyond_what_was_fetched(tmp_path: Path) -> None:
    listing = {
        "config.json": 5,
        "pytorch_model.bin": 7,
        "modeling_x.py": 9,
        **{f"x/{n}": 1 for n in range(60)},
    }
    checked = preflight(folder(tmp_path / "model"), listing=listing)
    assert {finding.id for finding in checked.findings} == {"pickle", "repository-code"}
    assert "pytorch_model.bin: 7 bytes in the repository, not downloaded" in checked.not_examined
    assert "12 more files of the repository: 12 bytes, not downloaded" in checked.not_examined
    with pytest.raises(RefusedError, match="holds an adapter"):
        preflight(tmp_path / "model", listing={"adapter_config.json": 2})
