"""What a confidence interval says about a limit, and how many images would make it say more.

Every interval of this package shrinks as 1 / sqrt(n). With the standard error ``s`` of the present n, read
off the interval, and the distance ``d`` to the limit, an interval of level ``1 - a`` excludes the limit with
probability ``POWER`` from ``n ((z_{1-a/2} + z_POWER) s / d)^2`` images on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from platodef_cli.records import Interval, Metric

Answer = Literal["yes", "no", "unsure"]
Scale = Literal["linear", "logit", "rate"]

POWER = 0.9
MOST_IMAGES = 10_000_000  # a larger number helps nobody
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A number that is compared with limits.

    Attributes:
        value: The number; None where it was not measured.
        interval: Its confidence interval; None where it is exact, or was recorded without one.
        n: Images behind it.
        scale: Where the interval is symmetric: DeLong's on the ``logit`` scale, a binomial one as a ``rate``,
            a bootstrap one about ``linear``.
        probed: It was measured on the images that triggers are tried on, not on all test images.
    """

    value: float | None
    interval: Interval | None = None
    n: int = 0
    scale: Scale = "linear"
    probed: bool = False

    @classmethod
    def of(cls, metric: Metric | None, scale: Scale = "linear", *, probed: bool = False) -> "Estimate":
        """Return a metric as it is recorded."""
        if metric is None:
            return cls(None)
        counts = [n for n in (metric.n_positive, metric.n_negative) if n is not None]
        # the groups of an AUROC are two samples, hits and misses are one
        n = sum(counts) if scale == "rate" else min(counts, default=0)
        return cls(metric.value, metric.interval, n, scale, probed)

    @property
    def low(self) -> float:
        """Lower end of the interval, or the value."""
        return self.interval.low if self.interval else math.nan if self.value is None else self.value

    @property
    def high(self) -> float:
        """Upper end of the interval, or the value."""
        return self.interval.high if self.interval else math.nan if self.value is None else self.value

    def reaches(self, limit: float) -> Answer:
        """Return whether the value is at the limit or above; ``unsure`` inside its interval."""
        if self.value is None:
            return "unsure"
        if self.interval is None:
            return "yes" if self.value >= limit else "no"
        return "yes" if self.low > limit else "no" if self.high < limit else "unsure"

    def clears(self, limit: float) -> bool:
        """Return whether another sample of n would lie over the limit, too, with probability ``POWER``."""
        return self.value is not None and self.value > limit and self.growth(limit) == 1.0

    def growth(self, limit: float) -> float | None:
        """Return the factor by which n must grow for a clear answer.

        None means that no practical number of images would do: the value lies on the limit.
        """
        if self.value is None or self.interval is None or self.value == limit:
            return None
        alpha = 1 - self.interval.level
        try:
            if self.scale != "linear" and self.value in (0, 1):
                # no misses (hits) among n: the exact interval ends at (alpha / 2)^(1 / n)
                wanted = math.log(alpha / 2) / math.log(limit if self.value == 1 else 1 - limit)
                factor = wanted / self.n
            elif self.scale == "rate":
                factor = _rate_images(self.value, limit, alpha) / self.n
            else:
                factor = self._scaled(limit, alpha)
        except (ValueError, ZeroDivisionError, OverflowError):
            return None
        return max(1.0, factor) if math.isfinite(factor) else None

    def _scaled(self, limit: float, alpha: float) -> float:
        """Return ``((z + z_power) s / d)^2`` on the scale on which the interval is symmetric."""
        assert self.value is not None
        change = _logit if self.scale == "logit" else float
        z = _NORMAL.inv_cdf(1 - alpha / 2)
        error = (change(self.high) - change(self.low)) / (2 * z)
        return ((z + _NORMAL.inv_cdf(POWER)) * error / (change(self.value) - change(limit))) ** 2

    def format(self, digits: int = 2) -> str:
        """Return ``0.97 [0.95, 0.98]``, or the bare value."""
        if self.value is None:
            return "not measured"
        text = f"{self.value:.{digits}f}"
        return text if self.interval is None else f"{text} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _rate_images(rate: float, limit: float, alpha: float) -> float:
    """Return the n from which a binomial interval excludes the limit (Fleiss, Levin and Paik 2003, ch. 2.4).

    Wilson's interval excludes the limit exactly when the score test rejects it; the continuity correction
    makes up for the width of the exact interval of Clopper and Pearson.
    """
    z, power = _NORMAL.inv_cdf(1 - alpha / 2), _NORMAL.inv_cdf(POWER)
    distance = abs(rate - limit)
    spread = z * math.sqrt(limit * (1 - limit)) + power * math.sqrt(rate * (1 - rate))
    plain = (spread / distance) ** 2
    return plain / 4 * (1 + math.sqrt(1 + 2 / (plain * distance))) ** 2


def all_of(answers: Sequence[Answer]) -> Answer:
    """Return whether all conditions hold: one clear no settles it."""
    if "no" in answers:
        return "no"
    return "unsure" if "unsure" in answers else "yes"


@dataclass(frozen=True)
class SampleSize:
    """How many images an audit had.

    Attributes:
        images: All that were given.
        probed: Those that every trigger was tried on, at most (``--probe-images``).
    """

    images: int
    probed: int

    def more(self, open_questions: Sequence[tuple[Estimate, float]]) -> tuple[int | None, str]:
        """Return how many images to give in all, and the end of a message that says so.

        Args:
            open_questions: Estimate values whose interval holds their limit.
        """
        growths = [measured.growth(limit) for measured, limit in open_questions]
        factors = [factor for factor in growths if factor is not None]
        if not factors or len(factors) < len(growths) or max(factors) * self.images > MOST_IMAGES:
            return None, "; no practical number of images would settle it"
        images = _round_up(max(factors) * self.images)
        probed = any(measured.probed for measured, _ in open_questions)
        also = f" and --probe-images {_round_up(max(factors) * self.probed)}" if probed else ""
        return images, f"; about {images} images{also} would settle it"


@dataclass(frozen=True)
class Comparison:
    """What several numbers say about their limits together.

    Attributes:
        answer: Whether every number reaches its limit.
        undecided: Which intervals hold their limit, and how many images would settle it; empty where the
            answer is clear.
        needed: Images that would settle it; None where the answer is clear, or no practical number would do.
    """

    answer: Answer
    undecided: str = ""
    needed: int | None = None


def compare(questions: Sequence[tuple[str, Estimate, float]], sample: SampleSize | None) -> Comparison:
    """Return whether every number reaches its limit.

    Args:
        questions: What was measured, in words; the number; its limit.
        sample: How many images there were; None where more of them would not make the intervals shorter.
    """
    answers = [measured.reaches(limit) for _, measured, limit in questions]
    answer = all_of(answers)
    if answer != "unsure":
        return Comparison(answer)
    undecided = [entry for entry, given in zip(questions, answers, strict=True) if given == "unsure"]
    needed, advice = None, ""
    if sample is not None:
        needed, advice = sample.more([(measured, limit) for _, measured, limit in undecided])
    straddling = ", ".join(f"{name} {m.format()} straddles {limit:.2f}" for name, m, limit in undecided)
    return Comparison(answer, straddling + advice, needed)


def _round_up(count: float) -> int:
    """Return the next number of two significant digits."""
    step: int = 10 ** max(0, math.floor(math.log10(max(count, 1))) - 1)
    return math.ceil(count / step - 1e-9) * step
