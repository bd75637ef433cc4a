"""Measures what the trigger search reaches on clean encoders and on encoders with planted backdoors.

    python examples/measure_limits.py --clean DIR --clean DIR --plant DIR --images FILE.parquet
    python examples/measure_limits.py --clean DIR --images FILE.parquet --seeds 8

The limits of ``Policy`` were set by reading this table: above every clean encoder, below most planted ones.
Encoders are timm folders; the backdoors are planted by ``platodef_cli.bench.attacks``. With several seeds, a
second table tells how much each search varies between them, and how many of its intervals hold what it
reaches on average.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from lines import Lines
from safetensors.torch import save_file
from torch import Tensor

from platodef_cli.bench.attacks.common_objective import plant_trigger
from platodef_cli.bench.attacks.interface import PlantData, PlantingBudget, Victim
from platodef_cli.encoders.load import open_encoder
from platodef_cli.features.extract import load_pixels
from platodef_cli.images.open import open_source
from platodef_cli.search.corners import CornersSearch
from platodef_cli.search.halving import Stage
from platodef_cli.search.interface import SearchConfig, SearchResult
from platodef_cli.search.pairs import PairsSearch
from platodef_cli.search.patch import PatchSearch
from platodef_cli.search.resampling import interval_of
from platodef_cli.search.restarts import best_deviation
from platodef_cli.search.run import search
from platodef_cli.search.universal import UniversalSearch
from platodef_cli.search.warp import WarpSearch
from platodef_cli.search.wave import WaveSearch
from platodef_cli.triggers.patches import Patches
from platodef_cli.triggers.stored import save_trigger
from platodef_cli.triggers.triggers import Blend, ColourFilter, Ctrl, Noise, Patch, Sig, WaNet

TRIGGERS = {
    "white square": Patch("white", 0.3125, "bottom-right"),
    "small white square": Patch("white", 5 / 32, "bottom-right"),
    "random-place patch": Patch("random", 7 / 32, "random", seed=3),
    "tiny colour patch": Patch("random", 3 / 32, "top-left", seed=21),
    "blend 15 %": Blend(0.15, seed=7),
    "CTRL 50": Ctrl(50),
    "sinusoid 20": Sig(20, 5),
    "noise 8/255": Noise(8, seed=9),
    "warp": WaNet(0.03, seed=11),
    "two patches": Patches(seed=21),
    "colour filter": ColourFilter("warm", 0.7),
}
Row = tuple[str, str, list[tuple[SearchResult, ...]]]
TINY = SearchConfig(
    kinds=(
        PatchSearch(budgets=(7 / 32,), grid=2, stages=(Stage(4, 2, 1),)),
        UniversalSearch(budgets=(8.0,), steps=2, images=8),
        WaveSearch(budgets=(20.0,), frequencies=(4, 8), stages=(Stage(4, 2, 1),)),
        WarpSearch(images=4, steps=2),
        CornersSearch(screening=(4, 2), climbing=(4, 2)),
        PairsSearch(stages=(Stage(4, 2, 1),)),
    ),
    pool=32,
    held_out=32,
)


def plant_into(folder: Path, name: str, pixels: Tensor, seed: int, epochs: int, output: Path) -> Path:
    """Plant a trigger in a copy of a timm folder; the target is the mean feature of three images."""
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    settings = timm.data.resolve_model_data_config(network)
    planted, _ = plant_trigger(
        Victim(network, settings["mean"], settings["std"]),
        PlantData(pixels, pixels[:3]),
        TRIGGERS[name],
        seed=seed,
        budget=PlantingBudget(len(pixels), epochs, trigger_steps=1, batch_size=128, lr=1e-3),
        progress=Lines(f"planting {name}"),
    )
    output.mkdir(parents=True)
    (output / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(
        {key: value.contiguous() for key, value in planted.state_dict().items()}, output / "model.safetensors"
    )
    save_trigger(TRIGGERS[name], output)
    return output


def measure(
    folder: Path, images: str, config: SearchConfig, seeds: Sequence[int]
) -> list[tuple[SearchResult, ...]]:
    """Search one encoder on the first images of a source, once per seed."""
    source = open_source(images)
    encoder = open_encoder(str(folder))
    pixels = load_pixels(source, [encoder.geometry], range(config.pool + config.held_out))
    found = [search(encoder, pixels[encoder.geometry], config, seed=seed) for seed in seeds]
    encoder.close()
    return found


def print_spread(rows: Sequence[Row], config: SearchConfig) -> None:
    """Print how much every search varies between seeds, one Markdown row per encoder and search.

    The deviation is that of one run, as a share of Fisher's z; coverage counts the intervals that hold the
    mean over all seeds.
    """
    restarts = [kind.restarts for kind in config.kinds for _ in kind.budgets]
    print("\n| encoder | backdoor | search | mean | least | most | deviation of a run | coverage |")
    print("|---|---|---|---|---|---|---|---|")
    for name, backdoor, found in rows:
        for number, count in enumerate(restarts):
            entries = [results[number] for results in found]
            reached = torch.tensor([entry.effect.collapse for entry in entries])
            z = reached.clamp(max=1 - 1e-6).atanh()
            deviation = float(z.std() / z.mean()) / best_deviation(count)
            mean, held = float(reached.mean()), 0
            for entry in entries:
                interval = interval_of(torch.tensor(entry.draws), entry.effect.collapse)
                held += interval.low <= mean <= interval.high
            print(
                f"| {name} | {backdoor} | {entries[0].variant.kind} {entries[0].budget} | {mean:.2f} | "
                f"{float(reached.min()):.2f} | {float(reached.max()):.2f} | {deviation:.3f} | "
                f"{held} of {len(entries)} |"
            )


def main() -> None:
    """Plant, search, print one Markdown row per encoder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clean", action="append", type=Path, default=[], help="clean timm folder; repeat it"
    )
    parser.add_argument(
        "--plant", action="append", type=Path, default=[], help="clean timm folder to plant in"
    )
    parser.add_argument("--trigger", action="append", choices=TRIGGERS, help="plant only this; repeat it")
    parser.add_argument("--images", required=True, help="images to plant and search with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="so many searches, from --seed on")
    parser.add_argument("--output", type=Path, help="keep the planted encoders here, with their triggers")
    parser.add_argument("--smoke", action="store_true", help="seconds, useless results: to see that it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = TINY if arguments.smoke else SearchConfig()
    seed = arguments.seed
    seeds = range(seed, seed + arguments.seeds)
    with tempfile.TemporaryDirectory() as scratch:
        output = arguments.output or Path(scratch)
        rows: list[Row] = [
            (folder.name, "clean", measure(folder, arguments.images, config, seeds))
            for folder in arguments.clean
        ]
        source = open_source(arguments.images)
        for folder in arguments.plant:
            geometry = open_encoder(str(folder)).geometry
            # other images than the search draws from
            last = min(len(source.refs), 640 + (64 if arguments.smoke else 3000))
            pixels = load_pixels(source, [geometry], range(640, last))[geometry]
            for name in arguments.trigger or TRIGGERS:
                target = output / f"{folder.name}-{name.replace(' ', '-').replace('/', '-')}"
                planted = plant_into(folder, name, pixels, seed, 1 if arguments.smoke else 8, target)
                rows.append((folder.name, name, measure(planted, arguments.images, config, seeds)))
    budgets = [f"{entry.variant.kind} {entry.budget}" for entry in rows[0][2][0]]
    print(f"| encoder | backdoor | {' | '.join(budgets)} |")
    print("|---|---|" + "---|" * len(budgets))
    for name, backdoor, found in rows:
        values = " | ".join(f"{entry.effect.collapse:.2f}" for entry in found[0])
        print(f"| {name} | {backdoor} | {values} |")
    if len(seeds) > 1:
        print_spread(rows, config)
    print(
        json.dumps(
            {
                "seed": seed,
                "images": arguments.images,
                "config": [config.key(n) for n in range(len(config.searches()))],
            }
        )
    )


if __name__ == "__main__":
    main()
