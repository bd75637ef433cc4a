"""An audit of something that is no encoder of its images ends before it searches, without a verdict."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from platodef_cli.records import AuditReport


def untrained(folder: Path, *, dead: bool) -> Path:
    """Make a ResNet with random weights; a dead one gives every image the same feature."""
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=0, pretrained=False)
    if dead:
        with torch.no_grad():
            for parameter in network.layer4.parameters():
                parameter.zero_()
    folder.mkdir()
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    pretrained = {
        "input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bicubic", "mean": [0.5] * 3,
        "std": [0.5] * 3, "num_classes": 0, "fixed_input_size": False,
    }  # fmt: skip
    config = {"architecture": "resnet18", "num_classes": 0, "num_features": 512, "pretrained_cfg": pretrained}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("dead", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_random_or_dead_encoder_neither_passes_nor_fails(tmp_path: Path, dead: bool) -> None:
    path = tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "platodef_cli.cli.app", "audit", untrained(tmp_path / "model", dead=dead),
            "-r", "builtin:reference-vit", "-r", "builtin:reference-cnx",
            "--images", "builtin:shapes?seed=1&count=700", "--battery", "quick", "--no-cache",
            "-o", f"json={path}",
        ],
        capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "not an encoder of these images" in done.stderr.splitlines()[-1]
    report = AuditReport.model_validate_json(path.read_text())
    assert (report.verdict, report.searches, report.probes) == ("inconclusive", (), ())
    (share,) = report.metrics
    assert share.interval is not None
    assert share.interval.high < 0.4
    assert {record.measure for record in report.alignment} == {"cka", "cknna"}
    assert "search" not in report.timing.seconds
