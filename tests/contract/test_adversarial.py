"""Every adversarial attack on a small trained classifier, and on linear ones whose optimum is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from platodef_cli.bench.attacks import ADVERSARIAL, make_adversarial
from platodef_cli.bench.attacks.adversarial import Classifier, Pgd, margin
from platodef_cli.bench.attacks.auto_attack import AutoAttack, apgd, square, targeted_dlr
from platodef_cli.bench.attacks.carlini_wagner import CarliniWagner
from platodef_cli.bench.attacks.interface import Victim
from platodef_cli.errors import UsageError
from platodef_cli.images.shapes import render
from platodef_cli.metrics.linear_probe import LinearProbe

COUNT = 48


class Linear(nn.Module):
    """Logits ``±(w · x + b) / 2``, so that the margin of class 1 is ``w · x + b``."""

    def __init__(self, weight: Tensor, bias: float):
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, unit: Tensor) -> Tensor:
        score = (unit * self.weight).sum((1, 2, 3)) + self.bias
        return torch.stack([-score / 2, score / 2], dim=1)


@pytest.fixture(scope="module")
def attacked() -> tuple[Classifier, Tensor, Tensor]:
    """A linear probe on random convolutions, with images that it gets right."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2), nn.GELU(), nn.Conv2d(24, 48, 3, stride=2), nn.GELU(),
            nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        )  # fmt: skip
    victim = Victim(network.eval().requires_grad_(False))
    pixels, labels = (torch.from_numpy(part) for part in render(5, np.arange(3000)))
    labels = labels % 5
    probe = LinearProbe.fit(victim.embed(network, pixels), labels)
    right = (probe.predict(victim.embed(network, pixels)) == labels).nonzero()[:COUNT, 0]

    def classifier(unit: Tensor) -> Tensor:
        return probe.scores(victim.differentiable(network, unit))

    return classifier, pixels[right], labels[right]


