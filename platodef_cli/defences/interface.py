"""The contracts of detectors: one score per sample, or one per encoder; higher is more suspicious."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from platodef_cli.features.access import Access, ModelAccess
from platodef_cli.features.interface import FeatureTuples, Samples
from platodef_cli.progress import SILENT, Progress

__all__ = [
    "Access",
    "Detector",
    "EncoderDetector",
    "EncoderStatistic",
    "Mode",
    "ModelAccess",
    "ExpectedAuroc",
    "Samples",
    "Setup",
]

Mode = Literal["default", "published"]

MODES: tuple[Mode, ...] = ("default", "published")


@dataclass(frozen=True)
class ExpectedAuroc:
    """What a detector reaches in its default mode on a planted backdoor; a test holds it to that.

    Attributes:
        attack: Kind of attack.
        auroc: At least this AUROC, clean against triggered non-target images.
    """

    attack: str
    auroc: float


@dataclass(frozen=True)
class Setup:
    """How a detector works, apart from heads and clean samples.

    Attributes:
        mode: ``default``: a clean reference bank and scores that do not depend on the batch;
            ``published``: the choices of the original, its flaws included.
        seed: Draws masks, projections, trees.
        model: The suspect, for detectors that need images, internals or gradients.
        progress: Receives the steps of a detector that has to be fitted.
    """

    mode: Mode = "default"
    seed: int = 0
    model: ModelAccess | None = None
    progress: Progress = SILENT


DEFAULT_SETUP = Setup()


class Detector(Protocol):
    """Scores samples.

    Attributes:
        name: Its row in the table ``platodef_cli.defences.DETECTORS``.
        needs: What it looks at.
        bank: Fewest clean samples that it needs as a reference bank, 0 for none. Rows of the bank must not
            be scored, nor calibrate a threshold.
        description: What it measures and where it is blind, in one line.
        published: How the published mode differs, in one line; empty where both modes are the same.
        expected_auroc: What it reaches, or None where nothing can be promised (the description says why).
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Access]]
    bank: ClassVar[int]
    description: ClassVar[str]
    published: ClassVar[str]
    expected_auroc: ClassVar[ExpectedAuroc | None]

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious; independent of batch size and order.

        In published mode a detector may use the batch as its own reference; then it does depend on it.

        Args:
            tuples: Feature tuples; :class:`~platodef_cli.features.interface.Samples` with images for
                detectors that need them.

        Raises:
            NotApplicable: The samples or the suspect do not give what the detector needs.
        """


@dataclass(frozen=True)
class EncoderStatistic:
    """What an encoder-level detector found.

    Attributes:
        value: The statistic; higher is more suspicious.
        details: Named numbers behind it.
    """

    value: float
    details: dict[str, float] = field(default_factory=dict)


class EncoderDetector(Protocol):
    """Judges a whole encoder, without a trigger.

    Attributes:
        name: Its row in the table ``platodef_cli.defences.ENCODER_DETECTORS``.
        needs: What it looks at.
        description: What it measures and where it is blind, in one line.
        published: How the published mode differs, in one line.
        statistic: Name of the number, with its unit.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Access]]
    description: ClassVar[str]
    published: ClassVar[str]
    statistic: ClassVar[str]

    def examine(self, model: ModelAccess, images: Tensor) -> EncoderStatistic:
        """Return the statistic of an encoder.

        Args:
            model: The encoder.
            images: Clean images uint8 ``[N, 3, H, W]`` at its input size.

        Raises:
            NotApplicable: The encoder does not give what the detector needs.
            UsageError: There are too few images.
        """


class Purifier(Protocol):
    """Replaces source features.

    Attributes:
        name: Its row in the table ``platodef_cli.defences.PURIFIERS``.
        needs: What it looks at.
        description: What it does and what it cannot do, in one line.
        evaluations: Network function evaluations (NFE) per sample, 0 for closed forms.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Access]]
    description: ClassVar[str]
    evaluations: int

    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Return purified source features ``[N, D_s]`` float32, de-standardised.

        Raises:
            NotApplicable: The samples or the suspect do not give what the purifier needs.
        """
