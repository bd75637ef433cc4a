"""Heads without networks, which a default audit fits."""

from pathlib import Path

import pytest
import torch

from platodef_cli.audit.config import AuditConfig
from platodef_cli.defences import make_detector, make_purifier
from platodef_cli.defences.interface import PurifyOptions
from platodef_cli.errors import NotApplicable, UnknownNameError, UsageError
from platodef_cli.heads.backbone import BackboneConfig
from platodef_cli.heads.config import preset, preset_name
from platodef_cli.heads.evaluate import gaussian_scores
from platodef_cli.heads.fit import fit_heads
from platodef_cli.heads.pretrained import load_heads, save_heads, verify_heads
from platodef_cli.heads.train import TrainConfig
from tests.gaussian_tuples import GaussianTuples
from tests.unit.heads.test_pretrained import CARD


def test_the_default_fits_no_network_and_is_the_closed_form(gaussian: GaussianTuples, tmp_path: Path) -> None:
    tuples, test = gaussian.sample(600, seed=0), gaussian.sample(200, seed=5)
    heads = fit_heads(tuples)
    assert heads.energy is None
    assert heads.denoiser is None
    assert preset_name(heads.config) == "closed"
    assert set(heads.clean_scores) == {"ridge", "gaussian", "robust"}
    assert torch.equal(heads.energies(test), gaussian_scores(heads, test))
    assert heads.metrics["matched_auroc"] == heads.metrics["gaussian_auroc"] > 0.95
    assert heads.metrics["mean_r2"] == pytest.approx(heads.metrics["gaussian_r2"])
    once = TrainConfig(epochs=1, batch_size=64)
    small = preset("closed", backbone=BackboneConfig(width=8, depth=1, heads=2), energy=once, denoiser=once)
    networks = fit_heads(tuples, small)
    assert torch.equal(gaussian_scores(networks, test), gaussian_scores(heads, test))
    save_heads(tmp_path, heads, card=CARD)
    again = load_heads(tmp_path)
    assert again.energy is None
    assert again.config == heads.config
    assert torch.equal(again.energies(test), heads.energies(test))
    assert all(check.passed for check in verify_heads(tmp_path))


def test_what_needs_networks_says_so(gaussian: GaussianTuples) -> None:
    heads = fit_heads(gaussian.sample(300, seed=0))
    for name in ("energy", "denoiser"):
        with pytest.raises(NotApplicable, match=r"needs heads with trained networks; fit them with --preset"):
            make_detector(name, heads)
    for name in ("heun", "euler", "dpmpp", "langevin", "average"):
        with pytest.raises(NotApplicable, match="trained networks"):
            make_purifier(name, heads)
    with pytest.raises(UsageError, match="guidance steers a denoiser"):
        make_purifier("mean", heads, PurifyOptions(guidance=2.0))
    test = gaussian.sample(50, seed=1)
    generator = torch.Generator().manual_seed(0)
    purified = [make_purifier(name, heads).purify(test, generator=generator) for name in ("mean", "gaussian")]
    assert torch.equal(*purified)
    detector = make_detector("platonic", heads)
    assert detector.members == ("gaussian", "robust")
    assert make_purifier("mean", heads).evaluations == 0
    with pytest.raises(UsageError, match="shares weights between networks"):
        preset("closed", mode="joint")


def test_an_audit_refuses_before_anything_is_opened_what_needs_networks() -> None:
    for words in ({"detectors": ("knn", "energy")}, {"purifier": "heun"}):
        with pytest.raises(UsageError, match="needs heads with trained networks; add --preset tiny"):
            AuditConfig("model", **words)
        AuditConfig("model", preset="tiny", **words)
        AuditConfig("model", head="somewhere", **words)
    with pytest.raises(UsageError, match="--head gives fitted ones"):
        AuditConfig("model", preset="tiny", head="somewhere")
    with pytest.raises(UnknownNameError, match="closed, medium"):
        AuditConfig("model", preset="huge")
