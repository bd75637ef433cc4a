"""The contracts of defences: detectors of samples, detectors of encoders, purifiers, and what they get."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.features.access import Access, ModelAccess, check_access, granted_by
from platodef_cli.features.interface import FeatureTuples, Samples
from platodef_cli.progress import SILENT, Progress
from platodef_cli.registry import shortcomings

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
    """Scores samples; made from ``(heads, clean samples or None, setup)``.

    Attributes:
        name: Its row in the table ``platodef_cli.defences.DETECTORS``.
        needs: What it looks at.
        bank: Fewest clean samples that it needs as a reference bank, 0 for none. Rows of the bank must not
            be scored, nor calibrate a threshold.
        description: What it measures and where it is blind, in one line.
        use_when: Who should choose it, in one plain sentence.
        published: How the published mode differs, in one line; empty where both modes are the same.
        expected_auroc: What it reaches, or None where nothing can be promised (the description says why).
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Access]]
    bank: ClassVar[int]
    description: ClassVar[str]
    use_when: ClassVar[str]
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
    """What an encoder-level detector measured.

    Attributes:
        value: The statistic; higher is more suspicious.
        details: Named numbers behind it.
    """

    value: float
    details: dict[str, float] = field(default_factory=dict)


class EncoderDetector(Protocol):
    """Judges a whole encoder, without a trigger; made from a :class:`Setup`.

    Attributes:
        name: Its row in the table ``platodef_cli.defences.ENCODER_DETECTORS``.
        needs: What it looks at.
        description: What it measures and where it is blind, in one line.
        use_when: Who should choose it, in one plain sentence.
        published: How the published mode differs, in one line.
        statistic: Name of the number, with its unit.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Access]]
    description: ClassVar[str]
    use_when: ClassVar[str]
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


STARTS = ("noise", "source")
OPERATORS = ("pool", "grey")


@dataclass(frozen=True)
class PurifyOptions:
    """Options of a purifier.

    Attributes:
        steps: Noise levels N of a sampler, at least 1.
        samples: Samples that ``average`` averages, at least 1.
        guidance: Classifier-free guidance scale w; 1 is off, 0 ignores the references.
        start: ``noise`` regenerates the feature from the references alone; ``source`` adds noise to the
            observed feature first and so keeps part of an attack.
        sigma_start: Noise level to start from, positive; None is the head's largest.
        rate: Adam's learning rate of ``dede``, in clean standard deviations per step, positive.
        operator: What ``zip`` keeps of the image: ``pool`` (4x4 averages) or ``grey``.

    Raises:
        UsageError: A value is out of range.
    """

    steps: int = 20
    samples: int = 8
    guidance: float = 1.0
    start: str = "noise"
    sigma_start: float | None = None
    rate: float = 0.05
    operator: str = "pool"

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
        if not 0 < self.rate < float("inf"):
            raise UsageError(f"rate must be a positive number, not {self.rate}")
        if self.operator not in OPERATORS:
            raise UnknownNameError("operator", self.operator, OPERATORS)


@dataclass(frozen=True)
class PurifierInputs:
    """What purifiers get that look at more than features.

    Attributes:
        clean: Clean samples with images, to fit on.
        model: The suspect.
        seed: Seed of masks, networks and noise.
        diffusion: An image diffusion model for ``zip`` (``platodef_cli.defences.zip.ImageDiffusion``); None
            trains a small one on the images of ``clean``.
        progress: Receives the steps.
    """

    clean: Samples
    model: ModelAccess
    seed: int = 0
    diffusion: Any = None
    progress: Progress = SILENT


class Purifier(Protocol):
    """Replaces source features; made from ``(heads, options)``, and the inputs where it looks at images.

    Attributes:
        name: Its row in the table ``platodef_cli.defences.PURIFIERS``.
        needs: What it looks at.
        description: What it does and what it cannot do, in one line.
        use_when: Who should choose it, in one plain sentence.
        evaluations: Network function evaluations (NFE) per sample, 0 for closed forms.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Access]]
    description: ClassVar[str]
    use_when: ClassVar[str]
    evaluations: int

    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Return purified source features ``[N, D_s]`` float32, de-standardised.

        Raises:
            NotApplicable: The samples or the suspect do not give what the purifier needs.
        """


def purifier_fault(kind: Any) -> str:
    """Return what is wrong with the arguments of a plug-in's purifier."""
    inputs = ", inputs" if Access.images in kind.needs else ""
    return shortcomings(kind, [f"(heads, options{inputs})"])


def check_mode(mode: str) -> None:
    """Refuse an unknown mode.

    Raises:
        UnknownNameError: The message lists the modes.
    """
    if mode not in MODES:
        raise UnknownNameError("mode", mode, MODES)


def require_bank(name: str, clean: FeatureTuples | None, rows: int) -> FeatureTuples:
    """Return the clean tuples that the detector ``name`` compares with, at least ``rows`` of them.

    Raises:
        UsageError: There are none, or too few.
    """
    if clean is None or len(clean) < rows:
        raise UsageError(f"the {name} detector needs a bank of at least {rows} clean tuples")
    return clean


def require_images(
    kind: Any, clean: FeatureTuples | None, model: ModelAccess | None
) -> tuple[Samples, ModelAccess]:
    """Return clean samples with images, and the suspect, for a defence that looks at both.

    Args:
        kind: The defence; its ``needs`` name what must be there.
        clean: Clean samples.
        model: The suspect.

    Raises:
        NotApplicable: The samples have no images, or there is no suspect; the message lists what is missing.
    """
    check_access(kind, granted_by(clean, model))
    assert isinstance(clean, Samples)
    assert model is not None
    return clean, model
