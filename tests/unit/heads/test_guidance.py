"""Fixed references: what is left out of a plain pass changes nothing."""

from itertools import product

import pytest
import torch
from torch import Tensor

from platodef_cli.heads.backbone import BackboneConfig
from platodef_cli.heads.closed_form import fit_closed_form
from platodef_cli.heads.denoiser import Denoiser
from platodef_cli.heads.guidance import Packed

DIM, ROWS = 12, 7
KINDS = {
    "plain": BackboneConfig(width=16, depth=3, heads=2),
    "one block": BackboneConfig(width=16, depth=1, heads=2),
    "isolated": BackboneConfig(width=16, depth=3, heads=2, isolated=True),
    "mixer": BackboneConfig(kind="mixer", width=16, depth=2),
    "resmlp": BackboneConfig(kind="resmlp", width=16, depth=2),
}


def made(kind: str, references: int, *, started: bool) -> tuple[Denoiser, list[Tensor]]:
    """Return a denoiser with random weights, its last layer included, and references of some rows."""
    torch.manual_seed(0)
    rows = [torch.randn(60, DIM) for _ in range(references)]
    source = sum(rows) / 2 + torch.randn(60, DIM)
    closed = fit_closed_form(source, rows, features=5, seed=0)[0] if started else None
    denoiser = Denoiser(DIM, [DIM] * references, KINDS[kind], closed_form=closed).double()
    for parameter in denoiser.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return denoiser.eval().requires_grad_(False), [values[:ROWS].double() for values in rows]


@pytest.mark.parametrize(("kind", "references", "started"), list(product(KINDS, (1, 2, 3), (False, True))))
def test_both_branches_are_those_of_a_plain_pass(kind: str, references: int, started: bool) -> None:
    denoiser, rows = made(kind, references, started=started)
    x, sigma = torch.randn(ROWS, DIM, dtype=torch.float64), torch.tensor(0.7)
    keep = torch.ones(ROWS, references, dtype=torch.bool)
    seen = denoiser(x, sigma, denoiser.condition(rows, keep))
    blind = denoiser(x, sigma, denoiser.condition(rows, ~keep))
    both = denoiser.fixed(rows, (True, False))
    assert isinstance(both.memory, Packed)
    assert torch.allclose(denoiser(torch.cat([x, x]), sigma, both), torch.cat([seen, blind]), atol=1e-6)
    assert torch.allclose(denoiser(x, sigma, denoiser.fixed(rows, (True,))), seen, atol=1e-6)
    assert torch.allclose(denoiser(x, sigma, denoiser.fixed(rows, (False,))), blind, atol=1e-6)
    # the references count, and so does the noise level of every row
    assert not torch.allclose(seen, blind, atol=1e-3)
    levels = torch.linspace(0.1, 2.0, ROWS, dtype=torch.float64)
    several = denoiser(x, levels, denoiser.condition(rows, keep))
    assert torch.allclose(denoiser(x, levels, denoiser.fixed(rows, (True,))), several, atol=1e-6)
    assert not torch.allclose(several, seen, atol=1e-3)
