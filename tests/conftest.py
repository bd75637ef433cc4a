"""Fixtures that several folders of tests share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from platodef_cli.records import AuditReport

if "PYTEST_XDIST_WORKER" in os.environ:
    # workers share the cores, and threads in each of them would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# a busy machine is no failure
settings.register_profile("platodef", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("platodef")

if TYPE_CHECKING:
    from platodef_cli.heads.heads import Heads
    from tests.gaussian_tuples import GaussianTuples

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_json() -> str:
    """Report version 2, as ``-o json`` writes it."""
    return (GOLDEN / "report_v2.json").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def golden_report(golden_json: str) -> AuditReport:
    """The report of a failing audit with every part filled."""
    return AuditReport.model_validate_json(golden_json)


@pytest.fixture(scope="session")
def check_golden() -> Callable[[str, str], None]:
    """Compare text with a file of tests/golden; ``UPDATE_GOLDEN=1 pytest`` writes it instead."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("UPDATE_GOLDEN") == "1":
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{name} differs; look, then UPDATE_GOLDEN=1 pytest"

    return check


@pytest.fixture(scope="session")
def gaussian() -> "GaussianTuples":
    """Jointly Gaussian features with mutual information 8.1 nats."""
    from tests.gaussian_tuples import GaussianTuples

    return GaussianTuples(0.932)


@pytest.fixture(scope="session")
def small_heads(gaussian: "GaussianTuples") -> "Heads":
    """Heads fitted on 1 500 tuples of ``gaussian`` with a very small backbone."""
    from platodef_cli.heads.backbone import BackboneConfig
    from platodef_cli.heads.fit import FitConfig, fit_heads
    from platodef_cli.heads.mismatch import MismatchConfig
    from platodef_cli.heads.train import TrainConfig

    config = FitConfig(
        backbone=BackboneConfig(width=16, depth=1, heads=2),
        mismatch=MismatchConfig(queue=256),
        energy=TrainConfig(epochs=2, batch_size=128),
        denoiser=TrainConfig(epochs=2, batch_size=128),
        lift_features=0,
    )
    return fit_heads(gaussian.sample(1500, seed=1), config)


@pytest.fixture
def small_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let DeDe train its decoder on small pictures and for few steps."""
    from functools import partial

    from platodef_cli.defences import dede as masked_decoder

    small = partial(masked_decoder.DecoderConfig, side=16, width=32, depth=1, steps=80, batch_size=32)
    monkeypatch.setattr(masked_decoder, "DecoderConfig", small)
