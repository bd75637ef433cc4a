"""Folded scores are those of the definition, for every subset of the references."""

from dataclasses import replace

import pytest
import torch

from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.config import FitConfig
from platodef_cli.heads.energy import WIDEN
from platodef_cli.heads.evaluate import closed_scores, gaussian_scores, robust_scores
from platodef_cli.heads.fit import fit_heads
from platodef_cli.heads.folded import ROWS
from platodef_cli.heads.heads import Heads


def tuples(count: int, references: int, seed: int = 0) -> FeatureTuples:
    """Return features far from zero, of unlike lengths and scales."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.Generator().manual_seed(99)
    shared = torch.randn(count, 6, generator=generator)

    def space(width: int, scale: float) -> torch.Tensor:
        mixed = shared @ torch.randn(6, width, generator=maps)
        return scale * (5 + mixed + 0.3 * torch.randn(count, width, generator=generator))

    source = space(9, 2.0)
    return FeatureTuples(source, {f"r{n}": space(7 + n, 10.0**n) for n in range(references)})


def defined(heads: Heads, rows: FeatureTuples, names: list[str] | None) -> torch.Tensor:
    """Return the density ratio step by step: standardise, lift, conditional mean, whitening."""
    source, references = heads.standardise(rows)
    posterior = heads.closed_form.posterior(heads.keep_of(names))
    residual = source - posterior.mean(heads.closed_form.lift(references))
    return -heads.closed_form.ratio(source, residual, posterior, WIDEN)


@pytest.mark.parametrize("references", [1, 2, 3, 4])
def test_they_are_those_of_the_definition(references: int) -> None:
    heads = fit_heads(tuples(400, references), FitConfig(lift_features=16))
    rows = tuples(ROWS + 3, references, seed=1)
    names = list(heads.reference_names)
    subsets = [names, names[:1], names[1:] or names, names[-1:]]
    found = heads.closed_energies_of(rows, subsets)
    for number, subset in enumerate(subsets):
        expected = defined(heads, rows, subset)
        assert torch.allclose(found[:, number].float(), expected, rtol=1e-4, atol=1e-3)
        assert torch.allclose(heads.closed_energies(rows, references=subset), found[:, number], atol=1e-3)
    together = closed_scores(heads, rows)
    assert torch.allclose(together["gaussian"], gaussian_scores(heads, rows), atol=1e-3)
    assert torch.equal(together["robust"], robust_scores(heads, rows))
    least = [defined(heads, rows, [n for n in names if n != left] or names) for left in names]
    assert torch.allclose(together["robust"].float(), torch.stack(least).amin(dim=0), rtol=1e-4, atol=1e-3)
    # a copy with other statistics folds anew
    moved = replace(heads, source_standardiser=replace(heads.source_standardiser, mean=torch.zeros(9)))
    assert not torch.allclose(moved.closed_energies(rows), found[:, 0], atol=1.0)


def test_no_rows_have_no_scores() -> None:
    heads = fit_heads(tuples(100, 2), FitConfig(lift_features=4))
    assert heads.closed_energies_of(tuples(0, 2), [None, ["r0"]]).shape == (0, 2)
