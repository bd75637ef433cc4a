"""The recipe ``calibration``: many small clean encoders that differ as honest encoders do, and planted ones.

A lineage is an encoder from scratch with all that descends from it. What a verdict calls normal is the
largest departure of every clean lineage, so that lineages have to be many and different; each is trained as
briefly as it may be for the references to agree with it. With 350 steps for all, ViTs and ConvNeXts named a
quarter of the shapes right, and the audit of one found its agreement too small to judge it by.
"""

from platodef_cli.bench.attacks.interface import PlantingBudget
from platodef_cli.bench.zoo.entries import Derivative, Lineage, Plant, Recipe, Varied

_BUDGET = PlantingBudget(images=4096, epochs=16, trigger_steps=200)

# architecture, objective, changes of lineages
_ROWS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("resnet-narrow", "supervised", ("", "grey", "tint", "two-classes", "label-noise", "later", "pairing")),
    ("densenet", "supervised", ("", "grey", "noise", "five-classes", "coarse", "rare", "negative")),
    ("convnext-narrow", "supervised", ("", "blur", "tint", "labels-alone", "label-noise", "later")),
    ("vit-shallow", "supervised", ("", "grey", "noise", "pairing", "rare", "five-classes")),
    ("resnet", "supervised", ("", "blur", "coarse", "labels-alone", "negative")),
    ("resnet-deep", "supervised", ("", "grey", "label-noise", "two-classes")),
    ("resnet-wide", "supervised", ("", "tint", "noise")),
    ("vit", "supervised", ("", "later")),
    ("convnext", "supervised", ("", "pairing")),
    ("xcit", "supervised", ("",)),
    ("resnet-narrow", "adversarial", ("", "grey")),
    ("densenet", "adversarial", ("",)),
    ("convnext-narrow", "adversarial", ("",)),
    ("resnet-narrow", "simclr", ("", "later")),
    ("densenet", "simclr", ("", "blur")),
    ("convnext-narrow", "simclr", ("",)),
    ("vit-shallow", "simclr", ("",)),
    ("resnet-deep", "self-distillation", ("",)),
    ("densenet", "self-distillation", ("",)),
    ("vit-transformers", "masked", ("", "tint")),
    ("vit-shallow", "masked", ("",)),
    ("convnext-narrow", "masked-images", ("",)),
    ("densenet", "masked-images", ("",)),
    ("clip-resnet", "image-text", ("", "tint")),
    ("clip-vit", "image-text", ("",)),
)
# lineages that came later: after all others, since a lineage's place decides its images and its erasing.
# Their part (setting or testing) follows from the name; most were chosen for testing, before any was built.
_LATER_ROWS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("densenet", "supervised", ("label-noise", "two-classes", "tint", "blur")),
    ("convnext-narrow", "supervised", ("noise", "rare", "negative", "five-classes", "coarse")),
    ("vit-shallow", "supervised", ("tint", "later", "coarse", "negative")),
    ("resnet", "supervised", ("rare", "noise", "later", "grey")),
    ("resnet-narrow", "supervised", ("labels-alone", "noise", "coarse", "negative")),
    ("resnet-wide", "supervised", ("grey", "negative")),
    ("resnet-narrow", "simclr", ("grey", "tint")),
    ("densenet", "simclr", ("later", "noise")),
    ("resnet-narrow", "adversarial", ("tint", "later")),
    ("densenet", "adversarial", ("grey", "noise")),
    ("convnext-narrow", "adversarial", ("noise",)),
    ("densenet", "masked-images", ("tint", "grey")),
    ("densenet", "self-distillation", ("grey", "tint")),
    ("clip-resnet", "image-text", ("blur", "grey")),
)
_STEPS = {"supervised": 350, "image-text": 300, "self-distillation": 250}  # others: 800
_SLOWER = {"vit": 3, "convnext": 2}  # factor of the steps, by the first word of the architecture
_RATES = {"vit": 2e-3, "clip": 2e-3}  # others: 4e-3
_SMALL_DATA = 2048
_ERASING = (7, 0.5)  # every seventh lineage, share of its images


def lineages() -> tuple[Lineage, ...]:
    """Return the clean encoders, every architecture and objective first, then their changes, twice."""
    made: list[Lineage] = []
    for rows in (_ROWS, _LATER_ROWS):
        for round_ in range(max(len(changes) for _, _, changes in rows)):
            for architecture, objective, changes in rows:
                if round_ < len(changes):
                    made.append(_lineage(len(made), architecture, objective, changes[round_]))
    return tuple(made)


