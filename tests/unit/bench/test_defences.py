"""The measurement of defences end to end on tiny encoders: rows, reasons, costs, tables, and refusals."""

import json
from pathlib import Path

import pytest

from platodef_cli.bench.defences import DefenceConfig, measure_defences
from platodef_cli.cli.app import main
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.heads.backbone import BackboneConfig
from platodef_cli.heads.fit import FitConfig
from platodef_cli.heads.mismatch import MismatchConfig
from platodef_cli.heads.train import TrainConfig
from platodef_cli.triggers.stored import save_trigger
from platodef_cli.triggers.triggers import Patch
from tests.contract import encoder_models as make

TINY = FitConfig(
    backbone=BackboneConfig(width=16, depth=1, heads=2),
    mismatch=MismatchConfig(queue=64),
    energy=TrainConfig(epochs=1, batch_size=64),
    denoiser=TrainConfig(epochs=1, batch_size=64),
    lift_features=0,
)
IMAGES = "builtin:shapes?seed=1&count=240"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A ConvNet with a trigger beside it, and a reference."""
    root = tmp_path_factory.mktemp("bench")
    make.timm_model(root / "planted", "resnet18", {"channels": [8, 8, 16, 16]})
    make.timm_model(root / "reference")
    (root / "planted" / "trigger").mkdir()
    save_trigger(Patch("white", 0.3125, "bottom-right"), root / "planted" / "trigger")
    return root / "planted", root / "reference"


def test_rows_reasons_costs_and_tables(folders: tuple[Path, Path]) -> None:
    planted, reference = folders
    config = DefenceConfig(
        encoders=(str(planted),),
        references=(str(reference),),
        images=IMAGES,
        detectors=("ridge", "kdist", "decomp"),
        purifiers=("ridge", "decomp"),
        encoder_detectors=(),
        heads=TINY,
    )
    table = measure_defences(config)
    found = {(row.kind, row.defence, row.mode): row for row in table.rows}
    assert set(found) == {
        ("detector", "ridge", "default"),
        ("detector", "kdist", "default"),
        ("detector", "kdist", "published"),
        ("detector", "decomp", "default"),
        ("detector", "decomp", "published"),
        ("purifier", "ridge", "default"),
        ("purifier", "decomp", "default"),
    }
    ridge = found["detector", "ridge", "default"]
    assert ridge.auroc is not None
    assert ridge.auroc.n_negative == 120
    assert ridge.auroc.value is not None
    assert ridge.seconds is not None
    assert ridge.seconds > 0
    for kind in ("detector", "purifier"):
        row = found[kind, "decomp", "default"]
        assert row.not_applicable is not None
        assert "Vision Transformer" in row.not_applicable
        assert row.auroc is None
        assert row.clean_accuracy is None
    cleaned = found["purifier", "ridge", "default"]
    assert cleaned.clean_accuracy is not None
    assert cleaned.clean_accuracy.n_positive is not None or cleaned.clean_accuracy.value is not None
    again = json.loads(json.dumps(table.to_json()))
    assert again["planted"][0]["trigger"] == "patch-white-0.3125-bottom-right"
    assert again["configuration"]["seed"] == 0
    text = table.markdown()
    assert "| decomp | published | - |" in text
    assert "- decomp is not applicable: needs a pre-norm Vision Transformer" in text


def test_what_cannot_be_measured_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    planted, reference = folders
    with pytest.raises(UsageError, match=r"trigger\.json cannot be read"):
        measure_defences(DefenceConfig((str(reference),), (str(reference),), IMAGES))
    with pytest.raises(UsageError, match="at least one planted encoder and one reference"):
        DefenceConfig((str(planted),), (), IMAGES)
    with pytest.raises(UnknownNameError, match="did you mean 'ridge'"):
        DefenceConfig((str(planted),), (str(reference),), IMAGES, detectors=("rigde",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--detectors", "ridge,nothing"], "unknown detector 'nothing'"),
        (["--purifiers", "nothing"], "unknown purifier 'nothing'"),
        (["-o", "table.txt"], "cannot tell the format of table.txt"),
        ([], "no references"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], message: str, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "defences", "--encoders", str(folders[0]), "--images", IMAGES, *arguments]
    assert main(command) == 2
    assert message in " ".join(capsys.readouterr().err.split())
