import math

import pytest
import torch
from torch import Tensor

from platodef_cli.heads.backbone import BackboneConfig
from platodef_cli.heads.closed_form import fit_closed_form
from platodef_cli.heads.denoiser import Denoiser, NoiseEmbedding, denoising_loss, log_uniform
from tests.gaussian_tuples import GaussianTuples

CONFIG = BackboneConfig(width=16, depth=1, heads=2)


def paper_denoiser(**changes: object) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(3, [4, 5], BackboneConfig(width=16, depth=1, heads=2, **changes)).eval()  # type: ignore[arg-type]


def references(batch: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(batch, 4, generator=generator), torch.randn(batch, 5, generator=generator)]


@pytest.mark.parametrize("sigma", [0.002, 0.05, 0.5, 1.0, 7.0, 80.0])
def test_zero_initialised_loss_is_exactly_one_at_every_sigma(sigma: float) -> None:
    # signals and noises of unit power that are orthogonal on the sample, so that no average is needed
    clean = torch.tensor([1.0, 1.0, -1.0, -1.0]).unsqueeze(1).expand(-1, 3)
    noise = torch.tensor([1.0, -1.0, 1.0, -1.0]).unsqueeze(1).expand(-1, 3)
    head, level = paper_denoiser(), torch.full((4,), sigma)
    with torch.no_grad():
        denoised = head(clean + sigma * noise, level, head.condition(references(4)))
    # float32 holds x = s + 80 n to about 1e-5
    assert float(denoising_loss(denoised.double(), clean.double(), level.double()).mean()) == pytest.approx(
        1.0, abs=5e-4 if sigma > 0.01 else 2e-2
    )


def test_fresh_denoiser_is_the_skip_connection() -> None:
    head, x = paper_denoiser(), torch.randn(4, 3)
    sigma = torch.tensor([0.1, 1.0, 3.0, 80.0])
    found = head(x, sigma, head.condition(references(4)))
    assert torch.allclose(found, x / (1 + sigma.square()).unsqueeze(1))


def test_coefficients_of_equations_5_and_6() -> None:
    head, x, sigma = paper_denoiser(), torch.randn(4, 3), torch.tensor([0.1, 1.0, 3.0, 20.0])
    torch.nn.init.normal_(head.readout[-1].weight)  # type: ignore[arg-type]
    condition = head.condition(references(4))
    level = sigma.unsqueeze(1)
    c_skip, c_out = 1 / (level**2 + 1), level / (level**2 + 1).sqrt()
    raw = head.network(x / (level**2 + 1).sqrt(), sigma, condition.memory)
    assert torch.allclose(head(x, sigma, condition), c_skip * x + c_out * raw, atol=1e-5)


def test_noise_embedding_has_128_fourier_channels_of_a_quarter_log_sigma() -> None:
    embedding = NoiseEmbedding(8)
    embedding.mlp = torch.nn.Identity()  # type: ignore[assignment]
    found = embedding(torch.tensor([2.0]))[0]
    assert found.shape == (128,)
    angle = math.log(2.0) / 4 * float(embedding.frequencies[10])
    assert float(found[10]) == pytest.approx(math.cos(angle), abs=1e-5)
    assert float(found[74]) == pytest.approx(math.sin(angle), abs=1e-5)


def test_gaussian_start_is_the_optimal_denoiser_of_its_gaussian() -> None:
    gaussian = GaussianTuples(0.9)
    tuples = gaussian.sample(500, seed=0)
    views = list(tuples.references.values())
    form, _ = fit_closed_form(tuples.source, views, features=0, seed=0)
    torch.manual_seed(0)
    head = Denoiser(8, [4, 4], CONFIG, closed_form=form).eval()
    sigma = torch.linspace(0.01, 10, 500)
    noise = torch.randn(500, 8, generator=torch.Generator().manual_seed(1))
    x = tuples.source + sigma.unsqueeze(1) * noise
    with torch.no_grad():
        found = head(x, sigma, head.condition(views))
    expected = form.posterior().denoise(x, sigma, form.lift(views))
    assert torch.allclose(found, expected, atol=1e-4)


def test_identity_posterior_reduces_to_the_papers_coefficients() -> None:
    """Unpredictable unit-variance sources make the closed form N(0, I): EDM's own preconditioning."""
    generator = torch.Generator().manual_seed(0)
    source = torch.linalg.qr(torch.randn(400, 3, generator=generator)).Q * 20.0  # second moment is I
    views = references(400)
    form, _ = fit_closed_form(source, views, features=0, seed=0)
    for part in ("posterior_3_weights", "posterior_3_values"):
        form.get_buffer(part).copy_(torch.full_like(form.get_buffer(part), float(part.endswith("values"))))
    torch.manual_seed(0)
    with_form = Denoiser(3, [4, 5], CONFIG, closed_form=form).eval()
    plain = Denoiser(3, [4, 5], CONFIG).eval()
    plain.load_state_dict(with_form.state_dict())
    torch.nn.init.normal_(with_form.readout[-1].weight)  # type: ignore[arg-type]
    plain.readout.load_state_dict(with_form.readout.state_dict())
    x, sigma = torch.randn(400, 3, generator=generator), torch.linspace(0.1, 20, 400)
    with torch.no_grad():
        expected = plain(x, sigma, plain.condition(views))
        assert torch.allclose(with_form(x, sigma, with_form.condition(views)), expected, atol=1e-4)


def test_zeroed_references_do_not_matter() -> None:
    head = paper_denoiser()
    torch.nn.init.normal_(head.readout[-1].weight)  # type: ignore[arg-type]
    x, keep = torch.randn(4, 3), torch.zeros(4, 2)
    one = head(x, torch.tensor(1.0), head.condition(references(4), keep))
    other = head(x, torch.tensor(1.0), head.condition([values + 1 for values in references(4)], keep))
    assert torch.equal(one, other)


def test_isolated_condition_is_reused_across_evaluations() -> None:
    head = paper_denoiser(isolated=True)
    torch.nn.init.normal_(head.readout[-1].weight)  # type: ignore[arg-type]
    condition = head.condition(references(4))
    assert len(condition.memory.layers) == 1
    x = torch.randn(4, 3)
    fresh = head(x, torch.tensor(0.5), head.condition(references(4)))
    head(torch.randn(4, 3), torch.tensor(2.0), condition)
    assert torch.equal(head(x, torch.tensor(0.5), condition), fresh)


def test_noise_levels_are_log_uniform() -> None:
    levels = log_uniform(100_000, 0.002, 80.0, torch.Generator().manual_seed(0))
    assert 0.002 <= float(levels.min()) < 0.0021
    assert 79.0 < float(levels.max()) <= 80.001
    quantiles = levels.log().quantile(torch.tensor([0.25, 0.5, 0.75]))
    expected = math.log(0.002) + torch.tensor([0.25, 0.5, 0.75]) * math.log(40_000)
    assert torch.allclose(quantiles, expected, atol=0.05)
