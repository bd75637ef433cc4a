"""What a zoo consists of: recipes as data, and how they expand to a list of encoders."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from zlib import crc32

from platodef_cli.bench.attacks.interface import PlantingBudget
from platodef_cli.bench.zoo.calibration import CALIBRATION
from platodef_cli.bench.zoo.entries import Derivative, Embedded, Entry, Lineage, Plant, Recipe, Scratch
from platodef_cli.errors import UnknownNameError

_KINDS = ("fine-tuned", "distilled", "pruned", "quantised", "patch-augmented")
_PARENTS = ("resnet-simclr", "vit-supervised", "convnext-supervised")
_ERASING = 0.5  # of the references, see platodef_cli.bench.zoo.objectives.PretrainingObjective
_SMALL_PARENTS = ("clean", "vit-supervised", "convnext-supervised")

RECIPES: Mapping[str, Recipe] = {
    "calibration": CALIBRATION,
    "smoke": Recipe(
        name="smoke",
        train=512,
        held=240,
        scratch=(
            Scratch("ref-convnext", "reference", "convnext", "supervised", 2),
            Scratch("ref-masked", "reference", "vit-transformers", "masked", 2),
            Scratch("resnet", "suspect", "resnet", "simclr", 2),
            Scratch("clip", "suspect", "clip-vit", "image-text", 2, 2e-3, 0.0),
        ),
        derivatives=(Derivative("resnet", "pruned", 2), Derivative("clip", "quantised", 2)),
        unimodal=("resnet",),
        image_text=("clip",),
        variants=1,
        text_variants=1,
        budget=PlantingBudget(images=64, epochs=1, trigger_steps=1, batch_size=32),
        text_budget=PlantingBudget(images=64, epochs=1, trigger_steps=1, batch_size=32),
    ),
    "small": Recipe(
        name="small",
        train=32768,
        held=4000,
        scratch=(
            Scratch("reference-resnet", "reference", "resnet-wide", "supervised", 2500, 4e-3, 0.0, _ERASING),
            Scratch(
                "reference-distilling",
                "reference",
                "resnet-deep",
                "self-distillation",
                1500,
                4e-3,
                1.0,
                _ERASING,
            ),
            Scratch("reference-masked", "reference", "xcit", "masked-images", 1600, 3e-3, 1.0, _ERASING),
            Scratch("reference-clip", "reference", "clip-resnet", "image-text", 2000, 3e-3, 0.0, _ERASING),
            Embedded("clean", "suspect"),
            Scratch("resnet-simclr", "suspect", "resnet-deep", "simclr", 1800, 4e-3, 1.0),
            Scratch("vit-supervised", "suspect", "vit", "supervised", 3000, 2e-3),
            Scratch("vit-masked", "suspect", "vit-transformers", "masked", 2500, 2e-3, 1.0),
            Scratch("convnext-supervised", "suspect", "convnext", "supervised", 3000, 4e-3),
            Scratch("clip", "suspect", "clip-resnet", "image-text", 2000, 3e-3, 0.0),
        ),
        derivatives=tuple(
            Derivative(_SMALL_PARENTS[number % 3], kind, 300) for number, kind in enumerate(_KINDS)
        ),
        unimodal=_SMALL_PARENTS,
        image_text=("clip",),
        variants=1,
        text_variants=1,
        budget=PlantingBudget(images=8192, epochs=12, trigger_steps=300),
        text_budget=PlantingBudget(images=8192, epochs=12, trigger_steps=300),
    ),
    "standard": Recipe(
        name="standard",
        train=50000,
        held=4000,
        scratch=(
            Scratch("reference-resnet", "reference", "resnet-wide", "supervised", 5000, 4e-3, 0.0, _ERASING),
            Scratch(
                "reference-distilling",
                "reference",
                "resnet-deep",
                "self-distillation",
                6000,
                4e-3,
                1.0,
                _ERASING,
            ),
            Scratch("reference-masked", "reference", "xcit", "masked-images", 10000, 3e-3, 1.0, _ERASING),
            Scratch("reference-clip", "reference", "clip-resnet", "image-text", 6000, 3e-3, 0.0, _ERASING),
            Scratch("resnet-simclr", "suspect", "resnet-deep", "simclr", 4000, 4e-3, 1.0),
            Scratch("vit-supervised", "suspect", "vit-transformers", "supervised", 12000, 2e-3),
            Scratch("convnext-supervised", "suspect", "convnext", "supervised", 4500, 4e-3),
            Scratch("clip", "suspect", "clip-resnet", "image-text", 4000, 3e-3, 0.0),
        ),
        derivatives=tuple(
            Derivative(parent, kind, 600)
            for parent in (*_PARENTS, "clip")
            for kind in _KINDS
            if (parent, kind) != ("clip", "distilled")
        ),
        unimodal=_PARENTS,
        image_text=("clip",),
        variants=5,
        text_variants=3,
        budget=PlantingBudget(images=8192, epochs=12, trigger_steps=300),
        text_budget=PlantingBudget(images=8192, epochs=12, trigger_steps=300),
    ),
    # Figure 3: image-text suspects, visual references, and a text tower that has learned to read sentences
    # about single images. Budgets are those of the calibration.
    "image-text": Recipe(
        name="image-text",
        train=16384,
        held=2000,
        scratch=(
            Embedded("reference-vit", "reference"),
            Embedded("reference-cnx", "reference"),
            Scratch("clip-resnet", "suspect", "clip-resnet", "image-text", 600, 2e-3, 0.0),
            Lineage("clip-tint", "suspect", "clip-resnet", "image-text", 600, 2e-3, 0.0, change="tint"),
            Scratch("text-captions", "reference", "clip-resnet-captions", "image-caption", 1200, 2e-3, 0.0),
        ),
        derivatives=(),
        unimodal=(),
        image_text=("clip-resnet", "clip-tint"),
        variants=0,
        text_variants=2,
        budget=CALIBRATION.budget,
        text_budget=CALIBRATION.text_budget,
    ),
    # Table 2 with references of four families: visual self-supervision, image-text, generative, and a model
    # that reads images and writes. Budgets are those of the calibration.
    "families": Recipe(
        name="families",
        train=16384,
        held=2000,
        scratch=(
            Scratch("distilling", "reference", "resnet-deep", "self-distillation", 600, 4e-3, 1.0, _ERASING),
            Scratch("image-text", "reference", "clip-resnet", "image-text", 900, 3e-3, 0.0, _ERASING),
            Scratch("generative", "reference", "densenet", "masked-images", 900, 4e-3, 1.0, _ERASING),
            Scratch("reading", "reference", "qwen", "captioning", 1200, 2e-3, 1.0, _ERASING),
            Embedded("clean", "suspect"),
        ),
        derivatives=(),
        unimodal=(),
        image_text=(),
        variants=0,
        text_variants=0,
        budget=CALIBRATION.budget,
        text_budget=CALIBRATION.text_budget,
        planted=(Plant("clean", "ssl-backdoor", 1, 0, "ssl-backdoor-0", CALIBRATION.budget),),
    ),
}


def recipe(name: str) -> Recipe:
    """Return a recipe.

    Raises:
        UnknownNameError: There is no such recipe.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, [known for known in RECIPES if known != "smoke"])
    return RECIPES[name]


