import pytest
import torch

from platodef_cli.errors import UsageError
from platodef_cli.heads.closed_form import (
    ClosedForm,
    fit_closed_form,
    fit_lift,
    pick,
    prepared_subsets,
    restore_closed_form,
    spread,
)
from platodef_cli.heads.ridge import fit_ridge
from tests.gaussian_tuples import GaussianTuples


def make(features: int = 16, count: int = 400) -> tuple[ClosedForm, dict[tuple[bool, ...], torch.Tensor]]:
    tuples = GaussianTuples(0.8).sample(count, seed=0)
    return fit_closed_form(tuples.source, list(tuples.references.values()), features=features, seed=4)


def test_without_features_it_is_the_ridge() -> None:
    tuples = GaussianTuples(0.8).sample(400, seed=0)
    references = list(tuples.references.values())
    form, _ = fit_closed_form(tuples.source, references, features=0, seed=0)
    scaled = [(values - values.mean(dim=0)) / values.std(dim=0) for values in references]
    expected = fit_ridge(tuples.source, scaled).posterior().mean(torch.cat(scaled, dim=1))
    assert torch.allclose(form.posterior().mean(form.lift(references)), expected, atol=1e-5)


def test_random_features_explain_what_a_linear_map_cannot() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(3000, 3, generator=generator)
    source = reference.abs() - reference.abs().mean(dim=0)  # uncorrelated with the reference
    errors = []
    for features in (0, 256):
        form, _ = fit_closed_form(source[:2000], [reference[:2000]], features=features, seed=0)
        predicted = form.posterior().mean(form.lift([reference[2000:]]))
        errors.append(float((source[2000:] - predicted).square().mean() / source[2000:].square().mean()))
    assert errors[0] > 0.98
    assert errors[1] < 0.1


def test_lift_is_standardised_relu_features() -> None:
    values = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    lift = fit_lift(values, 10, torch.Generator().manual_seed(1))
    lifted = lift.apply(values)
    assert torch.allclose(lifted.mean(dim=0), torch.zeros(14), atol=1e-5)
    assert torch.allclose(lifted.std(dim=0), torch.ones(14), atol=1e-4)
    row = torch.relu(values[7] @ lift.directions + lift.offsets)
    assert torch.allclose(lifted[7, 4:] * lift.std[4:] + lift.mean[4:], row, atol=1e-5)


def test_leverage_leaves_a_row_out() -> None:
    tuples = GaussianTuples(0.8).sample(120, seed=0)
    references = list(tuples.references.values())
    form, leverage = fit_closed_form(tuples.source, references, features=8, seed=4)
    lifted, posterior = form.lift(references), form.posterior()
    share = leverage[True, True].unsqueeze(1)
    found = (posterior.mean(lifted) - share * tuples.source) / (1 - share)
    for row in (0, 50):
        rest = torch.arange(120) != row
        kept = lifted[rest].double()
        gram = kept.T @ kept + posterior.penalty * 120 * torch.eye(kept.shape[1])
        weights = torch.linalg.solve(gram, kept.T @ tuples.source[rest].double())
        assert torch.allclose(found[row].double(), lifted[row].double() @ weights, atol=1e-3)


def test_widened_ratio_differs_by_the_marginal_only() -> None:
    form, _ = make()
    tuples = GaussianTuples(0.8).sample(50, seed=1)
    posterior = form.posterior()
    residual = tuples.source - posterior.mean(form.lift(list(tuples.references.values())))
    plain = form.ratio(tuples.source, residual, posterior, 1.0)
    wide = form.ratio(tuples.source, residual, posterior, 2.0)
    length = form.marginal().mahalanobis(tuples.source)
    expected = 0.5 * (8 * torch.log(torch.tensor(2.0)) - length / 2)
    assert torch.allclose(wide - plain, expected, atol=1e-3)


def test_mixed_subsets_give_every_row_its_own_posterior() -> None:
    form, _ = make()
    tuples = GaussianTuples(0.8).sample(6, seed=1)
    lifted = form.lift(list(tuples.references.values()))
    keep = torch.tensor([[1, 1], [1, 0], [0, 0], [1, 1], [0, 1], [1, 0]])
    groups = form.groups(6, keep)
    found = spread(groups, [posterior.mean(pick(rows, lifted)) for rows, posterior in groups])
    for row, mask in enumerate(keep.tolist()):
        expected = form.posterior(mask).mean(lifted[row : row + 1])[0]
        assert torch.allclose(found[row], expected, atol=1e-6)
    assert not found[2].any()  # without references the mean is the marginal's


@pytest.mark.parametrize(("references", "expected"), [(1, 2), (2, 4), (3, 8), (4, 10), (6, 14)])
def test_prepared_subsets(references: int, expected: int) -> None:
    masks = prepared_subsets(references)
    assert len(masks) == len(set(masks)) == expected
    assert (True,) * references in masks
    assert (False,) * references in masks


def test_unprepared_subset_is_refused() -> None:
    form, _ = make()
    with pytest.raises(UsageError, match=r"subset \[0, 1\]"):
        form.posterior((True, True, False))


def test_restore_round_trip_and_damage() -> None:
    form, _ = make(features=5)
    tensors = form.tensors()
    again = restore_closed_form(tensors, [4, 4], 8, 5)
    assert all(torch.equal(value, again.tensors()[name]) for name, value in tensors.items())
    with pytest.raises(UsageError, match="lift_0_directions.*expected"):
        restore_closed_form(tensors, [4, 4], 8, 6)
    with pytest.raises(UsageError, match="missing"):
        restore_closed_form({k: v for k, v in tensors.items() if k != "lift_1_std"}, [4, 4], 8, 5)
    with pytest.raises(UsageError, match="unexpected closed-form tensor 'extra'"):
        restore_closed_form(tensors | {"extra": torch.zeros(1)}, [4, 4], 8, 5)