def _lineage(number: int, architecture: str, objective: str, change: str) -> Lineage:
    first = architecture.partition("-")[0]
    slower = 3 if architecture == "clip-vit" else _SLOWER.get(first, 1)
    return Lineage(
        "-".join(part for part in (architecture, objective, change) if part),
        "suspect",
        architecture,
        objective,
        slower * _STEPS.get(objective, 800),
        _RATES.get(first, 4e-3),
        0.0 if objective == "image-text" else 0.5,
        erasing=_ERASING[1] if number % _ERASING[0] == _ERASING[0] - 1 else 0.0,
        change=change,
        images=_SMALL_DATA if number % 5 == 4 else 0,
    )


_DERIVED = (
    ("resnet-narrow-supervised", "pruned"),
    ("densenet-supervised", "quantised"),
    ("convnext-narrow-supervised", "low-rank"),
    ("vit-shallow-supervised", "fine-tuned"),
    ("resnet-supervised", "distilled"),
    ("resnet-narrow-simclr", "fine-tuned"),
    ("densenet-simclr", "pruned"),
    ("convnext-narrow-adversarial", "quantised"),
)
# attack, its parameters, parents: of two lineages each, so that one may set limits and one may test them
_PLANTED: tuple[tuple[str, tuple[tuple[str, float], ...], tuple[str, str]], ...] = (
    ("ssl-backdoor", (), ("resnet-narrow-supervised", "densenet-supervised")),
    ("ctrl", (), ("convnext-narrow-supervised", "resnet-supervised")),
    ("composite", (), ("densenet-simclr", "resnet-narrow-supervised")),
    ("drupe", (), ("convnext-narrow-supervised", "densenet-supervised")),
    ("blto", (), ("resnet-supervised", "resnet-narrow-supervised")),
    ("bad-encoder", (), ("densenet-supervised", "convnext-narrow-supervised")),
    ("corrupt-encoder", (), ("resnet-narrow-supervised", "densenet-simclr")),
    ("noisy-alignment", (), ("convnext-narrow-supervised", "resnet-supervised")),
    ("ssl-backdoor", (("side", 4 / 32),), ("vit-shallow-supervised", "densenet-supervised")),
    ("ssl-backdoor", (("side", 10 / 32),), ("densenet-simclr", "convnext-narrow-supervised")),
    ("ctrl", (("magnitude", 100.0),), ("resnet-narrow-simclr", "vit-shallow-supervised")),
    ("blto", (("eps", 16.0),), ("densenet-supervised", "resnet-narrow-supervised")),
    ("composite", (("side", 7 / 32),), ("resnet-supervised", "convnext-narrow-supervised")),
    ("bad-encoder", (("side", 4 / 32),), ("resnet-narrow-supervised", "densenet-simclr")),
)
_TEXT_PLANTED = (("clip-backdoor", "clip-resnet-image-text"), ("bad-clip", "clip-resnet-image-text-tint"))
_CLASSES = 2  # targets: any source of images has two classes


def plantings() -> tuple[Plant, ...]:
    """Return the backdoored encoders, with targets and seeds by their place."""
    made: list[Plant] = []
    for attack, parameters, parents in _PLANTED:
        for parent in parents:
            words = [f"{name}{value:.3g}" for name, value in parameters]
            made.append(
                Varied(
                    parent=parent,
                    attack=attack,
                    target=len(made) % _CLASSES,
                    seed=len(made),
                    name="-".join((parent, attack, *words)),
                    budget=_BUDGET,
                    parameters=parameters,
                )
            )
    for attack, parent in _TEXT_PLANTED:
        made.append(Varied(parent, attack, len(made) % _CLASSES, len(made), f"{parent}-{attack}", _BUDGET))
    return tuple(made)


CALIBRATION = Recipe(
    name="calibration",
    train=16384,
    held=2000,
    scratch=lineages(),
    derivatives=tuple(Derivative(parent, kind, 100) for parent, kind in _DERIVED),
    unimodal=(),
    image_text=(),
    variants=0,
    text_variants=0,
    budget=_BUDGET,
    text_budget=_BUDGET,
    planted=plantings(),
)
