import pytest
import torch

from platodef_cli.errors import UsageError
from platodef_cli.metrics.backdoor import accuracy, attack_success, concentration, probe_accuracy

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2])
CLEAN = torch.tensor([0, 1, 1, 1, 2, 2, 0, 2])
TRIGGERED = torch.tensor([2, 2, 2, 1, 2, 2, 0, 2])


def test_accuracies_by_hand():
    assert accuracy(CLEAN, LABELS).value == 6 / 8
    assert accuracy(TRIGGERED, LABELS, name="poisoned_accuracy").value == 4 / 8


def test_success_is_counted_on_non_target_images_only():
    metric = attack_success(TRIGGERED, LABELS, 2)
    assert (metric.value, metric.n_positive, metric.n_negative) == (3 / 4, 3, 1)
    # A perfect classifier of target images alone has no success to count.
    assert attack_success(LABELS[4:], LABELS[4:], 2).value is None


def test_concentration_finds_the_target_with_a_wider_interval():
    metric, target = concentration(TRIGGERED, LABELS)
    assert (metric.value, target) == (3 / 4, 2)
    plain = attack_success(TRIGGERED, LABELS, 2)
    assert metric.interval.level == pytest.approx(1 - 0.05 / 3)
    assert metric.interval.low < plain.interval.low


def test_concentration_ignores_an_unbalanced_label_distribution():
    labels = torch.tensor([7] * 95 + [1] * 5)
    metric, _ = concentration(labels, labels)
    assert metric.value == 0


def test_concentration_without_other_classes():
    metric, target = concentration(torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    assert metric.value is None
    assert target is None


def test_probe_accuracy_collects_everything():
    record = probe_accuracy(
        defence="none",
        trigger="patch",
        clean_predictions=CLEAN,
        triggered_predictions=TRIGGERED,
        clean_labels=LABELS,
        triggered_labels=LABELS,
        class_names=("cat", "dog", "truck"),
    )
    assert record.target == "truck"
    assert record.clean_accuracy.value == 6 / 8
    assert record.poisoned_accuracy.value == 4 / 8
    assert record.attack_success.value == 3 / 4
    assert record.baseline_success.value == 0
    assert record.poisoned_accuracy.name == "poisoned_accuracy"


def test_shapes_must_match():
    with pytest.raises(UsageError, match=r"\[8\] and \[3\]"):
        accuracy(CLEAN, LABELS[:3])
