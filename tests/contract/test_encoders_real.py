"""The real encoders beside the checkout: every one opens, isolated and not, with the same features."""

from pathlib import Path

import pytest
import torch

from platodef_cli.encoders.load import open_encoder

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "encoders"
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir()) if FOLDER.is_dir() else []


QUICK = ("ref-vit", "suspect-a")


@pytest.mark.skipif(not NAMES, reason="shared/encoders is not beside this checkout")
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES or ["none"]]
)
def test_isolated_and_local_features_are_equal_bit_for_bit(name: str) -> None:
    pixels = torch.randint(
        0, 256, (16, 3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8
    )
    with (
        open_encoder(str(FOLDER / name)) as here,
        open_encoder(str(FOLDER / name), isolate=True) as there,
    ):
        assert there.record == here.record.model_copy(update={"isolated": True})
        assert torch.equal(there.embed(pixels), here.embed(pixels))
        mine = (pixels.float() / 255).requires_grad_()
        theirs = mine.detach().clone().requires_grad_()
        here.differentiable(mine).square().sum().backward()
        there.differentiable(theirs).square().sum().backward()
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.equal(mine.grad, theirs.grad)
        assert float(mine.grad.abs().sum()) > 0
