"""Means and intervals of the benchmark's tables. Pure functions of numbers."""

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt

from scipy.special import ndtri, stdtrit

from platodef_cli.bench.results import ResultColumn, ResultRow, Value
from platodef_cli.records import Metric

LEVEL = 0.95
SIGNED = ("CR",)  # measures that may be negative


def of_metric(metric: Metric) -> Value:
    """Return a metric as a value, with its own interval."""
    interval = metric.interval
    return Value(
        value=metric.value,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
    )


def repeated(values: Sequence[Value], *, share: bool = True, level: float = LEVEL) -> Value:
    """Return the mean of repeated measurements: the seeds of one encoder, or several encoders.

    The interval is the wider of Student's over the repetitions and the mean of their own intervals: the
    seeds of one encoder share images, and repetitions that agree to the last digit prove nothing about the
    next image. Measurements without a value are left out; their note is kept where none has one.

    Args:
        values: One per repetition.
        share: Whether the values lie in [0, 1]; the interval is cut to it.
        level: Of the interval.
    """
    present = [value for value in values if value.value is not None]
    if not present:
        return Value(value=None, n=0, note=next((value.note for value in values if value.note), ""))
    if len(present) == 1:
        return present[0]
    numbers = [value.value for value in present if value.value is not None]
    count = len(numbers)
    mean = sum(numbers) / count
    spread = sqrt(sum((number - mean) ** 2 for number in numbers) / (count - 1))
    half = float(stdtrit(count - 1, (1 + level) / 2)) * spread / sqrt(count)
    low, high = mean - half, mean + half
    own = [(v.low, v.high) for v in present if v.low is not None and v.high is not None]
    if len(own) == count:
        lows, highs = (sum(ends) / count for ends in zip(*own, strict=True))
        if highs - lows > high - low:
            low, high = lows, highs
    if share:
        low, high = max(0.0, low), min(1.0, high)
    return Value(value=mean, low=low, high=high, n=count)


def joined(
    encoders: Sequence[Sequence[Mapping[str, Value]]], columns: Sequence[ResultColumn]
) -> dict[str, Value]:
    """Return the values of a row: the mean over the seeds of each encoder, then over the encoders.

    Args:
        encoders: Per encoder, per seed: column key -> value.
        columns: Tell which values are shares.
    """
    values = {}
    for column in columns:
        share = column.unit in ("percent", "plain") and column.label not in SIGNED
        per_encoder = [
            repeated([one[column.key] for one in seeds if column.key in one], share=share)
            for seeds in encoders
            if any(column.key in one for one in seeds)
        ]
        if per_encoder:
            values[column.key] = repeated(per_encoder, share=share)
    return values


def means_over(encoders: Iterable[str]) -> str:
    """Return the sentence that says what the rows of a table are means of."""
    names = ", ".join(encoders)
    return f"Means over {names}, with the wider of Student's interval over them and that of the images."


def average(rows: Iterable[ResultRow], label: str, without: str | None = None) -> ResultRow:
    """Return the mean of every column over rows, each row with equal weight; no interval.

    A column is averaged over the rows that have a number in it; ``n`` says how many, and the note where
    that is not all of them.

    Args:
        rows: What is averaged.
        label: Of the new row.
        without: Group of columns that is left out.
    """
    rows = list(rows)
    values = {}
    for key in dict.fromkeys(key for row in rows for key in row.values):
        if key.partition(":")[0] == without:
            continue
        numbers = [
            row.values[key].value for row in rows if key in row.values and row.values[key].value is not None
        ]
        present = [number for number in numbers if number is not None]
        if present:
            part = f"{len(present)} of {len(rows)}" if len(present) < len(rows) else ""
            values[key] = Value(value=sum(present) / len(present), n=len(present), note=part)
        else:
            note = next((row.values[key].note for row in rows if key in row.values), "")
            values[key] = Value(value=None, n=0, note=note)
    return ResultRow(label=label, kind="average", values=values)


def wilson(hits: int, count: int, level: float = LEVEL) -> Value:
    """Return a rate with Wilson's score interval (Wilson 1927); no value where ``count`` is 0."""
    if not count:
        return Value(value=None, n=0, note="none in the zoo")
    z = float(ndtri((1 + level) / 2))
    share = hits / count
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z / scale * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Value(value=share, low=max(0.0, middle - half), high=min(1.0, middle + half), n=count)
