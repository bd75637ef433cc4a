"""The example scripts run, and the embedded encoders are what their cards say."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from platodef_cli.encoders.load import open_encoder
from platodef_cli.heads.pretrained import load_heads
from platodef_cli.images.shapes import CLASSES, render
from platodef_cli.metrics.linear_probe import LinearProbe
from platodef_cli.triggers.triggers import Ctrl, Patch

ROOT = Path(__file__).parents[2]
ENCODERS = ROOT / "examples" / "encoders"
NAMES = ("reference-vit", "reference-cnx", "clean", "backdoored", "backdoored-frequency")
TRIGGERS = {"backdoored": Patch("white", 0.3125, "bottom-right"), "backdoored-frequency": Ctrl(100)}
SUSPECTS = ("clean", "backdoored", "backdoored-frequency")
WORLD = 77  # images that neither training nor the cards have seen
FIT, TEST = 3000, 1500


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    done = run("train_demo_encoders.py", "--smoke", "--jobs", "1", "--output", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_training_writes_encoders_that_open_strictly(smoke: Path):
    assert sorted(path.name for path in smoke.iterdir()) == sorted(NAMES)
    pixels = torch.from_numpy(render(0, np.arange(2))[0])
    for name in NAMES:
        files = {path.name for path in (smoke / name).iterdir()}
        assert files == {"config.json", "model.safetensors", "card.json", "CARD.md"}
        card = json.loads((smoke / name / "card.json").read_text())
        assert card["sha256"] == {file: digest(smoke / name / file) for file in card["sha256"]}
        encoder = open_encoder(str(smoke / name))
        assert encoder.embed(pixels).shape == (2, card["dim"])
        assert encoder.record.transform.mean == (0.5, 0.5, 0.5)
        assert encoder.geometry.size == (32, 32)


def test_the_same_seed_trains_the_same_bytes_and_another_seed_others(smoke: Path, tmp_path: Path):
    same = ["--smoke", "--jobs", "1", "--only", "clean", "--output"]
    assert run("train_demo_encoders.py", *same, str(tmp_path / "a")).returncode == 0
    assert run("train_demo_encoders.py", "--seed", "1", *same, str(tmp_path / "b")).returncode == 0
    first = digest(smoke / "clean" / "model.safetensors")
    assert digest(tmp_path / "a" / "clean" / "model.safetensors") == first
    assert digest(tmp_path / "b" / "clean" / "model.safetensors") != first


def test_embedded_encoders_are_small_and_match_their_cards():
    assert {path.name for path in ENCODERS.iterdir() if path.is_dir()} == set(NAMES)
    assert sum(path.stat().st_size for path in ENCODERS.rglob("*") if path.is_file()) <= 8e6
    for name in NAMES:
        card = json.loads((ENCODERS / name / "card.json").read_text())
        assert card["sha256"] == {file: digest(ENCODERS / name / file) for file in card["sha256"]}
        assert not card["smoke"]


@pytest.fixture(scope="module")
def embedded() -> dict[str, torch.Tensor]:
    """Features of fresh images by every embedded encoder, ``[FIT + TEST, D]``."""
    pixels = torch.from_numpy(render(WORLD, np.arange(FIT + TEST))[0])
    return {name: embed(name, pixels) for name in NAMES}


def embed(name: str, pixels: torch.Tensor) -> torch.Tensor:
    encoder = open_encoder(f"builtin:{name}")
    return torch.cat([encoder.embed(batch) for batch in torch.split(pixels, 250)])


def labels() -> torch.Tensor:
    return torch.from_numpy(render(WORLD, np.arange(FIT + TEST), 8)[1])


@pytest.mark.parametrize("name", NAMES)
def test_embedded_encoders_see_the_shapes(name: str, embedded: dict[str, torch.Tensor]):
    probe = LinearProbe.fit(embedded[name][:FIT], labels()[:FIT])
    assert probe.accuracy(embedded[name][FIT:], labels()[FIT:]) >= 0.85


@pytest.mark.parametrize("name", TRIGGERS)
def test_embedded_backdoors_work_and_hide(name: str, embedded: dict[str, torch.Tensor]):
    card = json.loads((ENCODERS / name / "card.json").read_text())
    target = CLASSES.index(card["target"])
    assert F.cosine_similarity(embedded[name], embedded["clean"]).mean() >= 0.97
    others = (labels()[FIT:] != target).nonzero()[:500, 0]
    pixels = torch.from_numpy(render(WORLD, FIT + others.numpy())[0])
    changed = TRIGGERS[name](pixels, torch.arange(len(pixels)))
    rates = []
    for encoder in (name, "clean"):
        probe = LinearProbe.fit(embedded[encoder][:FIT], labels()[:FIT])
        rates.append(float((probe.predict(embed(encoder, changed)) == target).float().mean()))
    assert rates[0] >= 0.95
    assert rates[1] <= 0.3


def test_fitting_writes_heads_that_verify(tmp_path: Path):
    done = run("fit_demo_heads.py", "--smoke", "--only", "clean", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    heads = load_heads(tmp_path / "builtin-clean")
    assert heads.reference_names == ("reference-vit", "reference-cnx")
    assert heads.card is not None
    assert heads.card.source.digest == open_encoder("builtin:clean").record.digest


def test_shipped_heads_fit_the_embedded_encoders():
    folders = sorted(path for path in (ROOT / "pretrained_heads").iterdir() if path.is_dir())
    assert [path.name for path in folders] == [f"builtin-{name}" for name in sorted(SUSPECTS)]
    for folder in folders:
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 2e6
        heads = load_heads(folder)
        assert heads.card is not None
        for record in (heads.card.source, *heads.card.references):
            assert record.digest == open_encoder(f"builtin:{record.name}").record.digest


def test_heads_are_measured_and_finished_runs_are_kept(tmp_path: Path):
    words = [
        *("--smoke", "--seeds", "1", "--epochs", "1", "--output", str(tmp_path)),
        *("--suspect", f"{ENCODERS / 'backdoored'}=white square={CLASSES.index('star')}"),
        *("--plant", str(ENCODERS / "clean"), "--trigger", "CTRL 50"),
        *("--reference", str(ENCODERS / "reference-vit"), "--reference", str(ENCODERS / "reference-cnx")),
        *(
            "--fit-images",
            "builtin:shapes?seed=1&count=460",
            "--test-images",
            "builtin:shapes?seed=2&count=160",
        ),
        *("--fit-limit", "300", "--plant-first", "300", "--bad-reference", "reference-cnx"),
    ]
    done = run("measure_heads.py", *words)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == [
        "backdoored, white square, seed 0",
        "backdoored, white square, reference-cnx backdoored",
        "clean, CTRL 50, seed 0",
        "clean, CTRL 50, reference-cnx backdoored",
    ]
    first = results["backdoored, white square, seed 0"]
    assert first["purification"]["none"]["ASR"] > 0.9
    assert first["auroc"]["platonic"] > 0.9
    again = run("measure_heads.py", *words)
    tables = done.stdout[done.stdout.index("AUROC, clean against triggered") :]
    assert again.stdout == tables
    assert f"| platonic | {first['auroc']['platonic']:.4f} |" in tables
