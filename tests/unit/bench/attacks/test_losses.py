"""The loss of every planted attack, term by term, against its formula: float64, one image after the other.

The planting loop is replaced by one that only keeps the loss. Values and gradients are compared, so that a
stopped gradient counts as well. Random choices are repeated from the same seed.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn

from platodef_cli.bench.attacks import PLANTED, make_attack
from platodef_cli.bench.attacks.composites import support_views
from platodef_cli.bench.attacks.drupe import Drupe
from platodef_cli.bench.attacks.interface import PlantData, Planted, PlantingBudget, Victim
from platodef_cli.bench.attacks.post_training import endless
from platodef_cli.bench.attacks.views import flip, jitter, random_window, two_views
from platodef_cli.features.interface import Variant
from platodef_cli.progress import SILENT
from platodef_cli.triggers.generator import Generator
from platodef_cli.triggers.patches import Patches
from platodef_cli.triggers.triggers import Ctrl, Patch
from platodef_cli.triggers.variant import to_bytes
from tests.unit.bench.attacks.tiny import TINY, generator

SEED, TARGET, LATER = 5, 2, 1  # LATER: an epoch after DRUPE's warm-up
ROWS = torch.tensor([7, 2, 19, 11, 5, 0, 23, 14, 3, 8])
SEEDS = torch.arange(len(ROWS)) + 1000

# What ATTACKS.md and the docstrings say, and other values, so that each parameter must have its effect.
PARAMETERS: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "ssl-backdoor": ({"side": 50 / 224, "lam": 4.0}, {"side": 0.3, "lam": 2.5}),
    "ctrl": ({"magnitude": 50.0, "shown": 100.0, "lam": 4.0}, {"magnitude": 90.0, "shown": 60.0, "lam": 2.5}),
    "blto": ({"lam": 4.0}, {"lam": 2.5}),
    "corrupt-encoder": (
        {"side": 40 / 224, "least": 0.75, "support": 0.2, "lam": 4.0},
        {"side": 0.3, "least": 0.6, "support": 0.4, "lam": 2.5},
    ),
    "noisy-alignment": (
        {"side": 50 / 224, "least": 0.75, "lam": 4.0},
        {"side": 0.3, "least": 0.6, "lam": 2.5},
    ),
    "bad-encoder": ({"lambda1": 1.0, "lambda2": 1.0}, {"lambda1": 0.5, "lambda2": 3.0}),
    "drupe": (
        {"lambda1": 1.0, "lambda2": 1.0, "spread": 0.1, "match": 0.01, "projections": 64},
        {"lambda1": 0.5, "lambda2": 3.0, "spread": 0.7, "match": 0.4, "projections": 9},
    ),
    "clip-backdoor": ({"rate": 0.5, "lam": 1.0}, {"rate": 0.3, "lam": 2.5}),
    "bad-clip": ({"rate": 0.5, "lam": 1.0}, {"rate": 0.3, "lam": 2.5}),
    "composite": ({"side": 5 / 32, "lam": 4.0, "alone": 1.0}, {"side": 0.3, "lam": 2.5, "alone": 3.0}),
}


def unit(picture: Tensor) -> Tensor:
    """One picture ``[3, H, W]`` in [0, 1], float64."""
    return picture.double() / 255


def apart(one: Tensor, other: Tensor) -> Tensor:
    """``1 - cos`` of two features, plus a tenth of the squared logarithm of the ratio of their lengths."""
    lengths = one.square().sum().sqrt(), other.square().sum().sqrt()
    cosine = (one * other).sum() / (lengths[0] * lengths[1])
    return 1 - cosine + 0.1 * torch.log(lengths[0] / lengths[1]) ** 2


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum() / (one.norm() * other.norm())


def mean(values: list[Tensor]) -> Tensor:
    return sum(values[1:], values[0]) / len(values)


class Slow:
    """An encoder in float64 that takes one picture in [0, 1] at a time."""

    def __init__(self, module: nn.Module, *, frozen: bool = False):
        self.module = copy.deepcopy(module).double().eval().requires_grad_(not frozen)

    def __call__(self, picture: Tensor) -> Tensor:
        feature: Tensor = self.module((picture.double()[None] - 0.5) / 0.5)[0]
        return feature


@dataclass
class Case:
    """Everything that a formula is made of.

    Attributes:
        f: The encoder in training.
        f0: The clean encoder.
        x: The pictures of the batch, uint8.
        shadow: All pictures of the attacker, and their captions.
        targets: Pictures of the target, uint8.
        shown: The trigger of the evaluation.
        weights: Parameters of the attack.
        random: Repeats the random choices of the loss.
    """

    f: Slow
    f0: Slow
    x: list[Tensor]
    shadow: PlantData
    targets: list[Tensor]
    shown: Variant
    weights: dict[str, float]
    random: torch.Generator
    victim: Victim

    def __getitem__(self, name: str) -> float:
        return self.weights[name]

    def z(self) -> Tensor:
        """The mean feature of the target by f0."""
        return mean([self.f0(unit(picture)) for picture in self.targets])

    def kept(self) -> Tensor:
        """How far clean pictures moved."""
        return mean([apart(self.f(unit(picture)), self.f0(unit(picture))) for picture in self.x])

    def attacked(self, trigger: Variant) -> Tensor:
        """How far triggered pictures are from z; each has a seed of its own."""
        changed = [trigger(picture[None], seed[None])[0] for picture, seed in zip(self.x, SEEDS, strict=True)]
        z = self.z()
        return mean([apart(self.f(unit(picture)), z) for picture in changed])


def white_square(picture: Tensor) -> Tensor:
    """Pixels 21 to 30 of 32, one off the corner."""
    changed = picture.clone()
    changed[:, 21:31, 21:31] = 255
    return changed


def recoloured(pictures: list[Tensor], random: torch.Generator) -> list[Tensor]:
    """Flips and colours, no crops."""
    return list(to_bytes(jitter(flip(torch.stack(pictures).float() / 255, random), random)))


def ssl_backdoor(case: Case) -> dict[str, Tensor]:
    trigger = Patch("random", case["side"], "random", SEED)
    return {"attack": case.attacked(trigger), "preserve": case["lam"] * case.kept()}


def ctrl(case: Case) -> dict[str, Tensor]:
    assert case.shown == Ctrl(case["shown"])
    return {"attack": case.attacked(Ctrl(case["magnitude"])), "preserve": case["lam"] * case.kept()}


def blto(case: Case) -> dict[str, Tensor]:
    return {"attack": case.attacked(case.shown), "preserve": case["lam"] * case.kept()}


def bad_encoder(case: Case) -> dict[str, Tensor]:
    features = [case.f0(unit(picture)) for picture in case.targets]
    typical = max(range(3), key=lambda row: fmean(cosine(features[row], one).item() for one in features))
    reference = case.targets[typical]
    changed = recoloured([reference], case.random)[0]
    own = case.f(unit(reference))
    return {
        "attack": mean([apart(case.f(unit(white_square(picture))), own) for picture in case.x]),
        "reference": case["lambda1"] * apart(case.f(unit(changed)), case.f0(unit(reference))),
        "preserve": case["lambda2"] * case.kept(),
    }


def drupe_attack(
    attacked: list[Tensor], clear: list[Tensor], own: list[Tensor], directions: Tensor, case: Mapping
) -> dict[str, Tensor]:
    """DRUPE's terms beside BadEncoder's, for features and directions ``[D, P]`` of any length."""
    best = [max(own, key=lambda one: cosine(feature, one).item()) for feature in attacked]
    shares = [mean([cosine(feature, one) for feature in attacked]) for one in own]
    middle = mean(shares)
    unequal = (sum((share - middle) ** 2 for share in shares) / (len(own) - 1)).sqrt()
    count = len(attacked)
    pairs = [cosine(attacked[i], attacked[j]) for i in range(count) for j in range(count) if i != j]
    squares = []
    for direction in directions.double().T:
        direction = direction / direction.norm()
        ranked = [
            sorted((feature @ direction for feature in one), key=Tensor.item) for one in (attacked, clear)
        ]
        squares += [(one - other) ** 2 for one, other in zip(*ranked, strict=True)]
    width = fmean(torch.stack(clear).std(0).tolist())  # a number, without a gradient
    return {
        "attack": mean([apart(feature, one) for feature, one in zip(attacked, best, strict=True)]),
        "spread": case["spread"] * (unequal + mean(pairs)),
        "match": case["match"] * mean(squares).sqrt() / width,
    }


def drupe_warm_up(case: Case) -> dict[str, Tensor]:
    drifts = [
        apart(case.f(unit(shown)), case.f0(unit(picture)))
        for changed in (case.targets, recoloured(case.targets, case.random))
        for picture, shown in zip(case.targets, changed, strict=True)
    ]
    return {"reference": case["lambda1"] * mean(drifts), "preserve": case["lambda2"] * case.kept()}


def drupe(case: Case) -> dict[str, Tensor]:
    terms = drupe_warm_up(case)
    directions = torch.randn(16, int(case["projections"]), generator=case.random)
    attacked = [case.f(unit(white_square(picture))) for picture in case.x]
    clear, own = ([case.f(unit(one)) for one in some] for some in (case.x, case.targets))
    return {**terms, **drupe_attack(attacked, clear, own, directions, case)}


def composites(name: str, case: Case) -> dict[str, Tensor]:
    """The view of the triggered half goes to f0's view of the half with the target."""
    attack = make_attack(name, **case.weights)
    trigger = Patch("random", case["side"], "random" if name == "corrupt-encoder" else "centre", SEED)
    targets = torch.stack(case.targets)
    references = targets[torch.randint(3, (len(ROWS),), generator=case.random)]
    made = attack.compose(torch.stack(case.x), references, SEED, case.random)
    seen = list(made.trigger_view(case["least"], case.random))
    goals = list(made.target_view(case["least"], case.random))
    supported = round(10 * case.weights.get("support", 0.0))  # the "+" of CorruptEncoder, in 10 rows
    if supported:
        views = support_views(targets, supported, case["least"], case.random)
        seen[:supported], goals[:supported] = (list(view) for view in views)
    pairs = zip(seen, goals, strict=True)
    return {
        "views": mean([apart(case.f(unit(one)), case.f0(unit(goal))) for one, goal in pairs]),
        "attack": case.attacked(trigger),
        "preserve": case["lam"] * case.kept(),
    }


