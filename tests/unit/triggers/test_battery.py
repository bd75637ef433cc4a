import numpy as np
import pytest
import torch

from platodef_cli.bench.attacks import PLANTED, make_attack
from platodef_cli.errors import UnknownNameError
from platodef_cli.images.shapes import render
from platodef_cli.triggers.battery import BatteryItem, battery, strength
from platodef_cli.triggers.patches import Patches
from platodef_cli.triggers.triggers import Patch
from platodef_cli.triggers.variant import PLACES

ITEMS = battery("standard")


def test_quick_is_part_of_standard_and_names_are_unique():
    names = [item.variant.name for item in ITEMS]
    assert len(set(names)) == len(names)
    assert {item.variant.name for item in battery("quick")} < set(names)


def test_the_families_that_an_audit_must_know_are_there():
    triggers = {item.family for item in ITEMS if item.kind == "trigger"}
    assert {"patch", "blend", "ctrl", "sig", "noise", "wanet", "filter", "text"} <= triggers
    controls = {item.family for item in ITEMS if item.kind == "control"}
    assert {"jpeg", "blur", "patch", "crop", "mild-noise"} <= controls
    patches = [item.parameters for item in ITEMS if item.family == "patch" and item.kind == "trigger"]
    assert len({patch["side"] for patch in patches}) >= 3
    assert len({patch["place"] for patch in patches}) >= 3


@pytest.mark.parametrize("name", PLANTED.names())
def test_the_trigger_of_every_planted_attack_has_a_relative_in_the_battery(name: str):
    """The same kind; for a patch the same colours and place, and a size within a factor of 1.5.

    Learned triggers are not known to anyone who audits; their kinds (noise, a random patch) are tried.
    """
    trigger = make_attack(name).trigger(0)
    if trigger is None:
        kinds = {"blto": "noise", "bad-clip": "patch"}
        assert kinds[name] in {item.family for item in ITEMS if item.kind == "trigger"}
        return
    relatives = [item.variant for item in ITEMS if type(item.variant) is type(trigger)]
    if isinstance(trigger, Patches):
        # several at once are left to the search of the corners; each alone has relatives
        relatives = [item.variant for item in ITEMS if isinstance(item.variant, Patch)]
    if isinstance(trigger, Patch):
        relatives = [
            other
            for other in relatives
            if isinstance(other, Patch)
            and (other.colour, other.place) == (trigger.colour, trigger.place)
            and 1 / 1.5 <= other.side / trigger.side <= 1.5
        ]
    assert relatives


def test_unknown_battery_lists_the_choices():
    with pytest.raises(UnknownNameError, match="standard"):
        battery("huge")


@pytest.mark.parametrize("size", [32, 40, 224])
@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.variant.name)
def test_variants_keep_the_contract(item: BatteryItem, size: int):
    """Type and shape stay, the input is untouched, every image changes, batch and order do not matter."""
    count = 5 if size < 100 else 2
    pixels = torch.from_numpy(render(0, np.arange(count), size)[0])
    seeds = torch.arange(count) * 2**40 + 17
    before = pixels.clone()
    out = item.variant(pixels, seeds)
    assert out.dtype == torch.uint8
    assert out.shape == pixels.shape
    assert torch.equal(pixels, before)
    assert (out != pixels).flatten(1).any(1).all()
    order = torch.arange(count).flip(0)
    assert torch.equal(item.variant(pixels[order], seeds[order]), out[order])
    assert torch.equal(item.variant(pixels[:1], seeds[:1]), out[:1])
    assert item.variant(pixels[:0], seeds[:0]).shape == (0, 3, size, size)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.variant.name)
def test_only_the_named_variants_depend_on_the_seed(item: BatteryItem):
    pixels = torch.from_numpy(render(0, [0])[0]).expand(16, 3, 32, 32).contiguous()
    out = item.variant(pixels, torch.arange(16))
    varies = not torch.equal(out, out[:1].expand_as(out))
    assert varies == (item.parameters.get("place") == "random" or item.family in ("crop", "mild-noise"))


def test_strength_is_that_of_the_definition():
    pixels = torch.from_numpy(render(0, np.arange(8))[0])
    item = next(item for item in ITEMS if item.family == "noise")
    difference = (item.variant(pixels, torch.arange(8)).double() - pixels.double()).numpy() / 255
    measured = strength(item, count=8)
    norms = [np.sqrt((image**2).sum()) for image in difference]
    assert measured.l2 == pytest.approx(np.mean(norms))
    assert measured.psnr == pytest.approx(10 * np.log10(1 / (difference**2).mean()))


def test_controls_are_as_strong_as_triggers():
    """The controls span the strength of the triggers; of one trigger at several places, one counts."""
    kinds = {(item.family, *item.parameters.values()): item for item in ITEMS if item.kind == "trigger"}
    once = {tuple(v for v in key if v not in PLACES): item for key, item in kinds.items()}
    triggers = [strength(item).l2 for item in once.values()]
    controls = [strength(item).l2 for item in ITEMS if item.kind == "control"]
    assert max(controls) >= np.median(triggers)
    assert min(controls) <= np.median(triggers)
    assert sum(controls) / len(controls) >= 0.7 * sum(triggers) / len(triggers)
