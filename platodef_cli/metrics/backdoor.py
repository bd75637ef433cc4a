"""What a backdoor does to a classifier of the features: CA, PA, ASR and concentration.

Success is counted on images that are *not* of the target class: target images that stay where they
belong would lift a clean encoder's rate. Predictions and labels are int64 ``[N]``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from platodef_cli.errors import UsageError
from platodef_cli.metrics.binomial import rate_metric
from platodef_cli.records import Direction, Metric, ProbeAccuracy


def accuracy(
    predictions: Tensor, labels: Tensor, *, name: str = "clean_accuracy", level: float = 0.95
) -> Metric:
    """Return the share of correct predictions: CA on clean images, PA on triggered ones."""
    _check(predictions, labels)
    correct = int((predictions == labels).sum())
    return rate_metric(
        correct, len(labels), level, name=name, positive="correct", direction="higher is better"
    )


def attack_success(
    predictions: Tensor, labels: Tensor, target: int, *, name: str = "attack_success", level: float = 0.95
) -> Metric:
    """Return the ASR: the share of non-target images that are predicted as ``target``.

    On clean images, or with a clean encoder, the same function gives the baseline rate that an ASR
    has to be read against. The value is None where every image is of the target class.
    """
    _check(predictions, labels)
    others = labels != target
    hits = int((predictions[others] == target).sum())
    direction: Direction = "higher is more suspicious"
    return rate_metric(
        hits, int(others.sum()), level, name=name, positive="predicted as target", direction=direction
    )


def concentration(
    predictions: Tensor, labels: Tensor, *, name: str = "concentration", level: float = 0.95
) -> tuple[Metric, int | None]:
    """Return the largest ASR over all classes, and that class: the ASR of an unknown target.

    Being the best of C classes, its interval is the simultaneous one (Bonferroni, level
    ``1 - (1 - level) / C``), so that a maximum over many classes is not taken for a finding.

    Returns:
        The metric and the class; the class is None where no class has an image outside it.
    """
    _check(predictions, labels)
    classes = torch.unique(torch.cat([predictions, labels]))
    rates = [(attack_success(predictions, labels, int(c)), int(c)) for c in classes]
    usable = [(metric.value, -c) for metric, c in rates if metric.value is not None]
    if not usable:
        return rate_metric(0, 0, level, name=name), None
    target = -max(usable)[1]  # the smallest class among equals
    simultaneous = 1 - (1 - level) / len(classes)
    return attack_success(predictions, labels, target, name=name, level=simultaneous), target


def probe_accuracy(
    *,
    defence: str,
    trigger: str,
    clean_predictions: Tensor,
    triggered_predictions: Tensor,
    clean_labels: Tensor,
    triggered_labels: Tensor,
    target: int | None = None,
    baseline_predictions: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    level: float = 0.95,
) -> ProbeAccuracy:
    """Return CA, PA, ASR and the baseline rate of one way to use the features.

    Args:
        defence: "none", or what was done to the features.
        trigger: Name of the trigger.
        clean_predictions: ``[N]`` on the clean images.
        triggered_predictions: ``[T]`` on the triggered images.
        clean_labels: ``[N]``.
        triggered_labels: ``[T]``.
        target: The attack's target class; None takes the class that the triggered predictions
            concentrate on.
        baseline_predictions: ``[N]``, a clean encoder's predictions on the clean images; None takes
            ``clean_predictions``.
        class_names: Names by label.
        level: Confidence level.

    Raises:
        UsageError: Shapes do not match.
    """
    if target is None:
        target = concentration(triggered_predictions, triggered_labels)[1]
    if target is None:
        raise UsageError(f"no class of {trigger!r} has an image outside it; give images of two classes")
    baseline = clean_predictions if baseline_predictions is None else baseline_predictions
    named = class_names is not None and 0 <= target < len(class_names)
    return ProbeAccuracy(
        defence=defence,
        trigger=trigger,
        clean_accuracy=accuracy(clean_predictions, clean_labels, level=level),
        poisoned_accuracy=accuracy(
            triggered_predictions, triggered_labels, name="poisoned_accuracy", level=level
        ),
        attack_success=attack_success(triggered_predictions, triggered_labels, target, level=level),
        baseline_success=attack_success(baseline, clean_labels, target, name="baseline_success", level=level),
        target=class_names[target] if named and class_names is not None else str(target),
    )


def _check(predictions: Tensor, labels: Tensor) -> None:
    if predictions.ndim != 1 or predictions.shape != labels.shape:
        raise UsageError(
            f"predictions and labels must both be [N], got {list(predictions.shape)} and {list(labels.shape)}"
        )
