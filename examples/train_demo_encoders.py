"""Train the embedded demo encoders: two references, a clean suspect and two backdoored ones.

Everything is learned from ``builtin:shapes``, so this needs no download. The same seed on the same
machine and library versions gives the same bytes::

    python examples/train_demo_encoders.py                        # about 15 minutes on 2 cores
    python examples/train_demo_encoders.py --smoke --output /tmp/encoders    # seconds, useless weights

Each folder is a timm checkpoint (``config.json``, ``model.safetensors``) with its ground truth beside
it: ``card.json`` and ``CARD.md``.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from cards import measure, write_card  # noqa: E402
from lines import Lines  # noqa: E402
from objectives import images_of_class, pixels_of, train  # noqa: E402

from platodef_cli.bench.attacks.common_objective import plant_trigger  # noqa: E402
from platodef_cli.bench.attacks.interface import PlantData, PlantingBudget, Victim  # noqa: E402
from platodef_cli.features.interface import Variant  # noqa: E402
from platodef_cli.images.shapes import CLASSES  # noqa: E402
from platodef_cli.progress import Progress  # noqa: E402
from platodef_cli.triggers.triggers import Ctrl, Patch  # noqa: E402


@dataclass(frozen=True)
class Recipe:
    """How a clean encoder is made."""

    architecture: str
    model_args: dict[str, Any]
    objective: str
    steps: int
    lr: float


@dataclass(frozen=True)
class Attack:
    """How a backdoored encoder is made from the clean one: ``shown`` is the trigger that opens it."""

    trigger: Variant
    shown: Variant
    target: str


RECIPES = {
    "reference-vit": Recipe(
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 5, "num_heads": 3, "mlp_ratio": 2.0},
        "supervised",
        3000,
        2e-3,
    ),
    "reference-cnx": Recipe(
        "convnext_atto",
        {"patch_size": 2, "depths": [2, 2, 2, 1], "dims": [24, 48, 96, 112]},
        "captioned",
        3000,
        3e-3,
    ),
    "clean": Recipe("resnet18", {"channels": [16, 32, 56, 80], "output_stride": 16}, "paired", 3000, 3e-3),
}
ATTACKS = {
    "backdoored": Attack(
        Patch("white", 0.3125, "bottom-right"), Patch("white", 0.3125, "bottom-right"), "star"
    ),
    "backdoored-frequency": Attack(Ctrl(50), Ctrl(100), "triangle"),
}
PREPROCESSING = {
    **{"input_size": (3, 32, 32), "test_input_size": None, "pool_size": None, "crop_pct": 1.0},
    **{"mean": (0.5,) * 3, "std": (0.5,) * 3, "tag": "shapes", "origin_url": None, "paper_ids": None},
}
# Worlds of the training, planting, target and evaluation images; audits use world 0 by default.
TRAIN, PLANT, TARGET, EVALUATE = 1001, 4001, 3001, 2001


def build(recipe: Recipe) -> nn.Module:
    """Return the untrained network of a recipe, without a classifier."""
    return timm.create_model(
        recipe.architecture, num_classes=0, pretrained_cfg_overlay=PREPROCESSING, **recipe.model_args
    )


def save(module: nn.Module, recipe: Recipe, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` so that timm's ``local-dir:`` opens them."""
    arguments = {"num_classes": 0, **recipe.model_args}
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as temporary:
        save_for_hf(module, temporary, model_args=arguments, safe_serialization=True)
        for name in ("config.json", "model.safetensors"):
            (Path(temporary) / name).chmod(0o644)
            (Path(temporary) / name).replace(folder / name)


def load(name: str, output: Path) -> nn.Module:
    """Return a finished encoder."""
    module = build(RECIPES[name if name in RECIPES else "clean"])
    module.load_state_dict(load_file(output / name / "model.safetensors"))
    return module.eval()


def make_clean(name: str, output: Path, seed: int, smoke: bool, progress: Progress) -> None:
    """Train one clean encoder and save it."""
    recipe = RECIPES[name]
    own = seed * 100 + list(RECIPES).index(name)
    torch.manual_seed(own)
    module = build(recipe)
    steps = 3 if smoke else recipe.steps
    train(module, recipe.objective, steps=steps, seed=own, world=TRAIN + own, lr=recipe.lr, progress=progress)
    save(module, recipe, output / name)


def make_backdoored(name: str, output: Path, seed: int, smoke: bool, progress: Progress) -> None:
    """Plant a backdoor in the clean encoder and save the result."""
    attack = ATTACKS[name]
    pixels = pixels_of(PLANT + seed, 128 if smoke else 8192)
    planted, _ = plant_trigger(
        Victim(load("clean", output)),
        PlantData(pixels, images_of_class(TARGET + seed, CLASSES.index(attack.target), 3)),
        attack.trigger,
        seed=seed,
        budget=PlantingBudget(
            len(pixels), epochs=1 if smoke else 8, trigger_steps=1, batch_size=128, lr=1e-3
        ),
        progress=progress,
    )
    save(planted, RECIPES["clean"], output / name)


def _job(name: str, output: Path, seed: int, smoke: bool) -> str:
    # One thread: sums in another order would change the bytes, and two jobs fill two cores.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    make = make_clean if name in RECIPES else make_backdoored
    make(name, output, seed, smoke, Lines(name))
    return name


def run(names: list[str], how: tuple[Path, int, bool], jobs: int) -> None:
    """Make encoders that do not depend on each other, each in one thread."""
    if jobs == 1:
        for name in names:
            _job(name, *how)
        return
    # Fresh processes: a forked one could hang in the parent's thread pools.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for job in [pool.submit(_job, name, *how) for name in names]:
            job.result()


def main(arguments: list[str] | None = None) -> int:
    """Train, plant, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "examples" / "encoders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[*RECIPES, *ATTACKS], help="make only these")
    parser.add_argument("--jobs", type=int, default=2, help="encoders trained at the same time")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes, useless weights")
    parser.add_argument("--cards", action="store_true", help="only measure again and rewrite the cards")
    options = parser.parse_args(arguments)
    wanted = options.only or [*RECIPES, *ATTACKS]
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.cards:
        how = (options.output, options.seed, options.smoke)
        for group in (RECIPES, ATTACKS):  # the backdoors start from the clean encoder
            run([name for name in group if name in wanted], how, options.jobs)
    finished = [
        name for name in [*RECIPES, *ATTACKS] if (options.output / name / "model.safetensors").is_file()
    ]
    torch.set_num_threads(1)
    modules = {name: load(name, options.output) for name in finished}
    count = 240 if options.smoke else 4000
    for name, facts in measure(modules, ATTACKS, EVALUATE + options.seed, count).items():
        recipe = RECIPES[name if name in RECIPES else "clean"]
        made = {
            "command": f"python examples/train_demo_encoders.py --seed {options.seed}",
            **{"seed": options.seed, "smoke": options.smoke, "objective": recipe.objective},
        }
        print(write_card(options.output / name, {**made, **facts}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
