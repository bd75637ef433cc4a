import math

import pytest
import torch
from torch import Tensor

from platodef_cli.heads.backbone import BackboneConfig
from platodef_cli.heads.closed_form import fit_closed_form
from platodef_cli.heads.energy import WIDEN, EnergyHead, OwnRow, nce_loss
from platodef_cli.heads.evaluate import auroc, contrastive_loss
from tests.gaussian_tuples import GaussianTuples

CONFIG = BackboneConfig(width=16, depth=1, heads=2)


def slow_nce(positive: list[float], negative: list[list[float]]) -> float:
    """Eq. 13, term by term."""
    total = 0.0
    for own, others in zip(positive, negative, strict=True):
        total += -math.log(1 / (1 + math.exp(-own)))
        total += sum(-math.log(1 / (1 + math.exp(other))) for other in others)
    return total / len(positive)


def test_nce_loss_equals_the_slow_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(7, generator=generator) * 3, torch.randn(7, 4, generator=generator) * 3
    assert float(nce_loss(positive, negative)) == pytest.approx(
        slow_nce(positive.tolist(), negative.tolist()), rel=1e-5
    )


def test_nce_loss_is_least_at_the_density_ratio() -> None:
    """With K negatives per positive the best logit is ln(p / q) - ln K."""
    matched, product, count = torch.tensor([0.7, 0.3]), torch.tensor([0.2, 0.8]), 3
    logits = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        expected = torch.stack(
            [
                nce_loss(logits[i : i + 1], logits[j].expand(1, count)) * matched[i] * product[j]
                for i in (0, 1)
                for j in (0, 1)
            ]
        ).sum()
        expected.backward()
        return expected

    optimizer.step(closure)
    assert torch.allclose(logits.detach(), (matched / product).log() - math.log(count), atol=1e-3)


def test_papers_logit_is_the_scaled_mean_cosine_plus_bias() -> None:
    torch.manual_seed(0)
    head = EnergyHead(6, [4, 5], CONFIG, negatives=3).eval()
    source, references = torch.randn(2, 6), [torch.randn(2, 4), torch.randn(2, 5)]
    assert head.bias.item() == pytest.approx(-math.log(3))
    assert head.log_temperature.exp().item() == pytest.approx(10.0)
    tokens = head.backbone(
        head.source_projection(source) + head.source_space,
        head.backbone.remember(head.references(references, None)),
    )
    for row in range(2):
        cosines = [torch.cosine_similarity(tokens[row, 0], tokens[row, m], dim=0).item() for m in (1, 2)]
        expected = 10.0 * sum(cosines) / 2 - math.log(3)
        assert head.logit(source, references)[row].item() == pytest.approx(expected, abs=1e-4)
        assert head.energy(source, references)[row].item() == pytest.approx(-expected, abs=1e-4)


def test_dropped_references_do_not_count() -> None:
    torch.manual_seed(0)
    head = EnergyHead(6, [4, 5], CONFIG, negatives=3).eval()
    source, first = torch.randn(3, 6), torch.randn(3, 4)
    keep = torch.tensor([[1, 0]]).expand(3, -1)
    one = head.logit(source, [first, torch.randn(3, 5)], keep)
    other = head.logit(source, [first, torch.randn(3, 5)], keep)
    assert torch.allclose(one, other, atol=1e-6)


def test_gaussian_start_adds_the_closed_forms_ratio() -> None:
    tuples = GaussianTuples(0.8).sample(300, seed=0)
    references = list(tuples.references.values())
    form, leverage = fit_closed_form(tuples.source, references, features=4, seed=0)
    torch.manual_seed(0)
    head = EnergyHead(8, [4, 4], CONFIG, negatives=2, closed_form=form).eval()
    posterior = form.posterior()
    residual = tuples.source - posterior.mean(form.lift(references))
    ratio = form.ratio(tuples.source, residual, posterior, WIDEN)
    before = head.logit(tuples.source, references)
    head.log_gaussian_scale.data.fill_(math.log(3.0))
    assert torch.allclose(head.logit(tuples.source, references) - before, 2 * ratio, atol=1e-3)


def test_own_row_replaces_the_in_sample_prediction() -> None:
    tuples = GaussianTuples(0.8).sample(60, seed=0)
    references = list(tuples.references.values())
    form, leverage = fit_closed_form(tuples.source, references, features=16, seed=0)
    own = OwnRow(tuples.source, leverage[True, True])
    mean = form.posterior().mean(form.lift(references))
    left_out = own.leave_out(mean, None)
    # leaving the row out moves the prediction away from the row
    before, after = (tuples.source - mean).norm(dim=1), (tuples.source - left_out).norm(dim=1)
    assert torch.allclose(after * (1 - leverage[True, True]), before, rtol=1e-4)
    torch.manual_seed(0)
    head = EnergyHead(8, [4, 4], CONFIG, negatives=2, closed_form=form).eval()
    assert bool(
        (head.logit(tuples.source, references, None, own) != head.logit(tuples.source, references)).all()
    )


def test_auroc_against_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    negative, positive = (torch.randint(0, 6, (n,), generator=generator).double() for n in (13, 17))
    wins = sum(float(p > n) + 0.5 * float(p == n) for p in positive for n in negative)
    assert auroc(negative, positive) == pytest.approx(wins / (13 * 17))


def test_contrastive_loss_never_exceeds_the_nce_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(50, generator=generator) * 4, torch.randn(50, 3, generator=generator) * 4
    softmax = contrastive_loss(positive, negative)
    expected = torch.nn.functional.cross_entropy(
        torch.cat([positive.unsqueeze(1), negative], dim=1), torch.zeros(50, dtype=torch.int64)
    )
    assert softmax == pytest.approx(float(expected), rel=1e-5)
    assert softmax <= float(nce_loss(positive, negative))
