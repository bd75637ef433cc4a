"""The parts of a calibration that were measured on several machines, put together."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from platodef_cli.bench.zoo.recipe import recipe
from platodef_cli.errors import UsageError
from platodef_cli.metrics.binomial import rate_metric
from platodef_cli.records import CalibratedEncoder, Calibration, Metric

ALARMS = "clean lineages that the limits fail"


def read_calibration(path: Path) -> Calibration:
    """Read a ``calibration.json``.

    Raises:
        UsageError: It cannot be read, or is none.
    """
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise UsageError(
            f"{path} is no calibration ({error.error_count()} errors); give a calibration.json that "
            "`platodef bench calibrate` wrote"
        ) from None


_AGREE = 0.1  # of departures: another machine rounds otherwise, so that training ends elsewhere
_SAME = (
    "tool_version", "recipe", "zoo_seed", "seed", "libraries", "trained_on", "images_digest", "test_images",
    "references", "limits",
)  # fmt: skip


def merge(one: Calibration, other: Calibration, name: str) -> Calibration:
    """Return a calibration with the encoders of both; those in both count as the first has them.

    Args:
        one: A calibration.
        other: Of the same recipe and the same audits, made elsewhere.
        name: Of the other one, for messages.

    Raises:
        UsageError: They are of different zoos, inputs, tests, limits or versions.
    """
    differ = [field for field in _SAME if getattr(one, field) != getattr(other, field)]
    if differ:
        raise UsageError(
            f"{name} was measured otherwise ({', '.join(differ)}), so that its encoders cannot count here; "
            "audit them again with the same versions, zoo, images and references"
        )
    have = {encoder.name: encoder for encoder in one.encoders}
    for encoder in other.encoders:
        if encoder.name in have and not _agree(encoder, have[encoder.name]):
            raise UsageError(
                f"{name} has another departure of {encoder.name} than was measured here, so that its other "
                "encoders cannot count either; audit them again with this version"
            )
    order = {entry.name: number for number, entry in enumerate(recipe(one.recipe).scratch)}
    encoders = [*one.encoders, *(encoder for encoder in other.encoders if encoder.name not in have)]
    encoders.sort(key=lambda e: (e.attack is not None, e.name != e.lineage, order.get(e.name, len(order))))
    return one.model_copy(
        update={
            "encoders": tuple(encoders),
            "alarms": alarms_of(encoders),
            "sides": tuple(sorted({*one.sides, *other.sides})),
            "tests": tuple(sorted({*one.tests, *other.tests})),
        }
    )


def _agree(one: CalibratedEncoder, other: CalibratedEncoder) -> bool:
    if one.departure is None or other.departure is None:
        return one.departure == other.departure
    same = one.departure.test == other.departure.test
    return same and abs(one.departure.value - other.departure.value) <= _AGREE


def measured(encoders: Sequence[CalibratedEncoder]) -> set[str]:
    """Return the clean lineages that could be examined."""
    return {e.lineage for e in encoders if e.attack is None and e.departure is not None}


def alarms_of(encoders: Sequence[CalibratedEncoder]) -> Metric:
    """Return the share of the examined clean lineages that fail by the limits, with the exact interval."""
    lineages = measured(encoders)
    failed = {e.lineage for e in encoders if e.attack is None and e.verdict == "fail"} & lineages
    return alarms(len(failed), len(lineages))


def alarms(failed: int, count: int) -> Metric:
    """Return the share of clean lineages that fail, with the exact interval."""
    return rate_metric(failed, count, name=ALARMS, positive="failed")
