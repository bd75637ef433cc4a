"""Numbers and metrics as people read them."""

from platodef_cli.records import Metric


def number(value: float | None, digits: int = 2) -> str:
    """Return a rounded number, or a dash where there is none; never ``-0.00``."""
    if value is None:
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}"


def compact(value: float | None) -> str:
    """Return a number of any size in at most four significant digits."""
    return "–" if value is None else f"{value + 0.0:.4g}"


def percent(value: float | None) -> str:
    """Return a fraction as a percentage with one decimal."""
    return "–" if value is None else f"{100 * value:.1f}%"


def interval(metric: Metric, digits: int = 2) -> str:
    """Return ``0.97 [0.95, 0.98]``, or the bare value where there is no interval."""
    value = number(metric.value, digits)
    if metric.interval is None:
        return value
    return f"{value} [{number(metric.interval.low, digits)}, {number(metric.interval.high, digits)}]"


def short_interval(metric: Metric | None) -> str:
    """Return ``0.97 .95-.98``, for narrow columns."""
    if metric is None:
        return "–"
    if metric.interval is None:
        return number(metric.value)
    low, high = (number(bound).removeprefix("0") for bound in (metric.interval.low, metric.interval.high))
    return f"{number(metric.value)} {low}-{high}"


def with_interval(metric: Metric) -> str:
    """Return a metric in its own unit, with its interval."""
    if metric.unit != "fraction":
        size_of_value = abs(metric.value or 0.0)
        digits = 3 if size_of_value <= 1 else 2 if size_of_value < 100 else 0
        return interval(metric, digits) + (f" {metric.unit}" if metric.unit else "")
    if metric.interval is None:
        return percent(metric.value)
    return f"{percent(metric.value)} [{percent(metric.interval.low)}, {percent(metric.interval.high)}]"


def size(count: int) -> str:
    """Return a count with a decimal prefix: ``1.2 M``."""
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if count >= limit:
            return f"{count / limit if suffix != ' k' else count / 1e3:.1f}{suffix}"
    return str(count)
