import pytest
import torch

from platodef_cli.errors import UsageError
from platodef_cli.triggers.generator import Generated, Generator


@pytest.fixture(scope="module")
def weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Generator(8).state_dict()


def pictures(size: int, count: int = 6) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )


@pytest.mark.parametrize("size", [32, 48, 224])
def test_changes_are_bounded_depend_on_the_image_and_not_on_the_batch(weights, size):
    trigger = Generated(weights, eps=8.0, side=32)
    pixels = pictures(size, 4)
    before = pixels.clone()
    out = trigger(pixels, torch.arange(4))
    change = out.int() - pixels.int()
    assert torch.equal(pixels, before)
    assert change.abs().max() == 8
    assert change.abs().float().mean() > 1
    free = (pixels > 8) & (pixels < 247)
    assert not torch.equal(change[0][free[0] & free[1]], change[1][free[0] & free[1]])
    assert torch.equal(trigger(pixels.flip(0), torch.arange(4)).flip(0), out)
    assert torch.equal(trigger(pixels[2:3], torch.arange(1)), out[2:3])
    assert trigger(pixels[:0], torch.arange(0)).shape == (0, 3, size, size)


@pytest.mark.parametrize("shift", [0.0, 100.0, -1e4])
def test_no_weights_make_it_a_tint(weights, shift):
    generator = Generator(8)
    generator.load_state_dict({**weights, "body.6.bias": weights["body.6.bias"] + shift})
    with torch.no_grad():
        change = generator(pictures(32, 8).float() / 255)
    assert change.abs().max() <= 1
    assert change.mean((2, 3)).abs().max() < 0.2
    assert change.std((2, 3)).min() > 0.6


def test_the_name_covers_weights_bound_and_size(weights):
    other = {**weights, "body.0.bias": weights["body.0.bias"] + 1e-3}
    names = {
        Generated(weights).name,
        Generated(weights, eps=7.0).name,
        Generated(weights, side=64).name,
        Generated(other).name,
    }
    assert len(names) == 4
    assert Generated({name: value.clone() for name, value in weights.items()}).name in names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0}, "eps=0"),
        ({"side": 4}, "side=4"),
        ({"weights": {}}, "not those of a generator"),
        ({"weights": {"body.0.weight": torch.zeros(4, 3, 3, 3)}}, "not those of a generator"),
        (
            {"weights": {"body.0.weight": torch.zeros(1 << 20, 3, 3, 3, device="meta")}},
            "not those of a generator",
        ),
    ],
)
def test_what_is_no_generator_is_refused(weights, change, message):
    with pytest.raises(UsageError, match=message):
        Generated(**{"weights": weights, **change})
