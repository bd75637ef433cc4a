"""Detectors: one suspicion score per sample, higher is more suspicious."""

from typing import TYPE_CHECKING

from platodef_cli.registry import Table

if TYPE_CHECKING:
    from platodef_cli.detectors.interface import Detector
    from platodef_cli.features.interface import FeatureTuples
    from platodef_cli.heads.heads import Heads

DETECTORS = Table(
    "detector",
    {
        "platonic": "platodef_cli.detectors.platonic:PlatonicDetector",
        "energy": "platodef_cli.detectors.energy:EnergyDetector",
        "gaussian": "platodef_cli.detectors.gaussian:GaussianDetector",
        "ridge": "platodef_cli.detectors.ridge:RidgeDetector",
        "robust": "platodef_cli.detectors.robust:RobustDetector",
        "denoiser": "platodef_cli.detectors.denoiser:DenoiserDetector",
        "mahalanobis": "platodef_cli.detectors.mahalanobis:MahalanobisDetector",
        "knn": "platodef_cli.detectors.knn:KnnDetector",
    },
)
DEFAULT_DETECTOR = "platonic"


def make_detector(name: str, heads: "Heads", clean: "FeatureTuples | None" = None) -> "Detector":
    """Return the detector called ``name``.

    Args:
        name: A row of :data:`DETECTORS`.
        heads: Fitted heads.
        clean: Clean tuples as a reference bank; only ``knn`` needs them.

    Raises:
        UnknownNameError: No such detector; the message lists the choices.
        UsageError: The detector needs clean tuples and there are none.
    """
    detector: Detector = DETECTORS.load(name)(heads, clean)
    return detector
