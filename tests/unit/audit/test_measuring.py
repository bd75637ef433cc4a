"""What an audit measures besides its probes."""

from types import SimpleNamespace

import torch

from platodef_cli.audit.steps.measure import accuracies, roc_curves
from platodef_cli.audit.steps.scoring import Scored
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.progress import SILENT


def table(clean_classes, changed_classes, labels, names):
    """Features are one-hot classes, so that their argmax is the prediction."""

    def tuples(classes):
        return FeatureTuples(torch.eye(3)[classes], {"r": torch.zeros(len(classes), 2)})

    rows = torch.arange(len(labels))
    scored = Scored({}, torch.ones(len(labels), dtype=torch.bool))
    state = SimpleNamespace(
        labelled=SimpleNamespace(
            probe=SimpleNamespace(predict=lambda features: features.argmax(dim=1)),
            labels=torch.tensor(labels),
            classes=names,
        ),
        defences=SimpleNamespace(purify=lambda tuples: tuples.source, clean=scored),
        config=SimpleNamespace(purifier="mean"),
        recorder=SILENT,
        test=tuples(clean_classes),
        rows=rows,
    )
    return accuracies(state, SimpleNamespace(name="patch"), tuples(changed_classes), scored, rows)


def test_images_of_one_class_have_no_attack_success():
    assert table([0, 0, 0], [0, 0, 0], [0, 0, 0], ("a", "b", "c")) == ()


def test_the_target_is_a_class_and_not_its_name():
    found = table([0, 1, 2, 0], [2, 2, 2, 2], [0, 1, 2, 0], ("same", "b", "same"))
    assert [entry.attack_success.value for entry in found] == [1.0, 1.0, 1.0]
    assert [entry.target for entry in found] == ["same"] * 3


def test_curves_of_mismatches_and_of_the_trigger_are_told_apart():
    clean, wrong, changed = (
        Scored({"energy": torch.tensor(values)}, torch.ones(2, dtype=torch.bool))
        for values in ([0.0, 1.0], [2.0, 3.0], [0.0, 3.0])
    )
    state = SimpleNamespace(defences=SimpleNamespace(clean=clean))
    curves = roc_curves(state, wrong, SimpleNamespace(name="patch", auroc={"energy": None}), changed)
    assert [(curve.group, curve.auroc.positive, curve.auroc.value) for curve in curves] == [
        ("mismatched", "mismatched", 1.0),
        ("patch", "triggered", 0.625),  # 3 above both, 0 ties with one and is below the other
    ]
