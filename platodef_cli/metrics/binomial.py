"""Rates with exact intervals. It loads no torch, so that a recorded report can be judged without it."""

from platodef_cli.errors import UsageError
from platodef_cli.records import Direction, Interval, Metric


def rate_metric(
    k: int,
    n: int,
    level: float = 0.95,
    *,
    name: str = "rate",
    positive: str | None = None,
    direction: Direction = "none",
) -> Metric:
    """Return the rate ``k / n`` with the exact binomial interval (Clopper and Pearson 1934).

    The value is None where ``n`` is 0. ``n_positive`` is k and ``n_negative`` n - k.

    Raises:
        UsageError: ``k`` is not in ``0..n``.
    """
    if not 0 <= k <= n:
        raise UsageError(f"the rate {name!r} counts {k} of {n}; the count must lie between 0 and {n}")
    return Metric(
        name=name,
        value=k / n if n else None,
        interval=exact_interval(k, n, level) if n else None,
        direction=direction,
        positive=positive,
        n_positive=k,
        n_negative=n - k,
        unit="fraction",
    )


def exact_interval(k: float, n: int, level: float) -> Interval:
    """Return the exact binomial interval of ``k`` hits among ``n`` (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv  # only where there is a rate: `gate` starts quickly

    tail = (1 - level) / 2
    low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return Interval(low=low, high=high, level=level)
