import pytest
import torch

from platodef_cli.defences import make_purifier, purify_flagged
from platodef_cli.defences.diffusion import guided
from platodef_cli.defences.interface import PurifyOptions
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.heads.evaluate import gaussian_mean, one_shot_mean
from platodef_cli.heads.heads import Heads
from tests.gaussian_tuples import GaussianTuples


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_closed_forms_return_their_means(gaussian: GaussianTuples, small_heads: Heads) -> None:
    test = gaussian.sample(30, seed=5)
    invert = small_heads.source_standardiser.invert
    expected = {
        "gaussian": gaussian_mean(small_heads, test)[1],
        "mean": one_shot_mean(small_heads, test),
        "ridge": small_heads.ridge.posterior().mean(torch.cat(small_heads.standardise(test)[1], dim=1)),
    }
    for name, mean in expected.items():
        result = make_purifier(name, small_heads).purify(test, generator=seeded())
        assert torch.allclose(result, invert(mean), atol=1e-5)


def test_average_approaches_the_conditional_mean(gaussian: GaussianTuples, small_heads: Heads) -> None:
    test = gaussian.sample(60, seed=5)
    mean = gaussian.mean(dict(test.references))
    errors = {}
    for samples in (1, 25):
        result = make_purifier("average", small_heads, PurifyOptions(steps=15, samples=samples)).purify(
            test, generator=seeded()
        )
        errors[samples] = float((result - mean).square().mean())
    variance = 1 - gaussian.correlation**2
    assert errors[1] == pytest.approx(variance, rel=0.3)  # a sample scatters with the posterior variance
    assert errors[25] < variance / 8


def test_noise_start_ignores_the_source_and_source_start_does_not(
    gaussian: GaussianTuples, small_heads: Heads
) -> None:
    test = gaussian.sample(20, seed=5)
    attacked = test.with_source(test.source + 5.0)

    def run(start: str, tuples: object) -> torch.Tensor:
        purifier = make_purifier("heun", small_heads, PurifyOptions(8, start=start, sigma_start=1.0))
        return purifier.purify(tuples, generator=seeded())  # type: ignore[arg-type]

    assert torch.equal(run("noise", test), run("noise", attacked))
    kept = float((run("source", attacked) - run("source", test)).mean()) / 5.0
    variance = float(small_heads.closed_form.posterior().values.mean())
    assert kept == pytest.approx((variance / (variance + 1)) ** 0.5, rel=0.25)


def test_guidance_mixes_the_two_branches(gaussian: GaussianTuples, small_heads: Heads) -> None:
    rows = small_heads.standardise(gaussian.sample(9, seed=5))[1]
    x, sigma = torch.randn(9, 8, generator=seeded()), torch.tensor(0.7)
    with torch.no_grad():
        outputs = {w: guided(small_heads.denoiser, rows, w)(x, sigma) for w in (0.0, 1.0, 2.5)}
        nothing = small_heads.denoiser(
            x, sigma, small_heads.denoiser.condition(rows, torch.zeros(9, 2, dtype=torch.bool))
        )
    assert torch.allclose(outputs[0.0], nothing, atol=1e-5)
    expected = outputs[0.0] + 2.5 * (outputs[1.0] - outputs[0.0])
    assert torch.allclose(outputs[2.5], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("heun", {"steps": 20}, 39),
        ("heun", {"steps": 10, "guidance": 2.0}, 38),
        ("euler", {"steps": 7}, 7),
        ("dpmpp", {"steps": 7, "guidance": 0.0}, 7),
        ("average", {"steps": 5, "samples": 3}, 15),
        ("langevin", {"steps": 4}, 21),
        ("mean", {}, 1),
        ("ridge", {}, 0),
        ("gaussian", {}, 0),
    ],
)
def test_evaluations_are_reported(
    name: str, options: dict[str, float], expected: int, small_heads: Heads
) -> None:
    assert make_purifier(name, small_heads, PurifyOptions(**options)).evaluations == expected  # type: ignore[arg-type]


def test_only_flagged_rows_change(gaussian: GaussianTuples, small_heads: Heads) -> None:
    test = gaussian.sample(10, seed=5)
    flagged = torch.zeros(10, dtype=torch.bool)
    flagged[[2, 7]] = True
    purifier = make_purifier("mean", small_heads)
    result = purify_flagged(purifier, test, flagged, seeded())
    whole = purifier.purify(test, generator=seeded())
    assert torch.equal(result[~flagged], test.source[~flagged])
    assert torch.allclose(result[flagged], whole[flagged], atol=1e-5)
    assert torch.equal(
        purify_flagged(purifier, test, torch.zeros(10, dtype=torch.bool), seeded()), test.source
    )
    with pytest.raises(UsageError, match="boolean mask of 10 entries"):
        purify_flagged(purifier, test, torch.ones(9, dtype=torch.bool), seeded())
    with pytest.raises(UsageError, match="int64"):
        purify_flagged(purifier, test, torch.ones(10, dtype=torch.int64), seeded())


def test_wrong_options_are_refused(small_heads: Heads) -> None:
    with pytest.raises(UnknownNameError, match="unknown purifier 'hoin'"):
        make_purifier("hoin", small_heads)
    with pytest.raises(UsageError, match="at least 1"):
        PurifyOptions(steps=0)
    with pytest.raises(UsageError, match="guidance"):
        PurifyOptions(guidance=-1.0)
    with pytest.raises(UnknownNameError, match="unknown start"):
        PurifyOptions(start="middle")
    with pytest.raises(UsageError, match="sigma_start"):
        PurifyOptions(sigma_start=0.0)
    with pytest.raises(UsageError, match="ignores the source"):
        make_purifier("mean", small_heads, PurifyOptions(start="source"))