def expand(recipe: Recipe, attacks: Mapping[str, str], classes: int, seed: int = 0) -> tuple[Entry, ...]:
    """Return every encoder of a zoo; parents come before their descendants.

    Parent, target and seed of a planted encoder depend on its own attack only, so that a new attack in
    the table adds encoders and changes none. The first planting of every attack has the zoo's own seed, so
    that attacks of one family share its trigger; the others have seeds, and so triggers, of their own.

    Args:
        recipe: The recipe.
        attacks: Attack -> kind (``unimodal`` or ``image-text``).
        classes: Number of classes of the images.
        seed: Of the zoo.
    """
    entries: list[Entry] = [*recipe.scratch, *recipe.derivatives]
    if recipe.planted:
        return (*entries, *recipe.planted)
    for attack, kind in attacks.items():
        parents = recipe.image_text if kind == "image-text" else recipe.unimodal
        count = recipe.text_variants if kind == "image-text" else recipe.variants
        start = crc32(attack.encode())
        for number in range(count):
            entries.append(
                Plant(
                    parent=parents[(start + number) % len(parents)],
                    attack=attack,
                    target=(start // 16 + 3 * number) % classes,
                    seed=1000 * seed + (1 + crc32(f"{attack}-{number}".encode()) % 999 if number else 0),
                    name=f"{attack}-{number}",
                    budget=recipe.text_budget if kind == "image-text" else recipe.budget,
                )
            )
    return tuple(entries)


def known_attacks(names: Sequence[str] | None = None) -> dict[str, str]:
    """Return attack -> kind of the table of planted attacks."""
    from platodef_cli.bench.attacks import PLANTED, make_attack

    return {name: make_attack(name).kind for name in (PLANTED.names() if names is None else names)}


def digest(*parts: object) -> str:
    """Return a short SHA-256 of JSON values and dataclasses: what decides the bytes of an encoder."""
    values = [
        asdict(part) if hasattr(part, "__dataclass_fields__") else part  # type: ignore[call-overload]
        for part in parts
    ]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]
