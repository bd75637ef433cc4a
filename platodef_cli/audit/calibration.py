"""The calibration that the package carries: what clean encoders do in an audit with the embedded references.

``platodef bench calibrate`` writes it; see examples/CALIBRATION.md.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

from platodef_cli.audit.packaged import read_packaged
from platodef_cli.records import Calibration, CalibrationSummary
from platodef_cli.resources import data_dir

FILE = "calibration.json"


def shipped() -> CalibrationSummary | None:
    """Return the summary of the calibration of this installation; None where it carries none.

    Raises:
        IncompleteError: It is damaged.
    """
    return _read(data_dir("calibration") / FILE)


@lru_cache(maxsize=1)
def _read(path: Path) -> CalibrationSummary | None:
    found = read_packaged(path, Calibration)
    return None if found is None else summary(found[0], hashlib.sha256(found[1]).hexdigest())


def summary(calibration: Calibration, digest: str) -> CalibrationSummary:
    """Return what a report takes over of a calibration."""
    return CalibrationSummary(
        digest=digest,
        departures=tuple(sorted(largest_by_lineage(calibration).values())),
        alarms=calibration.alarms,
        limits=calibration.limits,
        tests=calibration.tests,
        references=tuple(sorted(calibration.references.values())),
        sides=calibration.sides,
        images=calibration.images.partition("?")[0],
        test_images=calibration.test_images,
    )


def largest_by_lineage(calibration: Calibration) -> dict[str, float]:
    """Return lineage -> its largest departure, over its clean encoders that could be examined."""
    found: dict[str, float] = {}
    for encoder in calibration.encoders:
        if encoder.attack is None and encoder.departure is not None:
            value = encoder.departure.value
            found[encoder.lineage] = max(value, found.get(encoder.lineage, value))
    return found
