"""LoRA adapters merged by platodef against peft itself, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from platodef_cli.encoders.adapters import CONFIG, WEIGHTS, merge
from platodef_cli.encoders.checks.preflight import Preflight, preflight
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import EXIT_PASS, EXIT_USAGE, RefusedError, UnsupportedError, UsageError
from tests.contract.encoder_models import randomise
from tests.contract.text_models import made, qwen2_5_vl, qwen3_vl
from tests.unit.cli.calls import command

pytestmark = pytest.mark.filterwarnings("ignore")
MAKERS: dict[str, Callable[..., Path]] = {"qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}
TARGETS = {
    "qwen2_5_vl": ["q_proj", "v_proj", "gate_proj", "down_proj", "qkv"],
    "qwen3_vl": ["q_proj", "o_proj", "up_proj", "qkv", "linear_fc1"],
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    "settings", [{"r": 4, "lora_alpha": 8}, {"r": 3, "lora_alpha": 1, "lora_dropout": 0.1}]
)
def test_the_merged_model_is_that_of_peft(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    import transformers

    base = made(MAKERS[kind], tmp_path / "base")
    network = transformers.AutoModelForImageTextToText.from_pretrained(base).eval()
    randomise(network)
    network.save_pretrained(base)
    torch.manual_seed(3)
    adapted = peft.get_peft_model(network, peft.LoraConfig(target_modules=TARGETS[kind], **settings)).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    done = merge(tmp_path / "adapter", preflight(base), tmp_path / "ours", base_uri="base")
    assert (done.rank, done.scale) == (settings["r"], settings["lora_alpha"] / settings["r"])
    assert done.layers == sum("lora_A" in name for name in load_file(tmp_path / "adapter" / WEIGHTS))
    theirs = adapted.merge_and_unload()
    theirs.save_pretrained(tmp_path / "theirs")
    expected = load_file(tmp_path / "theirs" / "model.safetensors")
    own = load_file(tmp_path / "ours" / "model.safetensors")
    before = load_file(base / "model.safetensors")
    assert set(own) == set(before)
    changed = 0
    for name, value in own.items():
        assert torch.allclose(value, expected[name], atol=1e-4), name
        changed += not torch.equal(value, before[name])
    assert changed == done.layers
    # features: what is audited is what peft would run
    for name in base.iterdir():
        if not (tmp_path / "theirs" / name.name).exists():
            (tmp_path / "theirs" / name.name).write_bytes(name.read_bytes())
    pixels = torch.randint(0, 255, (2, 3, *open_encoder(str(base)).geometry.size), dtype=torch.uint8)
    ours, reference, plain = (
        open_encoder(str(tmp_path / name), pooling="last").embed(pixels)
        for name in ("ours", "theirs", "base")
    )
    assert torch.allclose(ours, reference, atol=1e-4)
    assert not torch.allclose(ours, plain, atol=1e-2)


@pytest.fixture
def base(tmp_path: Path) -> Preflight:
    return preflight(made(qwen3_vl, tmp_path / "base"))


def module_of(base: Preflight) -> tuple[str, list[int]]:
    weights = load_file(Path(base.directory) / "model.safetensors")
    name = next(name for name in sorted(weights) if name.endswith("q_proj.weight"))
    return name.removesuffix(".weight"), list(weights[name].shape)


def adapter(
    base: Preflight,
    place: Path,
    config: dict[str, Any] | None = None,
    change: Callable[[dict[str, torch.Tensor], str], object] = lambda tensors, module: None,
) -> Path:
    module, (rows, columns) = module_of(base)
    place.mkdir(parents=True)
    prefix = f"base_model.model.{module}"
    tensors = {
        f"{prefix}.lora_A.weight": torch.ones(2, columns),
        f"{prefix}.lora_B.weight": torch.ones(rows, 2),
    }
    change(tensors, prefix)
    save_file(tensors, place / WEIGHTS)
    (place / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4} | (config or {})))
    return place


def test_by_hand(base: Preflight, tmp_path: Path) -> None:
    module, _ = module_of(base)
    place = adapter(base, tmp_path / "adapter")
    merge(place, base, tmp_path / "one", base_uri="org/base@" + "a" * 40)
    merge(place, base, tmp_path / "two", base_uri="org/base@" + "a" * 40)
    before = load_file(Path(base.directory) / "model.safetensors")
    after = load_file(tmp_path / "one" / "model.safetensors")
    # alpha / r = 2, and every entry of B @ A is 2
    assert torch.allclose(after[f"{module}.weight"], before[f"{module}.weight"] + 4)
    assert all(torch.equal(after[n], before[n]) for n in before if n != f"{module}.weight")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert preflight(tmp_path / "one").architecture == base.architecture
    with pytest.raises(UsageError, match="exists"):
        merge(place, base, tmp_path / "one", base_uri="base")
    merge(place, base, tmp_path / "one", base_uri="base", force=True)


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        ({"peft_type": "IA3"}, UnsupportedError, "peft_type is 'IA3'"),
        ({"use_dora": True}, UnsupportedError, "use_dora"),
        ({"use_rslora": True}, UnsupportedError, "use_rslora"),
        ({"fan_in_fan_out": True}, UnsupportedError, "fan_in_fan_out"),
        ({"bias": "all"}, UnsupportedError, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, UnsupportedError, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, UnsupportedError, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, UnsupportedError, "alpha_pattern"),
        ({"init_lora_weights": "pissa"}, UnsupportedError, "init_lora_weights 'pissa'"),
        ({"lora_bias": True}, UnsupportedError, "'lora_bias' is not known"),
        ({"use_something_new": True}, UnsupportedError, "'use_something_new' is not known"),
        ({"r": 0}, RefusedError, "r is 0"),
        ({"r": 2.0}, RefusedError, r"r is 2\.0"),
        ({"r": True}, RefusedError, "r is True"),
        ({"r": 10**9}, RefusedError, "r is 1000000000"),
        ({"r": 3}, RefusedError, "rank 3"),
        ({"lora_alpha": -1}, RefusedError, "lora_alpha is -1"),
        ({"lora_alpha": 1e30}, RefusedError, "lora_alpha"),
        ({"lora_alpha": None}, RefusedError, "lora_alpha is None"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(
    config: dict[str, Any], kind: type[Exception], words: str, base: Preflight, tmp_path: Path
) -> None:
    place = adapter(base, tmp_path / "adapter", config)
    with pytest.raises(kind, match=words):
        merge(place, base, tmp_path / "out", base_uri="base")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".tmp-*"))


def drop(side: str) -> Callable[[dict[str, torch.Tensor], str], object]:
    return lambda tensors, prefix: tensors.pop(f"{prefix}.lora_{side}.weight")


def put(name: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor], str], object]:
    return lambda tensors, prefix: tensors.__setitem__(name.replace("PREFIX", prefix), value)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (drop("A"), RefusedError, "only one of lora_A and lora_B"),
        (drop("B"), RefusedError, "only one of lora_A and lora_B"),
        (lambda tensors, prefix: tensors.clear(), UsageError, "holds no LoRA"),
        (put("PREFIX.lora_A.weight", torch.full((2, 32), float("nan"))), RefusedError, "not finite"),
        (put("PREFIX.lora_A.weight", torch.ones(3, 32)), RefusedError, "rank 2"),
        (put("PREFIX.lora_A.weight", torch.ones(2, 31)), UsageError, "another model"),
        (put("PREFIX.lora_A.weight", torch.ones(2, 32, dtype=torch.int64)), RefusedError, "shape"),
        (put("PREFIX.lora_embedding_A", torch.ones(2, 32)), UnsupportedError, "no LoRA matrix"),
        (put("PREFIX.lora_magnitude_vector", torch.ones(32)), UnsupportedError, "no LoRA matrix"),
        (put("base_model.model.lm_head.weight", torch.ones(2, 2)), UnsupportedError, "no LoRA matrix"),
        (put("PREFIX.lora_A.default.weight", torch.ones(2, 32)), RefusedError, "twice"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    change: Callable[..., object], kind: type[Exception], words: str, base: Preflight, tmp_path: Path
) -> None:
    place = adapter(base, tmp_path / "adapter", change=change)
    with pytest.raises(kind, match=words):
        merge(place, base, tmp_path / "out", base_uri="base")
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_model_names_its_own(base: Preflight, tmp_path: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor], prefix: str) -> None:
        for name in list(tensors):
            tensors[name.replace("q_proj", "other_proj")] = tensors.pop(name)

    place = adapter(base, tmp_path / "adapter", {"base_model_name_or_path": "org/elsewhere"}, rename)
    with pytest.raises(UsageError, match="org/elsewhere"):
        merge(place, base, tmp_path / "out", base_uri="base")


def test_the_command(base: Preflight, tmp_path: Path) -> None:
    place = adapter(base, tmp_path / "adapter")
    out = tmp_path / "merged"
    done = command("convert", str(place), "--base", base.directory, "-o", str(out))
    assert done.code == EXIT_PASS, done.err
    assert "LoRA of rank 2 (scale 2) merged into 1 weights of base" in done.last
    assert command("preflight", str(out)).code == EXIT_PASS
    for words in (
        ("--base", "org/base@main"),
        ("--base", base.directory, "--architecture", "timm/resnet18"),
        (),
        ("--base", base.directory, "--prefix", "x"),
    ):
        failed = command("convert", str(place), *words, "-o", str(tmp_path / "no"))
        assert failed.code == EXIT_USAGE, failed.err
    assert not (tmp_path / "no").exists()
    (place / WEIGHTS).rename(place / "adapter_model.bin")
    pickled = command("convert", str(place), "--base", base.directory, "-o", str(tmp_path / "no"))
    assert pickled.code == EXIT_USAGE
    assert "has no adapter_model.safetensors" in pickled.last
