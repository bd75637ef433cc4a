"""Fit the heads of the embedded suspects on ``builtin:shapes``, so that a first audit need not wait.

The same seed on the same machine and library versions gives the same bytes::

    python examples/fit_demo_heads.py                                # minutes
    python examples/fit_demo_heads.py --smoke --output /tmp/heads    # seconds, useless heads
"""

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from lines import Lines  # noqa: E402

from platodef_cli.encoders.interface import Encoder  # noqa: E402
from platodef_cli.encoders.load import open_encoder  # noqa: E402
from platodef_cli.features.extract import Request, extract  # noqa: E402
from platodef_cli.features.interface import FeatureTuples  # noqa: E402
from platodef_cli.heads.card import HeadCard  # noqa: E402
from platodef_cli.heads.config import FitConfig  # noqa: E402
from platodef_cli.heads.fit import fit_heads  # noqa: E402
from platodef_cli.heads.pretrained import save_heads  # noqa: E402
from platodef_cli.images.shapes import ShapesSource  # noqa: E402

SUSPECTS = ("clean", "backdoored", "backdoored-frequency")
REFERENCES = ("reference-vit", "reference-cnx")
WORLD = 5001  # neither the encoders' training images nor the default images of an audit (world 0)
CONFIG = FitConfig(lift_features=256)  # closed forms; small enough to ship, below 2 MB per suspect


def fit_one(
    suspect: str,
    encoders: dict[str, Encoder],
    source: ShapesSource,
    config: FitConfig,
    seed: int,
    folder: Path,
) -> None:
    """Fit the heads of one suspect against the references and write them."""
    progress = Lines(suspect)
    features = extract(source, encoders, [Request()], progress=progress)
    tuples = FeatureTuples(
        source=features.features(suspect)[1],
        references={name: features.features(name)[1] for name in REFERENCES},
    )
    heads = fit_heads(tuples, config, seed=seed, progress=progress)
    card = HeadCard(
        name=f"builtin-{suspect}",
        source=encoders[suspect].record,
        references=tuple(encoders[name].record for name in REFERENCES),
        trained_on=source.uri,
        notes=f"Made by examples/fit_demo_heads.py --seed {seed}; for demonstrations and tests.",
    )
    save_heads(folder, heads, card=card)
    measured = ", ".join(f"{name} {value:.4f}" for name, value in sorted(heads.metrics.items()))
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{suspect}: {measured}; {size} bytes", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Extract, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "pretrained_heads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=SUSPECTS, default=SUSPECTS, help="fit only these")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes, useless heads")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # sums in another order would change the bytes
    source = ShapesSource(seed=WORLD + options.seed, count=300 if options.smoke else 8000)
    references = {name: open_encoder(f"builtin:{name}", name=name) for name in REFERENCES}
    for suspect in options.only:
        encoders = {suspect: open_encoder(f"builtin:{suspect}", name=suspect), **references}
        fit_one(suspect, encoders, source, CONFIG, options.seed, options.output / f"builtin-{suspect}")
        encoders[suspect].close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
