"""Table defences on a tiny zoo: rows, modes, reasons, costs, and a number computed independently."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import normalize

from platodef_cli.bench.feature_store import open_benchmark_images
from platodef_cli.bench.results import BenchResult
from platodef_cli.bench.zoo.card import read_card
from platodef_cli.bench.zoo.networks import Network
from platodef_cli.defences import DETECTORS, ENCODER_DETECTORS, PURIFIERS
from platodef_cli.defences.interface import EncoderStatistic
from platodef_cli.defences.zip import SmallDiffusion
from platodef_cli.errors import NotApplicable
from platodef_cli.images.shapes import CLASSES
from platodef_cli.triggers.stored import load_trigger

IMAGES = "builtin:shapes?seed=11&count=500"
NEIGHBOURS = 16  # k of the detector
COSTS = ("fit_seconds", "seconds", "memory_mb")


def matrix(
    platodef: Callable, zoo: Path, tmp_path: Path, kept: tuple[str, ...], *more: object
) -> BenchResult:
    """Fill the table with the kept methods only, and return the record."""
    names = {*DETECTORS.names(), *PURIFIERS.names(), *ENCODER_DETECTORS.names()} - set(kept)
    skipped = [word for name in sorted(names) for word in ("--skip", name)]
    asked = ("--table", "defences", "--images", IMAGES, "--quick", "--results", tmp_path / "cells")
    outputs = ("-o", f"json={tmp_path / 'd.json'}", "-o", f"markdown={tmp_path / 'd.md'}")
    code, _, err = platodef("bench", "run", "--zoo", zoo, *asked, *skipped, *outputs, *more)
    assert code == 0, err
    return BenchResult.model_validate_json((tmp_path / "d.json").read_text())


def published_kdist(zoo: Path) -> float:
    """Return the AUROC of the distance to the 16th neighbour among clean and triggered test images."""
    card = read_card(zoo / "encoders" / "ctrl-0")
    network = Network.load(card.architecture, zoo / "encoders" / card.name)
    images = open_benchmark_images(IMAGES, None, CLASSES)
    test = list(images.roles(0).test)
    others = [row for row in test if int(images.labels[row]) != card.backdoor.target]
    trigger = load_trigger(zoo / "encoders" / card.name / "trigger")
    pixels = torch.cat([images.pixels[test], trigger(images.pixels[others], images.seeds[others])])
    features = normalize(network.embed(pixels).double(), dim=1)
    distances = (features[:, None] - features[None]).norm(dim=2).sort(dim=1).values[:, NEIGHBOURS]
    return float(roc_auc_score([0] * len(test) + [1] * len(others), distances.numpy()))


def test_rows_modes_reasons_and_costs(zoo: Path, platodef: Callable, tmp_path: Path) -> None:
    kept = ("ridge", "kdist", "decomp")
    result = matrix(platodef, zoo, tmp_path, kept, "--only", "ctrl-0")
    undefended, detectors, purifiers = result.grids
    assert undefended.rows[0].values["trigger"].note == "ctrl-100"
    assert undefended.rows[0].values["CA"].value is not None
    rows = {row.label: row.values for row in detectors.rows}
    assert list(rows) == ["ridge", "kdist", "kdist, published", "decomp", "decomp, published"]
    assert rows["ridge"]["ctrl-0"].low < rows["ridge"]["ctrl-0"].value
    assert all(rows["ridge"][name].value >= 0 for name in COSTS)
    assert rows["ridge"]["seconds"].value > 0
    assert rows["kdist, published"]["ctrl-0"].value == pytest.approx(published_kdist(zoo), abs=1e-6)
    assert rows["kdist, published"]["ctrl-0"].value != rows["kdist"]["ctrl-0"].value
    assert [row.label for row in purifiers.rows] == ["ridge", "decomp"]
    cleaned = purifiers.rows[0].values
    assert {f"ctrl-0:{rate}" for rate in ("CA", "PA", "ASR")} | set(COSTS) == set(cleaned)
    for values, key in ((rows["decomp"], "ctrl-0"), (purifiers.rows[1].values, "ctrl-0:CA")):
        assert values[key].value is None
        assert "Vision Transformer" in values[key].note
        assert "seconds" not in values
    assert any("purifier decomp: not applicable" in note for note in result.notes)
    assert "| decomp, published | \\- |" in (tmp_path / "d.md").read_text()
    assert result.configuration["published"] is True


def test_without_published_modes(zoo: Path, platodef: Callable, tmp_path: Path) -> None:
    result = matrix(platodef, zoo, tmp_path, ("kdist",), "--only", "ctrl-0", "--no-published")
    assert [row.label for row in result.grids[1].rows] == ["kdist"]
    assert len(result.grids) == 2  # no purifier and no encoder-level detector was asked for
    assert result.command.endswith("--no-published --quick")


def test_encoder_level_rows_stand_beside_the_clean_parent(
    zoo: Path, platodef: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counter:
        """Gives the mode's number to ResNets and refuses the others."""

        def __init__(self, mode: str):
            self.value = 1.0 if mode == "default" else 2.0

        def examine(self, model: object, images: torch.Tensor) -> EncoderStatistic:
            if model.name not in ("resnet", "ctrl-0"):
                raise NotApplicable("needs a ResNet")
            return EncoderStatistic(self.value, {})

    monkeypatch.setattr(
        "platodef_cli.bench.encoder_level.make_encoder_detector", lambda name, *, mode, **_: Counter(mode)
    )
    result = matrix(platodef, zoo, tmp_path, ("decree",), "--only", "ctrl-0", "--only", "clip-backdoor-0")
    grid = result.grids[-1]
    labels = [column.label for column in grid.columns]
    assert labels[:4] == ["ctrl-0 (planted)", "clip-backdoor-0 (planted)", "resnet (clean)", "clip (clean)"]
    rows = {row.label: row.values for row in grid.rows}
    assert list(rows) == ["decree", "decree, published"]
    assert [rows[label]["resnet"].value for label in rows] == [1.0, 2.0]
    assert rows["decree"]["clip"].value is None
    assert any("decree (published) on clip: not applicable: needs a ResNet" in note for note in result.notes)


def test_zip_takes_a_diffusion_model(
    zoo: Path, platodef: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def pipeline(folder: Path) -> SmallDiffusion:
        opened.append(folder)
        return SmallDiffusion((32, 32), width=8).eval()

    monkeypatch.setattr("platodef_cli.bench.defending.PipelineDiffusion", pipeline)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("1")
    more = ("--only", "ctrl-0", "--diffusion", tmp_path / "model")
    result = matrix(platodef, zoo, tmp_path, ("zip",), *more)
    assert opened == [tmp_path / "model"]
    assert result.grids[1].rows[0].values["ctrl-0:CA"].value is not None
    assert result.configuration["diffusion"] == "model"
    assert str(tmp_path) not in result.command
    assert matrix(platodef, zoo, tmp_path, ("zip",), *more) == result
    (tmp_path / "model" / "weights").write_text("2")
    matrix(platodef, zoo, tmp_path, ("zip",), *more)
    assert len(opened) == 2  # other weights are another cell
