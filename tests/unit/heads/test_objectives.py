import pytest
import torch
from torch import Tensor

from platodef_cli.heads.closed_form import fit_closed_form
from platodef_cli.heads.denoiser import Denoiser
from platodef_cli.heads.energy import EnergyHead
from platodef_cli.heads.mismatch import KINDS, MismatchConfig, MismatchSampler
from platodef_cli.heads.objectives import COLLAPSE_SHARE, DenoiserObjective, EnergyObjective, Rows, drop_some
from tests.gaussian_tuples import GaussianTuples

WEIGHTS = dict.fromkeys(KINDS, 0.0)


class Recorder(EnergyHead):
    """Keeps what it was asked and answers with a known function of it."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.asked: list[tuple[Tensor, list[Tensor], Tensor | None, Tensor | None]] = []

    def logit(self, source, references, keep=None, own=None):  # type: ignore[no-untyped-def]
        self.asked.append((source, list(references), keep, None if own is None else own.leverage))
        return source[:, 0] - references[0][:, 0]


def rows(count: int = 40, centres: bool = False) -> Rows:
    """Row i holds the value i in every space, so that a value tells where it comes from."""
    values = torch.arange(float(count)).unsqueeze(1)
    leverage = dict.fromkeys(((True, True), (True, False), (False, True)), values[:, 0] / 100)
    return Rows(values, [values.clone(), values.clone()], leverage, values + 1000 if centres else None)


def objective(data: Rows, **weights: float) -> tuple[EnergyObjective, Recorder]:
    config = MismatchConfig(negatives=2, queue=0, **(WEIGHTS | weights))
    module = Recorder()
    sampler = MismatchSampler(config, 2)
    return EnergyObjective(module, data, data, sampler, sampler, 0.0), module


def test_first_tuple_is_matched_and_the_loss_is_eq_13() -> None:
    built, module = objective(rows(), source=1.0)
    batch = torch.arange(10, 30)
    loss = built.loss(batch, torch.Generator().manual_seed(0))
    source, references, _, _ = module.asked[0]
    grid = source.reshape(20, 3)
    assert torch.equal(grid[:, 0], batch.float())
    assert torch.equal(references[0].reshape(20, 3), batch.float().unsqueeze(1).expand(-1, 3))
    assert not bool((grid[:, 1:] == batch.unsqueeze(1)).any())
    difference = grid - batch.unsqueeze(1)
    expected = torch.nn.functional.softplus(-difference[:, 0]).mean()
    expected = expected + torch.nn.functional.softplus(difference[:, 1:]).sum(dim=1).mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_only_references_of_one_image_are_left_out() -> None:
    built, module = objective(rows(), full=1.0)
    built.loss(torch.arange(10, 30), torch.Generator().manual_seed(0))
    leverage = module.asked[0][3]
    assert leverage is not None
    grid = leverage.reshape(20, 3)
    assert torch.allclose(grid[:, 0], torch.arange(10, 30) / 100)
    assert not grid[:, 1:].any()


def test_collapsed_sources_move_towards_their_centre() -> None:
    built, module = objective(rows(centres=True), collapsed=1.0)
    batch = torch.arange(0, 20)
    built.loss(batch, torch.Generator().manual_seed(0))
    grid = module.asked[0][0].reshape(20, 3)
    assert torch.equal(grid[:, 0], batch.float())
    # centres lie at 1000..1039, so the value tells the share of the way that was gone
    share = (grid[:, 1:] - batch.unsqueeze(1)) / (1020 - batch.unsqueeze(1))
    assert bool((share > COLLAPSE_SHARE[0] - 0.02).all())
    assert bool((share < COLLAPSE_SHARE[1] + 0.02).all())


def test_dropped_subsets_are_proper_and_prepared() -> None:
    keep = drop_some(4000, 3, 0.25, torch.Generator().manual_seed(0))
    assert keep is not None
    kept = keep.sum(dim=1)
    assert set(kept.tolist()) == {1, 2, 3}
    assert float((kept < 3).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert drop_some(10, 3, 0.0, torch.Generator()) is None
    assert drop_some(10, 1, 0.5, torch.Generator()) is None


def test_leverage_follows_the_kept_subset() -> None:
    data = rows(5)
    data.leverage = {mask: torch.full((5,), float(n)) for n, mask in enumerate(data.leverage)}
    own = data.own(torch.tensor([0, 1, 2]), torch.tensor([[1, 1], [0, 1], [1, 0]]))
    assert own is not None
    assert own.leverage.tolist() == [0.0, 2.0, 1.0]
    assert own.source.flatten().tolist() == [0.0, 1.0, 2.0]


def test_denoiser_drops_references_at_the_stated_rate() -> None:
    tuples = GaussianTuples(0.8).sample(3000, seed=0)
    views = list(tuples.references.values())
    form, leverage = fit_closed_form(tuples.source, views, features=0, seed=0)
    seen: list[Tensor] = []

    class Spy(Denoiser):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def condition(self, references, keep=None, own=None):  # type: ignore[no-untyped-def]
            seen.append(keep)
            return None

        def forward(self, x, sigma, condition):  # type: ignore[no-untyped-def]
            return x

    data = Rows(tuples.source, views, leverage)
    built = DenoiserObjective(Spy(), data, data, (0.02, 80.0), 0.1, 0.2)
    built.loss(torch.arange(3000), torch.Generator().manual_seed(0))
    kept = seen[0].sum(dim=1)
    assert float((kept == 0).double().mean()) == pytest.approx(0.1, abs=0.02)
    assert float((kept == 1).double().mean()) == pytest.approx(0.9 * 0.2, abs=0.03)
