"""A detector with its alarm threshold, calibrated on clean scores."""

from dataclasses import dataclass

import torch
from torch import Tensor

from platodef_cli.defences import DETECTORS, make_detector
from platodef_cli.defences.calibrate import conformal_threshold, stored_clean_scores
from platodef_cli.defences.interface import Detector, Mode
from platodef_cli.errors import UsageError
from platodef_cli.features.access import check_access, granted_by
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads


@dataclass(frozen=True)
class Alarm:
    """A detector with its calibrated threshold.

    Attributes:
        detector: Scores tuples.
        threshold: A clean sample scores above it with probability at most ``rate``.
        rate: The stated false positive rate.
        clean: The scores ``[n]`` that calibrated it.
    """

    detector: Detector
    threshold: float
    rate: float
    clean: Tensor


def calibrated(
    name: str,
    heads: Heads,
    calibration: FeatureTuples | None,
    rate: float,
    seed: int,
    mode: Mode = "default",
) -> Alarm:
    """Return the detector ``name`` with a conformal threshold.

    Args:
        name: A row of the table of detectors.
        heads: Fitted heads.
        calibration: Clean tuples that nothing was fitted on; None uses the clean scores in the heads.
        rate: False positive rate.
        seed: Splits the calibration tuples for a detector that also needs a bank; draws its trees.
        mode: ``default`` or ``published``.

    Raises:
        NotApplicable: The detector needs more than features.
        UsageError: The heads carry no clean scores for this detector, or there are too few.
    """
    kind = DETECTORS.load(name)
    check_access(kind, granted_by(calibration, None))
    bank = None
    if calibration is not None and kind.bank:
        order = torch.randperm(len(calibration), generator=torch.Generator().manual_seed(seed))
        half = len(calibration) // 2
        bank, calibration = calibration.select(order[:half]), calibration.select(order[half:])
    if calibration is None and mode == "published" and kind.published:
        raise UsageError(f"the published mode of {name!r} needs clean features; give them with --calibrate")
    if calibration is None:
        scores = stored_clean_scores(name, heads)
        if scores is None:
            raise UsageError(
                f"the heads carry no clean scores for {name!r}; give clean features with --calibrate"
            )
        detector = make_detector(name, heads, seed=seed)
    else:
        detector = make_detector(name, heads, bank, mode=mode, seed=seed)
        scores = detector.score(calibration)
    return Alarm(detector, conformal_threshold(scores, rate), rate, scores)
