"""Every detector reaches the AUROC that it promises on a real planted encoder."""

import shutil
from pathlib import Path

import pytest

from platodef_cli.bench.defences import DefenceConfig, measure_defences
from platodef_cli.defences import DETECTORS
from platodef_cli.triggers.stored import save_trigger
from platodef_cli.triggers.triggers import Patch

SHARED = Path(__file__).resolve().parents[3] / "shared"
WITH_EXPECTATION = tuple(
    name for name in DETECTORS.names() if DETECTORS.load(name).expected_auroc is not None
)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/ is not beside this checkout")
def test_promises_hold_on_a_planted_white_square(tmp_path: Path) -> None:
    planted = tmp_path / "suspect-a"
    shutil.copytree(SHARED / "encoders" / "suspect-a", planted)
    planted.chmod(0o755)
    save_trigger(Patch("white", 0.3125, "bottom-right"), planted)
    table = measure_defences(
        DefenceConfig(
            encoders=(str(planted),),
            references=tuple(str(SHARED / "encoders" / name) for name in ("ref-cnx", "suspect-c")),
            images=str(SHARED / "data" / "cifar10" / "test.parquet"),
            limit=600,
            detectors=WITH_EXPECTATION,
            encoder_detectors=(),
            purifiers=(),
            modes=("default",),
        )
    )
    applicable = 0
    for row in table.rows:
        if row.auroc is None:
            assert row.not_applicable
            continue
        assert row.auroc.value is not None
        expected_auroc = DETECTORS.load(row.defence).expected_auroc
        assert row.auroc.value >= expected_auroc.auroc, (row.defence, expected_auroc)
        applicable += 1
    assert applicable >= 4