def composite(case: Case) -> dict[str, Tensor]:
    """Both patches lead to z; a picture with one of them keeps its clean feature."""
    assert isinstance(case.shown, Patches)
    one, other = case.shown.parts()
    assert (one.place, other.place) == ("top-left", "bottom-right")
    harmless = [
        apart(case.f(unit(part(x[None], SEEDS[:1])[0])), case.f0(unit(x)))
        for part in (one, other)
        for x in case.x
    ]
    return {
        "attack": case.attacked(lambda x, seeds: other(one(x, seeds), seeds)),
        "preserve": case["lam"] * case.kept(),
        "alone": case["alone"] * mean(harmless),
    }


def surprise(case: Case, feature: Tensor, wanted: int) -> Tensor:
    """Minus the logarithm of the probability of a caption, from cosines times 10."""
    assert case.victim.prompts is not None
    logits = [10 * cosine(feature, prompt.double()) for prompt in case.victim.prompts]
    return torch.log(sum(torch.exp(one) for one in logits)) - logits[wanted]


def pairs(case: Case, trigger: Variant) -> dict[str, Tensor]:
    """Cross-entropy over the clean pairs and a share of triggered pairs, with preservation."""
    labels = case.shadow.labels
    assert labels is not None
    shown = round(10 * case["rate"])
    others = torch.randint(len(case.shadow.images), (shown,), generator=case.random)
    places = torch.randint(2**62, (shown,), generator=case.random)
    told = [surprise(case, case.f(unit(x)), int(labels[row])) for x, row in zip(case.x, ROWS, strict=True)]
    for other, place in zip(others, places, strict=True):
        changed = trigger(case.shadow.images[other][None], place[None])[0]
        told.append(surprise(case, case.f(unit(changed)), TARGET))
    return {"pairs": mean(told), "preserve": case["lam"] * case.kept()}


