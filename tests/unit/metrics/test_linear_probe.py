import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from platodef_cli.errors import InconclusiveError, UsageError
from platodef_cli.metrics import linear_probe
from platodef_cli.metrics.linear_probe import LinearProbe


def mixture(n, d, classes, spread, seed=0):
    """Features of Gaussian classes with very different scales per dimension."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=generator)
    labels = torch.randint(classes, (n,), generator=generator)
    scale = torch.logspace(-3, 3, d)
    x = (centres[labels] + spread * torch.randn(n, d, generator=generator)) * scale + 5 * scale
    return x, labels * 3 - 2  # labels need not be 0..C-1


def standardised(x):
    return ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()


@pytest.mark.parametrize(("n", "d"), [(300, 20), (60, 90)])
def test_weights_equal_sklearn_at_the_chosen_penalty(n, d):
    x, labels = mixture(n, d, 5, 2.0)
    probe = LinearProbe.fit(x, labels)
    reference = RidgeClassifier(alpha=probe.penalty * n).fit(standardised(x), labels.numpy())
    expected = reference.decision_function(standardised(x))
    np.testing.assert_allclose(probe.scores(x).numpy(), expected, atol=2e-3)
    assert (probe.predict(x).numpy() == reference.predict(standardised(x))).mean() > 0.99


@pytest.mark.parametrize(("n", "d"), [(80, 12), (40, 60)])
def test_penalty_has_the_best_leave_one_out_accuracy(n, d, monkeypatch):
    monkeypatch.setattr(linear_probe, "PENALTIES", (1e-3, 1e-1, 1e1))
    x, labels = mixture(n, d, 3, 4.0, seed=3)
    probe = LinearProbe.fit(x, labels)
    target = np.where(labels.numpy()[:, None] == probe.classes.numpy(), 1.0, -1.0)
    slow = {}
    for penalty in linear_probe.PENALTIES:
        # Leaving one row out keeps the penalty's absolute size, as in the closed form.
        fitted = cross_val_predict(Ridge(alpha=penalty * n), standardised(x), target, cv=LeaveOneOut())
        slow[penalty] = (probe.classes.numpy()[fitted.argmax(1)] == labels.numpy()).sum()
    assert slow[probe.penalty] == max(slow.values())


def test_accuracy_is_near_logistic_regression():
    x, labels = mixture(3000, 24, 6, 3.0, seed=1)
    train, test = slice(0, 2000), slice(2000, None)
    probe = LinearProbe.fit(x[train], labels[train])
    base = x[train].mean(0), x[train].std(0)
    scaled = ((x - base[0]) / base[1]).numpy()
    logistic = LogisticRegression(max_iter=500).fit(scaled[train], labels[train].numpy())
    expected = logistic.score(scaled[test], labels[test].numpy())
    assert probe.accuracy(x[test], labels[test]) == pytest.approx(expected, abs=0.02)


def test_held_out_rows_are_seeded(monkeypatch):
    monkeypatch.setattr(linear_probe, "_HELD_OUT", 50)
    x, labels = mixture(400, 30, 4, 6.0)
    first, again = (LinearProbe.fit(x, labels, seed=5) for _ in range(2))
    assert torch.equal(first.weight, again.weight)


def test_constant_dimensions_do_not_matter():
    x, labels = mixture(200, 8, 3, 1.0)
    wider = torch.cat([x, torch.full((200, 2), 1e6), torch.zeros(200, 1)], dim=1)
    plain, probe = LinearProbe.fit(x, labels), LinearProbe.fit(wider, labels)
    assert torch.equal(plain.predict(x), probe.predict(wider))
    assert torch.isfinite(probe.weight).all()


def test_bad_input():
    x, labels = mixture(20, 4, 2, 1.0)
    with pytest.raises(InconclusiveError, match="at least two classes, got 1"):
        LinearProbe.fit(x, torch.zeros(20, dtype=torch.int64))
    with pytest.raises(UsageError, match="finite"):
        LinearProbe.fit(x / 0, labels)
    with pytest.raises(UsageError, match="labels"):
        LinearProbe.fit(x, labels[:5])
    with pytest.raises(UsageError, match=r"\[N, 4\]"):
        LinearProbe.fit(x, labels).predict(x[:, :3])
