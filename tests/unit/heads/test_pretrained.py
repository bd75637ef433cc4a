import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from platodef_cli.errors import IncompleteError, RefusedError, UsageError
from platodef_cli.heads.card import HeadCard
from platodef_cli.heads.evaluate import component_scores
from platodef_cli.heads.fit import fit_heads
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.pretrained import check_match, load_heads, read_description, save_heads, verify_heads
from platodef_cli.records import EncoderRecord, TransformRecord
from tests.gaussian_tuples import GaussianTuples


def encoder(name: str, dim: int, **changes: object) -> EncoderRecord:
    transform = TransformRecord(
        size=(8, 8), resize=8, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    record = EncoderRecord(
        name=name,
        uri=f"org/{name}",
        backend="timm",
        architecture="vit",
        commit="a" * 40,
        dim=dim,
        parameters=1,
        pooling="token",
        dtype="float32",
        transform=transform,
        files=(),
        digest=name.encode().hex().ljust(64, "0"),
        isolated=False,
    )
    return record.model_copy(update=changes)


CARD = HeadCard(
    name="gaussian",
    source=encoder("suspect", 8),
    references=(encoder("left", 4), encoder("right", 4)),
    trained_on="Gaussian tuples",
)


@pytest.fixture
def folder(tmp_path: Path, small_heads: Heads) -> Path:
    save_heads(tmp_path / "head", small_heads, card=CARD)
    return tmp_path / "head"


def test_round_trip_gives_the_same_scores_and_bytes(
    folder: Path, tmp_path: Path, small_heads: Heads, gaussian: GaussianTuples
) -> None:
    loaded = load_heads(folder)
    test = gaussian.sample(64, seed=11)
    for name, values in component_scores(small_heads, test).items():
        assert torch.equal(component_scores(loaded, test)[name], values)
    assert loaded.config == small_heads.config
    assert dict(loaded.metrics) == dict(small_heads.metrics)
    save_heads(tmp_path / "again", loaded, card=CARD)
    for name in ("head.safetensors", "head.json", "CARD.md"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert sorted(entry.name for entry in folder.iterdir()) == ["CARD.md", "head.json", "head.safetensors"]


def test_joint_heads_survive_storage(tmp_path: Path, small_heads: Heads, gaussian: GaussianTuples) -> None:
    heads = fit_heads(gaussian.sample(200, seed=0), replace(small_heads.config, mode="joint"))
    save_heads(tmp_path, heads, card=CARD)
    test = gaussian.sample(32, seed=2)
    assert torch.equal(load_heads(tmp_path).energies(test), heads.energies(test))


def test_verify_accepts_an_untouched_head(folder: Path) -> None:
    checks = verify_heads(folder)
    assert [check.name for check in checks] == ["description", "card", "weights", "metric"]
    assert all(check.passed for check in checks)


def test_verify_names_what_was_touched(folder: Path) -> None:
    (folder / "CARD.md").write_text("trust me", encoding="utf-8")
    assert [check.name for check in verify_heads(folder) if not check.passed] == ["card"]
    weights = folder / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    failed = [check for check in verify_heads(folder) if not check.passed]
    assert [check.name for check in failed] == ["card", "weights"]
    assert "SHA-256 differs" in failed[1].detail
    (folder / "head.json").write_text("{}", encoding="utf-8")
    assert [check.name for check in verify_heads(folder)] == ["description"]


def test_verify_recomputes_a_stored_metric(folder: Path) -> None:
    path = folder / "head.json"
    text = json.loads(path.read_text())
    text["metrics"]["gaussian_mutual_information"] += 1
    path.write_text(json.dumps(text))
    metric = verify_heads(folder)[-1]
    assert (metric.name, metric.passed) == ("metric", False)


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors and bring the stored hash up to date, as an attacker would."""
    import hashlib

    tensors = load_file(folder / "head.safetensors")
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, folder / "head.safetensors")
    text = json.loads((folder / "head.json").read_text())
    text["sha256"] = hashlib.sha256((folder / "head.safetensors").read_bytes()).hexdigest()
    (folder / "head.json").write_text(json.dumps(text))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"energy.bias": None}, UsageError, "'energy.bias' is missing"),
        ({"source.mean": torch.zeros(7)}, UsageError, r"'source.mean' is of shape \(7,\), expected \(8,\)"),
        ({"extra": torch.zeros(1)}, UsageError, "unexpected tensor 'extra'"),
        ({"source.std": torch.full((8,), float("nan"))}, RefusedError, "'source.std' contains NaN"),
        ({"closed_form.lift_0_mean": None}, UsageError, "'lift_0_mean' is missing"),
    ],
)
def test_damaged_weights_are_refused(
    folder: Path, changes: dict[str, torch.Tensor | None], error: type[Exception], message: str
) -> None:
    rewrite(folder, **changes)
    with pytest.raises(error, match=message):
        load_heads(folder)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", "platodef-head/9", "format"),
        ("source_dim", -1, "source_dim"),
        ("surprise", 1, "surprise"),
        ("reference_names", ["left"], "names and dimensions disagree"),
        ("config", {"backbone": {"width": "wide"}}, "wrong type"),
    ],
)
def test_damaged_description_is_refused(folder: Path, field: str, value: object, message: str) -> None:
    path = folder / "head.json"
    text = json.loads(path.read_text())
    text[field] = value
    path.write_text(json.dumps(text))
    with pytest.raises(UsageError, match=message):
        load_heads(folder)


def test_missing_files_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="holds no head"):
        load_heads(tmp_path / "nowhere")
    (folder / "head.safetensors").unlink()
    with pytest.raises(UsageError, match=r"head\.safetensors is missing"):
        load_heads(folder)


def test_unwritable_folder_leaves_nothing(tmp_path: Path, small_heads: Heads) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IncompleteError, match="cannot write the heads"):
        save_heads(tmp_path / "file" / "head", small_heads, card=CARD)


def test_matching_encoders_are_accepted_in_any_order(folder: Path) -> None:
    check_match(load_heads(folder), CARD.source, CARD.references[::-1])


TRANSFORM = encoder("x", 1).transform.model_copy(update={"mean": (0.4, 0.5, 0.5)})


@pytest.mark.parametrize(
    ("source", "references", "message"),
    [
        (
            encoder("suspect", 8, digest="f" * 64),
            CARD.references,
            "another suspect: its weights digest is 7375",
        ),
        (encoder("suspect", 9), CARD.references, "its dimension is 8, here it is 9"),
        (encoder("suspect", 8, transform=TRANSFORM), CARD.references, "its preprocessing"),
        (encoder("suspect", 8, pooling="avg"), CARD.references, "its pooling is token, here it is avg"),
        (CARD.source, CARD.references[:1], "with reference 'right'; the references here are: left"),
        (
            CARD.source,
            (encoder("left", 4), encoder("right", 4, digest="0" * 64)),
            "another reference 'right'",
        ),
    ],
)
def test_other_encoders_are_refused(
    folder: Path, source: EncoderRecord, references: tuple[EncoderRecord, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_match(load_heads(folder), source, references)


def test_card_must_describe_the_heads(tmp_path: Path, small_heads: Heads) -> None:
    with pytest.raises(UsageError, match=r"dimensions \[9, 4, 4\], the heads were fitted on \[8, 4, 4\]"):
        save_heads(tmp_path, small_heads, card=CARD.model_copy(update={"source": encoder("suspect", 9)}))
    swapped = CARD.model_copy(update={"references": CARD.references[::-1]})
    with pytest.raises(UsageError, match="in their order"):
        save_heads(tmp_path, small_heads, card=swapped)
    assert list(tmp_path.iterdir()) == []


def test_card_states_encoders_and_metrics(folder: Path) -> None:
    text = (folder / "CARD.md").read_text()
    for part in ("org/suspect", "org/left", "a" * 40, "matched_auroc", read_description(folder).sha256):
        assert part in text