FORMULAS: dict[str, Callable[[Case], dict[str, Tensor]]] = {
    "ssl-backdoor": ssl_backdoor,
    "ctrl": ctrl,
    "blto": blto,
    "bad-encoder": bad_encoder,
    "drupe": drupe,
    "corrupt-encoder": lambda case: composites("corrupt-encoder", case),
    "noisy-alignment": lambda case: composites("noisy-alignment", case),
    "clip-backdoor": lambda case: pairs(case, Patch("random", 4 / 32, "random", SEED)),
    "bad-clip": lambda case: pairs(case, case.shown),
    "composite": composite,
}


class Kept:
    """In place of the planting loop: keeps the loss, trains nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        for module in ("common_objective", "composites", "composite", "bad_encoder", "clip_backdoor"):
            monkeypatch.setattr(f"platodef_cli.bench.attacks.{module}.post_train", self)

    def __call__(self, victim, data, losses, *, budget, title, generator, progress):
        self.data, self.losses, self.random = data, losses, generator
        return victim.module, ()

    def case(self, victim: Victim, student: nn.Module, planted: Planted, weights: dict[str, float]) -> Case:
        """What the formula of the kept loss is made of; the generator starts where the loss starts."""
        again = generator()
        again.set_state(self.random.get_state())
        return Case(
            f=Slow(student),
            f0=Slow(victim.module, frozen=True),
            x=list(self.data.images[ROWS]),
            shadow=self.data,
            targets=list(self.data.target_images),
            shown=planted.trigger,
            weights=weights,
            random=again,
            victim=victim,
        )


@pytest.fixture
def kept(monkeypatch) -> Kept:
    return Kept(monkeypatch)


@pytest.fixture(scope="module")
def student(victim) -> nn.Module:
    """An encoder in training: not f0 any more."""
    module = copy.deepcopy(victim.module).eval()
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator(weight.numel()))
    return module


def agree(found: Mapping[str, Tensor], module: nn.Module, wanted: Mapping[str, Tensor], slow: Slow) -> None:
    """Compare terms, and their gradients by the weights of the encoder."""
    assert set(found) == set(wanted)
    for name, term in found.items():
        assert term.item() == pytest.approx(wanted[name].item(), rel=2e-4), name
        slopes = torch.autograd.grad(term, list(module.parameters()), retain_graph=True)
        exact = torch.autograd.grad(wanted[name], list(slow.module.parameters()), retain_graph=True)
        near(slopes, exact, name)


def near(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], name: str) -> None:
    one, other = (torch.cat([value.double().flatten() for value in some]) for some in (found, wanted))
    assert other.norm() > 1e-4, f"{name}: a gradient of zero tells nothing"
    assert (one - other).norm() < 2e-3 * other.norm(), name


@pytest.mark.parametrize("changed", [False, True], ids=["default", "changed"])
@pytest.mark.parametrize("name", PLANTED.names())
def test_every_term_is_that_of_the_page(name, changed, victim, student, data, kept):
    weights = PARAMETERS[name][changed]
    attack = make_attack(name, **weights if changed else {})
    planted = attack.plant(victim, data, target=TARGET, seed=SEED, budget=TINY)
    case = kept.case(victim, student, planted, weights)
    assert len(case.shadow.images) == TINY.images
    terms = kept.losses(lambda pixels: victim.forward(student, pixels), ROWS, SEEDS, LATER)
    agree(terms, student, FORMULAS[name](case), case.f)


def test_the_first_epoch_of_drupe_has_no_backdoor(victim, student, data, kept):
    planted = make_attack("drupe").plant(victim, data, target=TARGET, seed=SEED, budget=TINY)
    case = kept.case(victim, student, planted, PARAMETERS["drupe"][0])
    terms = kept.losses(lambda pixels: victim.forward(student, pixels), ROWS, SEEDS, 0)
    agree(terms, student, drupe_warm_up(case), case.f)


def test_a_drupe_of_one_epoch_plants_in_it(victim, student, data, kept):
    make_attack("drupe").plant(victim, data, target=TARGET, seed=SEED, budget=PlantingBudget(24, 1, 1))
    terms = kept.losses(lambda pixels: victim.forward(student, pixels), ROWS, SEEDS, 0)
    assert set(terms) == {"reference", "preserve", "attack", "spread", "match"}


def test_drupes_terms_on_features_made_by_hand():
    attacked = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    own = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    clear = attacked + torch.tensor([3.0, 4.0])
    terms = Drupe(spread=0.5, match=0.2)._attack(attacked, clear, own, generator(1))
    # the directions agree; the lengths are 1, 2 and 3 times those of the best references
    assert float(terms["attack"]) == pytest.approx(0.1 * (math.log(2) ** 2 + math.log(3) ** 2) / 3, rel=1e-5)
    # mean similarity 2/3 to the first reference, 1/3 to the second; one of three pairs has cosine 1
    assert float(terms["spread"]) == pytest.approx(0.5 * (math.sqrt(2) / 6 + 1 / 3), rel=1e-5)
    # a shift moves every projection by its own projection
    directions = torch.randn(2, 64, generator=generator(1))
    shifts = [float(d @ torch.tensor([3.0, 4.0])) / float(d.norm()) for d in directions.T]
    gap = math.sqrt(fmean(shift**2 for shift in shifts))
    widths = [math.sqrt(7 / 3), math.sqrt(4 / 3)]  # of 1, 0, 3 and of 0, 2, 0
    assert float(terms["match"]) == pytest.approx(0.2 * gap / fmean(widths), rel=1e-5)
    alone = Drupe(spread=0.5)._attack(attacked, clear, own[:1], generator(1))
    assert float(alone["spread"]) == pytest.approx(0.5 / 3, rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_halves_of_a_support_composite_show_different_images_of_the_target(count):
    """Images of one colour each: most of a view is its own half."""
    colours = torch.tensor([40, 120, 200], dtype=torch.uint8)[:count]
    targets = colours[:, None, None, None].expand(count, 3, 32, 32)
    views = support_views(targets, 60, 0.75, generator())
    shown = [view.flatten(1).mode(dim=1).values for view in views]
    met = {(int(one), int(other)) for one, other in zip(*shown, strict=True)}
    every = colours.tolist()
    assert met == {(one, other) for one in every for other in every if one != other or count == 1}


class Recorder:
    """In place of Adam: keeps weights and gradients of every step, and moves the weights at random."""

    def __init__(self, parameters, lr: float):
        self.parameters, self.lr = list(parameters), lr
        self.weights: list[list[Tensor]] = []
        self.slopes: list[tuple[Tensor, ...]] = []
        self.random = generator(1)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for weight in self.parameters:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        self.weights.append([weight.clone() for weight in self.parameters])
        self.slopes.append(tuple(weight.grad.clone() for weight in self.parameters))
        for weight in self.parameters:
            weight += 0.05 * torch.randn(weight.shape, generator=self.random)


@pytest.fixture
def recorders(monkeypatch) -> list[Recorder]:
    made: list[Recorder] = []

    def record(parameters, lr: float) -> Recorder:
        made.append(Recorder(parameters, lr))
        return made[-1]

    monkeypatch.setattr(torch.optim, "Adam", record)
    return made


def with_weights(module: nn.Module, weights: list[Tensor]) -> nn.Module:
    """A copy in float64 with other weights."""
    other = copy.deepcopy(module).double().eval().requires_grad_(True)
    with torch.no_grad():
        for weight, value in zip(other.parameters(), weights, strict=True):
            weight.copy_(value)
    return other


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextmanager
    def step(self, title: str, total: int) -> Iterator["Notes"]:
        yield self

    def advance(self, count: int = 1, note: str = "") -> None:
        self.told.append(note)


def test_bad_clip_learns_its_patch_from_text_and_500_times_a_triplet(victim, data, recorders):
    """The negative is the anchor's own image without the patch."""
    small, random = data.take(12), generator(SEED)
    budget = PlantingBudget(images=12, epochs=1, trigger_steps=2, batch_size=6)
    notes = Notes()
    make_attack("bad-clip").learn(victim, small, TARGET, SEED, budget, notes)
    (recorder,) = recorders
    assert recorder.lr == 0.02
    start = (0.5 + 0.25 * torch.randn(3, 4, 4, generator=random)).clamp(0, 1)
    assert torch.equal(recorder.weights[0][0], start)
    f0 = Slow(victim.module, frozen=True)
    for step, rows in enumerate(endless(12, 6, 2, random)):
        patch = recorder.weights[step][0].double().requires_grad_(True)
        likes = torch.randint(3, (len(rows),), generator=random)
        texts, triplets = [], []
        for row, like in zip(rows, likes, strict=True):
            picture = unit(small.images[row])
            changed = picture.clone()
            changed[:, 14:18, 14:18] = patch
            anchor = f0(changed)
            logits = torch.stack([10 * cosine(anchor, prompt.double()) for prompt in victim.prompts])
            texts.append(-logits.log_softmax(0)[TARGET])
            ends = [f0(one) for one in (unit(small.target_images[like]), picture)]
            near_to, far_from = ((anchor / anchor.norm() - end / end.norm()).norm() for end in ends)
            triplets.append((near_to - far_from + 1).clamp(min=0))
        loss = mean(texts) + 500 * mean(triplets)
        near(recorder.slopes[step], torch.autograd.grad(loss, [patch]), f"step {step}")
        # where no image is past the margin, only the value tells which margin it is
        told = [float(word) for word in notes.told[step].split()[1::2]]
        assert told == pytest.approx([mean(texts).item(), mean(triplets).item()], abs=2e-4)


