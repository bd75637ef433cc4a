"""Encoders that others trained on ImageNet, at their real size, clean and with planted backdoors."""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from platodef_cli.records import AuditReport
from platodef_cli.search.interface import SearchConfig

REAL = Path(__file__).parents[3] / "shared" / "real"
LIMIT_S = 4 * 3600  # of one audit; examples/REAL.md says what it takes on two cores
MEMORY_GB = 8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL.is_dir(), reason="the folder 'shared/real' with real encoders is absent"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all: the references are searched once."""
    return tmp_path_factory.mktemp("cache")


def suspect(name: str, pixels: int | None, folder: Path) -> Path:
    """Return an encoder's folder, or a copy that takes images of another size."""
    if pixels is None:
        return REAL / name
    copy = Path(shutil.copytree(REAL / name, folder / name))
    config = json.loads((copy / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, pixels, pixels]
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    ("name", "pixels", "code"),
    [("lite0", None, 0), ("lite0", 160, 0), ("bd-noise24", None, 1), ("bd-freq", None, 1)],
)
def test_clean_ones_pass_and_planted_ones_fail(
    name: str, pixels: int | None, code: int, cache: Path, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    command = [
        sys.executable, "-m", "platodef_cli.cli.app", "audit", suspect(name, pixels, tmp_path),
        "-r", REAL / "lite1", "-r", REAL / "mnv1-224", "--images", REAL / "photos.parquet",
        "--cache-dir", cache, "--memory-limit", MEMORY_GB, "-v", "-o", f"json={path}",
    ]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=LIMIT_S, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    report = AuditReport.model_validate_json(path.read_text())
    assert report.timing.peak_memory_mb < MEMORY_GB * 1024
    searched = defaultdict(set)
    for record in report.searches:
        searched[record.kind, record.budget].add(record.encoder)
    # one row for all input sizes; references are searched where the suspect gives cause
    assert len(searched) == len(SearchConfig().searches())
    assert all(encoders in ({name}, {name, "lite1", "mnv1-224"}) for encoders in searched.values())
    assert not [warning for warning in report.warnings if "memory" in warning]
