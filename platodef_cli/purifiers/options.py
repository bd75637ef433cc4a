"""Options that the purifiers share, checked once."""

from dataclasses import dataclass

from platodef_cli.errors import UnknownNameError, UsageError

STARTS = ("noise", "source")


@dataclass(frozen=True)
class PurifyOptions:
    """Options of a purifier.

    Attributes:
        steps: Noise levels N of a sampler, at least 1.
        samples: Samples that ``average`` averages, at least 1.
        guidance: Classifier-free guidance scale w; 1 is off, 0 ignores the references.
        start: ``noise`` or ``source``.
        sigma_start: Noise level to start from, positive; None is the head's largest.
    """

    steps: int = 20
    samples: int = 8
    guidance: float = 1.0
    start: str = "noise"
    sigma_start: float | None = None

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.steps < 1 or self.samples < 1:
            raise UsageError("steps and samples of a purifier must be at least 1")
        if not 0 <= self.guidance < float("inf"):
            raise UsageError(f"guidance must be a number of at least 0, not {self.guidance}")
        if self.start not in STARTS:
            raise UnknownNameError("start", self.start, STARTS)
        if self.sigma_start is not None and not 0 < self.sigma_start < float("inf"):
            raise UsageError(f"sigma_start must be a positive number, not {self.sigma_start}")