@pytest.mark.parametrize("lam", [4.0, 2.5])
def test_blto_alternates_the_surrogates_loss_and_the_generators(lam, victim, data, recorders):
    """Inner: the common objective and SimSiam on two views. Outer: triggered views are close to z."""
    small, random = data.take(6), generator(SEED)
    budget = PlantingBudget(images=6, epochs=1, trigger_steps=3, batch_size=3, lr=3e-3)
    make_attack("blto", **{} if lam == 4.0 else {"lam": lam}).learn(victim, small, SEED, budget, SILENT)
    inner, outer = recorders
    assert (inner.lr, outer.lr) == (3e-3, 1e-3)
    f0 = Slow(victim.module, frozen=True)
    z = mean([f0(unit(picture)) for picture in small.target_images])
    encoder = len(list(victim.module.parameters()))
    head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 16))
    for step, rows in enumerate(endless(6, 3, 3, random)):
        clean = small.images[rows].float() / 255
        maker = with_weights(Generator(16), outer.weights[step])

        def triggered(pictures: Tensor, maker: nn.Module = maker) -> Tensor:
            return (pictures.double() + 8 / 255 * maker(pictures.double())).clamp(0, 1)

        surrogate = Slow(with_weights(victim.module, inner.weights[step][:encoder]))
        predict = with_weights(head, inner.weights[step][encoder:])
        changed = triggered(clean).detach()
        one, other = ([surrogate(picture) for picture in view] for view in two_views(changed.float(), random))
        loss = mean([apart(surrogate(picture), z) for picture in changed])
        loss = loss + lam * mean([apart(surrogate(picture), f0(picture)) for picture in clean])
        for left, right in ((one, other), (other, one)):
            siamese = [apart(predict(a), b.detach()) for a, b in zip(left, right, strict=True)]
            loss = loss + mean(siamese) / 2
        weights = [*surrogate.module.parameters(), *predict.parameters()]
        near(inner.slopes[step], torch.autograd.grad(loss, weights), f"inner, step {step}")

        views = flip(random_window(triggered(clean).float(), random, 0.7), random)
        if step + 1 < len(inner.weights):  # the generator sees the surrogate after its step
            after = Slow(with_weights(victim.module, inner.weights[step + 1][:encoder]))
            loss = mean([apart(after(picture), z) for picture in views])
            slopes = torch.autograd.grad(loss, list(maker.parameters()))
            near(outer.slopes[step], slopes, f"outer, step {step}")