def wrong(classifier: Classifier, pixels: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((margin(classifier(pixels.float() / 255), labels) < 0).double().mean())


@pytest.fixture(scope="module")
def results(attacked) -> dict[str, Tensor]:
    classifier, pixels, labels = attacked
    made = {"cw": {"steps": 30}, "autoattack": {"steps": 10, "queries": 20}}
    return {
        name: make_adversarial(name, eps=1.0, **made.get(name, {})).perturb(
            classifier, pixels, labels, seed=0
        )
        if name != "cw"
        else make_adversarial(name, **made["cw"]).perturb(classifier, pixels, labels, seed=0)
        for name in ADVERSARIAL.names()
    }


@pytest.mark.parametrize("name", ADVERSARIAL.names())
def test_every_attack_fools_the_classifier_within_its_norm(name, attacked, results):
    classifier, pixels, labels = attacked
    moved = results[name]
    assert moved.dtype == torch.uint8
    assert moved.shape == pixels.shape
    assert wrong(classifier, pixels, labels) == 0
    assert wrong(classifier, moved, labels) > 0.5
    if make_adversarial(name).norm == "linf":
        assert (moved.int() - pixels.int()).abs().max() == 1


def test_stronger_attacks_are_at_least_as_strong(attacked, results):
    classifier, _, labels = attacked
    rates = {name: wrong(classifier, moved, labels) for name, moved in results.items()}
    assert rates["pgd"] >= rates["fgsm"]
    assert rates["mi-fgsm"] >= rates["fgsm"]
    assert rates["autoattack"] >= rates["pgd"]
    assert rates["cw"] == 1  # it has no bound


def test_carlini_wagner_needs_the_smallest_change(attacked, results):
    classifier, pixels, labels = attacked
    both = torch.ones(len(labels), dtype=torch.bool)
    with torch.no_grad():
        for name in ("cw", "pgd"):
            both &= margin(classifier(results[name].float() / 255), labels) < 0
    assert both.sum() > 10
    sizes = {
        name: ((results[name].float() - pixels.float())[both] / 255).flatten(1).norm(dim=1)
        for name in ("cw", "pgd")
    }
    assert (sizes["cw"] <= sizes["pgd"]).all()
    assert sizes["cw"].mean() < 0.5 * sizes["pgd"].mean()


@pytest.mark.parametrize("name", ADVERSARIAL.names())
def test_the_same_seed_gives_the_same_images_and_inputs_stay(name, attacked):
    classifier, pixels, labels = attacked
    attack = make_adversarial(name, steps=3) if name != "fgsm" else make_adversarial(name)
    before = pixels[:6].clone()
    first = attack.perturb(classifier, pixels[:6], labels[:6], seed=3)
    assert torch.equal(first, attack.perturb(classifier, pixels[:6], labels[:6], seed=3))
    assert torch.equal(pixels[:6], before)
    assert attack.perturb(classifier, pixels[:0], labels[:0], seed=3).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mi-fgsm", "autoattack"])
@pytest.mark.parametrize("eps", [3.0, 3.7])
def test_on_a_linear_model_the_bounded_optimum_is_the_sign_of_the_weights(name, eps):
    """On mid-grey no pixel clips: the least margin in the ball is ``m - floor(eps)/255 * |w|_1``."""
    weight = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = torch.full((2, 3, 8, 8), 128, dtype=torch.uint8)
    model = Linear(weight, 5.0 - float((weight * 128 / 255).sum()))
    labels = torch.tensor([1, 1])
    kwargs = {"queries": 0, "targets": 0} if name == "autoattack" else {}
    moved = make_adversarial(name, eps=eps, **kwargs).perturb(model, pixels, labels, seed=0)
    reached = margin(model(moved.float() / 255), labels)
    least = 5.0 - math.floor(eps) / 255 * float(weight.abs().sum())
    assert reached.tolist() == pytest.approx([least, least], abs=1e-4)


def test_on_a_linear_model_carlini_wagner_finds_the_distance_to_the_plane():
    """The nearest point of the plane is ``m / |w|_2`` away; rounding to 8 bits costs a little."""
    weight = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    pixels = torch.full((3, 3, 8, 8), 128, dtype=torch.uint8)
    margins = torch.tensor([4.0, 8.0, 16.0])
    for value in margins.tolist():
        model = Linear(weight, value - float((weight * 128 / 255).sum()))
        moved = CarliniWagner(start=0.1, searches=10, steps=200).perturb(
            model, pixels[:1], torch.tensor([1]), seed=0
        )
        reached = float(((moved.float() - 128) / 255).norm())
        optimum = value / float(weight.norm())
        assert optimum <= reached < 1.06 * optimum
        assert wrong(model, moved, torch.tensor([1])) == 1


def test_carlini_wagner_reaches_its_confidence_and_goes_no_farther():
    """With a lead of 3 logits asked for, the plane to reach lies 3 logits farther."""
    weight = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    pixels, label = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8), torch.tensor([1])
    model = Linear(weight, 8.0 - float((weight * 128 / 255).sum()))
    attack = CarliniWagner(start=0.1, searches=10, steps=200, confidence=3.0)
    moved = attack.perturb(model, pixels, label, seed=0)
    assert float(margin(model(moved.float() / 255), label)) < -3
    reached = float(((moved.float() - 128) / 255).norm())
    optimum = (8 + 3) / float(weight.norm())
    assert optimum <= reached < 1.06 * optimum


def test_carlini_wagner_returns_nothing_that_is_wrong_by_less_than_its_confidence():
    """All pixels at their ends move the margin by 1.5 logits at most."""
    weight = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    weight *= 3 / weight.abs().sum()
    pixels, label = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8), torch.tensor([1])
    model = Linear(weight, 0.5 - float((weight * 128 / 255).sum()))
    found = {
        confidence: CarliniWagner(searches=4, confidence=confidence).perturb(model, pixels, label, seed=0)
        for confidence in (0.0, 3.0)
    }
    assert float(margin(model(found[0.0].float() / 255), label)) < 0
    assert torch.equal(found[3.0], pixels)


