"""Sketches of the embedded encoders for the package, and how far models stand from what they were made from.

    python examples/measure_lineage.py --ship                            # writes examples/lineage/
    python examples/measure_lineage.py --zoo zoo/ --pair planted:CHILD=BASE -o examples/LINEAGE.md

A zoo says itself which encoder was made from which; other folders are named in pairs. Nothing is trained, and
weights are only read.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from platodef_cli.bench.zoo.manifest import open_zoo  # noqa: E402
from platodef_cli.encoders.checks.preflight import preflight  # noqa: E402
from platodef_cli.encoders.interface import Encoder  # noqa: E402
from platodef_cli.encoders.lineage.compare import Comparison, compare, nearest  # noqa: E402
from platodef_cli.encoders.lineage.index import Known, known_of, text_of  # noqa: E402
from platodef_cli.encoders.load import open_encoder  # noqa: E402
from platodef_cli.features.extract import CLEAN, Request, extract  # noqa: E402
from platodef_cli.images.open import open_source  # noqa: E402
from platodef_cli.resources import data_dir  # noqa: E402
from platodef_cli.search.statistics import CleanStatistics  # noqa: E402
from platodef_cli.triggers.battery import battery  # noqa: E402

SHIPPED = ("clean", "reference-cnx", "reference-vit")


@dataclass(frozen=True)
class Row:
    """One model beside what it was made from.

    Attributes:
        group: Where it comes from.
        kind: How it was made.
        comparison: By weights; None where there is no common layer.
        found: The nearest of all other models of the group is what it was made from.
        drift: Mean cosine of its features to the base's on clean images, and under the change that
            separates them most; None where it was not asked for.
    """

    group: str
    kind: str
    comparison: Comparison | None
    found: bool
    drift: tuple[float, float] | None = None


def known(folder: Path, name: str) -> Known:
    """Return the sketch of a folder."""
    return known_of(preflight(folder), name=name, uri=name, commit=None)


def ship(folder: Path) -> None:
    """Write the sketches of the embedded encoders that are honest."""
    folder.mkdir(exist_ok=True)
    for name in SHIPPED:
        checked = preflight(data_dir("encoders") / name)
        entry = known_of(checked, name=name, uri=f"builtin:{name}", commit=None)
        (folder / f"{name}.json").write_text(text_of(entry), encoding="utf-8")
        print(f"{name}: {(folder / f'{name}.json').stat().st_size} bytes")


def drift_of(child: Path, base: Path, images: str | None, most: int) -> tuple[float, float] | None:
    """Return how the features of two encoders agree, on clean images and under the worst change of a battery.

    As an audit with ``--base`` measures it, with the quick battery and without the changes of a search.
    """
    if images is None:
        return None
    source = open_source(images, limit=most)
    encoders: dict[str, Encoder] = {
        "child": open_encoder(str(child), name="child"),
        "base": open_encoder(str(base), name="base"),
    }
    if encoders["child"].record.dim != encoders["base"].record.dim:
        return None
    changes = [item.variant for item in battery("quick")]
    extraction = extract(source, encoders, [Request(), *(Request(change) for change in changes)])
    clean = {name: CleanStatistics.of(extraction.features(name)[1]) for name in encoders}

    def agreement(change: str) -> float:
        one, two = (clean[name].standardise(extraction.features(name, change)[1]) for name in encoders)
        return float(torch.cosine_similarity(one.double(), two.double(), dim=1).mean())

    return agreement(CLEAN), min(agreement(change.name) for change in changes)


def of_zoo(root: Path, images: str | None, most: int) -> Iterator[Row]:
    """Yield every encoder of a zoo that was made from another one."""
    zoo = open_zoo(root)
    all_known = {name: known(zoo.folder(name), name) for name in zoo.cards}
    for name, card in zoo.cards.items():
        if card.parent is None or card.parent not in all_known:
            continue
        own = all_known[name]
        # what was made later, or beside it, is no candidate for what it was made from
        roots = [entry for other, entry in all_known.items() if zoo.cards[other].parent is None]
        best = nearest(own.layers, roots, own.digest)
        yield Row(
            f"zoo {zoo.manifest.recipe}",
            f"planted: {card.backdoor.attack}" if card.backdoor else f"benign: {card.made}",
            compare(own.layers, all_known[card.parent]),
            best is not None and best.related and best.known.name == card.parent,
            drift_of(zoo.folder(name), zoo.folder(card.parent), images, most),
        )


def unrelated(root: Path) -> list[float]:
    """Return the cosines of the comparable models of a zoo that have nothing to do with each other."""
    zoo = open_zoo(root)
    roots = [known(zoo.folder(name), name) for name, card in zoo.cards.items() if card.parent is None]
    pairs = [compare(one.layers, two) for i, one in enumerate(roots) for two in roots[:i]]
    return [abs(entry.cosine) for entry in pairs if entry is not None]


def of_pair(text: str, images: str | None, most: int) -> Row:
    """Return the row of ``KIND:CHILD=BASE``."""
    kind, _, folders = text.partition(":")
    child, _, base = folders.partition("=")
    one, two = known(Path(child), Path(child).name), known(Path(base), Path(base).name)
    found = compare(one.layers, two)
    return Row(
        "real",
        f"{kind}: {Path(child).name}",
        found,
        found is not None and found.related,
        drift_of(Path(child), Path(base), images, most),
    )


def table(rows: list[Row]) -> str:
    """Return one line per group and kind: numbers are the smallest and the largest."""
    lines = [
        "| models | how made | number | base found | weights: cosine | unchanged matrices | features: clean "
        "images | features: worst change |"
    ]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|")
    for group, kind in sorted({(row.group, row.kind) for row in rows}):
        some = [row for row in rows if (row.group, row.kind) == (group, kind)]
        with_weights = [row.comparison for row in some if row.comparison is not None]
        cells = [
            group,
            kind,
            str(len(some)),
            str(sum(row.found for row in some)),
            span([entry.cosine for entry in with_weights]),
            span([sum(layer.same for layer in entry.layers) / len(entry.layers) for entry in with_weights]),
            span([row.drift[0] for row in some if row.drift is not None]),
            span([row.drift[1] for row in some if row.drift is not None]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def span(values: list[float]) -> str:
    """Return the smallest and the largest value."""
    if not values:
        return "–"
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}"


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ship", action="store_true", help="write examples/lineage/ and end")
    parser.add_argument("--zoo", type=Path, action="append", default=[], help="a zoo; repeat it")
    parser.add_argument("--pair", action="append", default=[], metavar="KIND:CHILD=BASE")
    parser.add_argument("--zoo-images", help="measure features of the zoos on these images too")
    parser.add_argument("--pair-images", help="the same of the pairs")
    parser.add_argument("--images", type=int, default=300, help="of them, at most")
    parser.add_argument("-o", "--output", type=Path, help="page with <!-- measured -->; default: the screen")
    options = parser.parse_args()
    if options.ship:
        ship(ROOT / "examples" / "lineage")
        return
    rows = [row for root in options.zoo for row in of_zoo(root, options.zoo_images, options.images)]
    rows += [of_pair(text, options.pair_images, options.images) for text in options.pair]
    apart = [value for root in options.zoo for value in unrelated(root)]
    text = table(rows)
    if apart:
        text += (
            f"\n\nCosine of {len(apart)} pairs of encoders with the same layers and nothing else in common: "
            f"{max(apart):.3f} at most.\n"
        )
    if options.output is None:
        print(text)
        return
    before, mark, rest = options.output.read_text(encoding="utf-8").partition("<!-- measured -->\n")
    if not mark:
        raise SystemExit(f"{options.output} has no line <!-- measured -->")
    after = rest[rest.index("<!-- /measured -->") :]
    options.output.write_text(f"{before}{mark}\n{text.strip()}\n\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
