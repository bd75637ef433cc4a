"""What a defence is measured on and by: the samples of one suspect under one trigger, and the numbers."""

from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor

from platodef_cli.bench.results import Plot, Value
from platodef_cli.bench.statistics import of_metric
from platodef_cli.features.interface import Samples
from platodef_cli.metrics.backdoor import accuracy, attack_success
from platodef_cli.metrics.costs import Cost
from platodef_cli.records import Record


class Costs(Record):
    """What a method took, on as many threads as the table was filled on."""

    fit_seconds: float = Field(description="processor seconds before the first sample")
    seconds: float = Field(description="processor seconds per 1000 samples, or per encoder")
    memory_mb: float = Field(description="largest addition to resident memory, MB")

    @classmethod
    def of(cls, fitting: Cost, working: Cost, samples: int = 1000) -> "Costs":
        """Return the costs of a method that was fitted and then worked on ``samples``."""
        return cls(
            fit_seconds=fitting.seconds,
            seconds=working.per_thousand(samples).seconds,
            memory_mb=max(fitting.memory_mb, working.memory_mb),
        )


class Method(Record):
    """What one method reaches; a number is missing where the method does not give it."""

    numbers: dict[str, Value] = Field(description="CA, PA, AUC, ASR, CR")
    note: str = Field("", description="why it does not apply")
    costs: Costs | None = Field(None, description="heads are shared and not counted")


class Defended(Record):
    """All methods on one suspect under one trigger."""

    methods: dict[str, Method]
    plot: Plot


class Classifier(Protocol):
    """What tells the class of a feature."""

    def predict(self, features: Tensor) -> Tensor:
        """Return the label ``[N]`` of each of ``features [N, D]``."""


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """Names the class whose prompt is nearest by cosine.

    Attributes:
        prompts: Unit vectors ``[C, D]`` of the classes, in label order.
    """

    prompts: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Return the label ``[N]`` of each of ``features [N, D]``."""
        return (torch.nn.functional.normalize(features.float(), dim=1) @ self.prompts.T).argmax(1)


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """The samples of one suspect.

    Attributes:
        fit: Clean samples that heads, probe and banks are fitted on.
        calibration: Clean samples that thresholds are calibrated on.
        test: Clean samples that are measured.
        changed: The test samples with the trigger, every class.
        target: Class of the backdoor; None for untargeted attacks, whose ASR is 1 - PA.
        probe: Classifier of features: a linear probe on the undefended ones, or for image-text attacks the
            class prompts, which is what these attacks lead astray.
    """

    fit: Samples
    calibration: Samples
    test: Samples
    changed: Samples
    target: int | None
    probe: Classifier

    @property
    def attacked(self) -> Samples:
        """The triggered samples that the backdoor has to move: those of other classes."""
        if self.target is None:
            return self.changed
        assert self.changed.labels is not None
        return self.changed.select(self.changed.labels != self.target)


def numbers_of(evaluation: EvaluationData, clean: Tensor, changed: Tensor) -> dict[str, Value]:
    """Return CA, PA and ASR of source features ``[N, D]`` of the test images and ``[T, D]`` triggered."""
    assert evaluation.test.labels is not None
    assert evaluation.changed.labels is not None
    predicted = evaluation.probe.predict(changed)
    pa = of_metric(accuracy(predicted, evaluation.changed.labels))
    if evaluation.target is None:
        asr = Value(
            value=None if pa.value is None else 1 - pa.value,
            low=None if pa.high is None else 1 - pa.high,
            high=None if pa.low is None else 1 - pa.low,
        )
    else:
        asr = of_metric(attack_success(predicted, evaluation.changed.labels, evaluation.target))
    return {
        "CA": of_metric(accuracy(evaluation.probe.predict(clean), evaluation.test.labels)),
        "PA": pa,
        "ASR": asr,
    }


def kept_cosine(purified: Tensor, clean: Tensor) -> Value:
    """Return CR: the mean cosine of purified features ``[N, D]`` to the clean ones of the same images."""
    cosines = torch.nn.functional.cosine_similarity(purified, clean, dim=1).double()
    mean, half = float(cosines.mean()), 1.96 * float(cosines.std()) / len(cosines) ** 0.5
    return Value(value=mean, low=mean - half, high=mean + half)
