"""The calibration that the package carries: what clean encoders do in an audit with the embedded references.

``platodef bench calibrate`` writes it; see examples/CALIBRATION.md.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from platodef_cli.errors import IncompleteError
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
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IncompleteError(f"{path} cannot be read ({error.strerror}); reinstall platodef") from None
    try:
        return summary(Calibration.model_validate_json(content), hashlib.sha256(content).hexdigest())
    except ValidationError as error:
        count = error.error_count()
        raise IncompleteError(f"{path} is damaged ({count} errors); reinstall platodef") from None


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
