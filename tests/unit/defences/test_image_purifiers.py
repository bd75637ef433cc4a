"""ZIP's range constraint and analytic limit, DeDe's optimiser, the diffusion models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from platodef_cli.defences import make_purifier
from platodef_cli.defences.interface import PurifyOptions
from platodef_cli.defences.zip import (
    PipelineDiffusion,
    ZipPurifier,
    ddim_times,
    fit_small_diffusion,
    grey,
    pooled,
)
from platodef_cli.errors import NotApplicable, UsageError
from platodef_cli.heads.heads import Heads
from tests.toy_model import ToyModel, pictures, samples, triggered


class Certain:
    """The exact diffusion model of data that hold one picture only."""

    size = (16, 16)
    retained = (1.0 - torch.linspace(1e-4, 0.02, 1000)).cumprod(dim=0)

    def __init__(self, picture: Tensor):
        self.picture = picture

    def noise(self, x: Tensor, time: int) -> Tensor:
        share = self.retained[time]
        return (x - share.sqrt() * self.picture) / (1 - share).sqrt()


def zipped(heads: Heads, operator: str, diffusion: Any) -> ZipPurifier:
    bank = samples(ToyModel(), pictures(70, 1))
    purifier = make_purifier(
        "zip",
        heads,
        PurifyOptions(operator=operator, steps=20),
        clean=bank,
        model=ToyModel(),
        diffusion=diffusion,
    )
    assert isinstance(purifier, ZipPurifier)
    return purifier


@pytest.mark.parametrize(("operator", "project"), [("grey", grey), ("pool", pooled)])
def test_zip_keeps_the_range_and_takes_the_rest_from_the_model(
    operator: str, project: Any, small_heads: Heads
) -> None:
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8
    purifier = zipped(small_heads, operator, Certain(picture))
    images = triggered(pictures(6, 2))
    result = purifier.redraw(images, generator=torch.Generator().manual_seed(0))
    observed = images.float() / 127.5 - 1
    torch.testing.assert_close(project(result), project(observed), atol=1e-5, rtol=1e-5)
    expected = project(observed) + picture - project(picture)
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=1e-3)
    assert purifier.evaluations == 20


@pytest.mark.parametrize("project", [grey, pooled])
def test_projections_are_projections(project: Any) -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(project(project(x)), project(x))


def test_zip_keeps_the_range_with_a_trained_model_and_follows_its_seed(small_heads: Heads) -> None:
    images = pictures(80, 3)
    model = fit_small_diffusion(images, steps=3)
    again = fit_small_diffusion(images, steps=3)
    purifier = zipped(small_heads, "pool", model)
    result = purifier.redraw(images[:4], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pooled(result), pooled(images[:4].float() / 127.5 - 1), atol=1e-5, rtol=1e-5)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.noise(x, 500), again.noise(x, 500))


def test_zip_refuses_what_does_not_fit(small_heads: Heads) -> None:
    wrong = Certain(torch.zeros(1, 3, 32, 32))
    wrong.size = (32, 32)
    with pytest.raises(NotApplicable, match="draws 32x32 pixels, the encoder takes 16x16"):
        zipped(small_heads, "pool", wrong)
    with pytest.raises(NotApplicable, match="224x224 pixels need a real diffusion model"):
        fit_small_diffusion(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    with pytest.raises(UsageError, match="unknown operator 'blur'.*grey, pool"):
        zipped(small_heads, "blur", None)


def test_times_start_at_the_end_and_stop_at_zero() -> None:
    times = ddim_times(20, 1000)
    assert (times[0], times[-1], len(times)) == (999, 0, 20)
    assert list(times) == sorted(times, reverse=True)


def test_a_pipeline_of_diffusers_from_a_folder(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    network = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    scheduler = diffusers.DDPMScheduler()
    diffusers.DDPMPipeline(network, scheduler).save_pretrained(tmp_path / "pipe")
    result = PipelineDiffusion(tmp_path / "pipe")
    assert result.size == (16, 16)
    torch.testing.assert_close(result.retained, scheduler.alphas_cumprod)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(result.noise(x, 7), network.eval()(x, 7).sample)
    with pytest.raises(UsageError, match=r"lacks unet/config\.json"):
        PipelineDiffusion(tmp_path)
    (tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UsageError, match="not an unconditional pipeline in safetensors"):
        PipelineDiffusion(tmp_path / "pipe")


@pytest.mark.usefixtures("small_decoder")
def test_dede_moves_every_feature_by_at_most_its_rate_and_alone(small_heads: Heads) -> None:
    bank = samples(ToyModel(), pictures(70, 1))
    purifier = make_purifier(
        "dede", small_heads, PurifyOptions(steps=3, rate=0.1), clean=bank, model=ToyModel()
    )
    test = samples(ToyModel(), pictures(9, 2))
    whole = purifier.purify(test, generator=torch.Generator().manual_seed(0))
    alone = purifier.purify(test.select(torch.tensor([4])), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole[4:5], alone, atol=1e-5, rtol=1e-4)
    moved = (whole - test.source) / small_heads.source_standardiser.std
    assert 0 < float(moved.abs().max()) <= 0.31  # Adam's step is at most its rate
    assert purifier.evaluations == 3