def test_the_note_of_carlini_wagner_says_how_it_is_shorter_than_the_paper():
    assert CarliniWagner().note == "reduced: 60 steps, 6 searches"
    assert CarliniWagner(steps=9_999, searches=20).note == "reduced: 9999 steps, 20 searches"
    assert CarliniWagner(steps=10_000, searches=19).note == "reduced: 10000 steps, 19 searches"
    assert CarliniWagner(steps=10_000, searches=20).note == ""


def test_carlini_wagner_leaves_what_it_cannot_fool():
    model = Linear(torch.zeros(1, 3, 8, 8), 1.0)
    pixels = torch.full((1, 3, 8, 8), 40, dtype=torch.uint8)
    moved = CarliniWagner(searches=2, steps=5).perturb(model, pixels, torch.tensor([1]), seed=0)
    assert torch.equal(moved, pixels)


def test_auto_pgd_climbs_a_narrow_valley_better_than_fixed_steps():
    """A concave loss with its maximum inside the ball: sign steps of 2/255 swing around it."""
    goal = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 8 / 255

    def loss(unit: Tensor) -> Tensor:
        return -((unit - 0.5 - goal) ** 2).sum((1, 2, 3))

    clean = torch.full((4, 3, 8, 8), 0.5)
    found = apgd(loss, clean, 8.0, 40, torch.Generator().manual_seed(0))
    moved = clean
    for _ in range(40):
        grown = moved.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(loss(grown).sum(), grown)
        moved = moved + 2 / 255 * slope.sign()
    assert (loss(found) > loss(moved)).all()
    assert (found - clean).abs().max() <= 8 / 255 + 1e-6
    assert loss(found).mean() > 0.25 * loss(clean).mean()


def test_square_needs_no_gradient():
    weight = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    model = Linear(weight, 1.0 - float((weight / 2).sum()))
    clean, labels = torch.full((5, 3, 8, 8), 0.5), torch.ones(5, dtype=torch.long)
    few, many = (
        margin(model(square(model, clean, labels, 8.0, count, torch.Generator().manual_seed(0))), labels)
        for count in (1, 200)
    )
    assert (many <= few).all()
    assert many.mean() < 1.0 - 0.5 * 8 / 255 * float(weight.abs().sum())


def test_targeted_ratio_is_its_definition():
    logits = torch.tensor([[4.0, 1.0, 3.0, 2.0, 0.0]])
    loss = targeted_dlr(lambda unit: logits, torch.tensor([0]), torch.tensor([2]))
    assert float(loss(torch.zeros(1))) == pytest.approx((3 - 4) / (4 - (2 + 1) / 2))
    three = targeted_dlr(lambda unit: logits[:, :3], torch.tensor([0]), torch.tensor([1]))
    assert float(three(torch.zeros(1))) == pytest.approx((1 - 4) / (4 - 1))


@pytest.mark.slow
def test_the_library_agrees_with_the_reduced_attack(attacked):
    pytest.importorskip("pyautoattack", reason="the extra autoattack is not installed")
    classifier, pixels, labels = attacked
    standard = AutoAttack(eps=1.0, library=True).perturb(classifier, pixels[:16], labels[:16], seed=0)
    reduced = AutoAttack(eps=1.0).perturb(classifier, pixels[:16], labels[:16], seed=0)
    assert (standard.int() - pixels[:16].int()).abs().max() <= 1
    rates = [wrong(classifier, moved, labels[:16]) for moved in (standard, reduced)]
    assert rates[0] >= rates[1] - 0.07
    assert rates[0] > 0.5


def test_bad_parameters_and_images_are_usage_errors(attacked):
    classifier, pixels, labels = attacked
    for make in (
        lambda: Pgd(eps=0.5),
        lambda: Pgd(steps=0),
        lambda: CarliniWagner(searches=0),
        lambda: CarliniWagner(confidence=-1.0),
    ):
        with pytest.raises(UsageError, match="must be"):
            make()
    with pytest.raises(UsageError, match="labels must be"):
        Pgd().perturb(classifier, pixels, labels[:3], seed=0)
    with pytest.raises(UsageError, match="uint8"):
        Pgd().perturb(classifier, pixels.float(), labels, seed=0)
