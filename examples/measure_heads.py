"""Measures detection and purification of the heads against ridge, on backdoored encoders, over fit seeds.

    python examples/measure_heads.py --suspect "DIR=white square=9" --plant DIR --trigger "CTRL 50" \
        --reference DIR --reference DIR --reference DIR --fit-images FILE.parquet --test-images FILE.parquet

A ``--suspect`` has a backdoor already (its trigger and target label are told); in a ``--plant`` folder one is
planted per ``--trigger``. Nothing is fitted on triggered images.
One of the references is corrupted in two ways: its features are of other images, or (``--bad-reference``)
it carries the same backdoor. Finished runs are kept in ``--output`` and not computed again.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lines import Lines
from measure_limits import TRIGGERS, plant_into
from scipy import stats
from torch import Tensor

from platodef_cli.defences import make_detector, make_purifier, purify_flagged
from platodef_cli.defences.calibrate import conformal_threshold, stored_clean_scores
from platodef_cli.encoders.load import open_encoder
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import CLEAN, Extraction, Request, extract, load_pixels
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.evaluate import auroc, blame_references
from platodef_cli.heads.fit import FitConfig, fit_heads, preset
from platodef_cli.heads.heads import Heads
from platodef_cli.images.interface import ImageSource
from platodef_cli.images.open import open_source
from platodef_cli.metrics.guarantee import mismatched
from platodef_cli.metrics.linear_probe import LinearProbe

DETECTORS = ("ridge", "gaussian", "energy", "robust", "platonic", "knn")
PURIFIERS = ("ridge", "gaussian", "mean")
RATE = 0.05  # false positive rate of the flagged-only rows
PLANT_IMAGES = 3000


@dataclass(frozen=True)
class Case:
    """One backdoored encoder.

    Attributes:
        folder: timm folder.
        trigger: Row of ``TRIGGERS``.
        target: Target label.
    """

    folder: Path
    trigger: str
    target: int

    @property
    def name(self) -> str:
        """Encoder and trigger."""
        return f"{self.folder.name.partition('-' + self.trigger.replace(' ', '-'))[0]}, {self.trigger}"


@dataclass(frozen=True)
class Data:
    """Features of one case.

    Attributes:
        fit: Clean tuples with labels.
        clean: Clean test tuples.
        triggered: The non-target test images with the trigger.
    """

    fit: FeatureTuples
    clean: FeatureTuples
    triggered: FeatureTuples


def tuples(
    source: ImageSource, features: Extraction, suspect: str, references: Sequence[str], variant: str
) -> FeatureTuples:
    """Collect one variant, with labels."""
    rows, values = features.features(suspect, variant)
    labels = torch.tensor([source.refs[int(row)].label for row in rows])
    return FeatureTuples(values, {name: features.features(name, variant)[1] for name in references}, labels)


def collect(case: Case, folders: dict[str, Path], arguments: argparse.Namespace) -> Data:
    """Extract every feature of a case."""
    trigger = TRIGGERS[case.trigger]
    encoders = {name: open_encoder(str(folder), name=name) for name, folder in folders.items()}
    encoders["suspect"] = open_encoder(str(case.folder), name="suspect")
    cache = FeatureCache(arguments.cache)
    limit = arguments.fit_limit
    fit_source, test_source = open_source(arguments.fit_images), open_source(arguments.test_images)
    progress = Lines(case.name)
    fitted = extract(
        fit_source,
        encoders,
        [Request(None, range(min(limit, len(fit_source.refs))))],
        cache=cache,
        progress=progress,
    )
    rows = range(min(arguments.test_limit, len(test_source.refs)))
    tested = extract(
        test_source, encoders, [Request(None, rows), Request(trigger, rows)], cache=cache, progress=progress
    )
    for encoder in encoders.values():
        encoder.close()
    names = list(folders)
    triggered = tuples(test_source, tested, "suspect", names, trigger.name)
    assert triggered.labels is not None
    return Data(
        tuples(fit_source, fitted, "suspect", names, CLEAN),
        tuples(test_source, tested, "suspect", names, CLEAN),
        triggered.select(triggered.labels != case.target),
    )


def shuffled(part: FeatureTuples, name: str, seed: int) -> FeatureTuples:
    """Give every row another image's feature of one reference."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    return replace(part, references={**part.references, name: part.references[name][order]})


def areas(heads: Heads, data: Data, names: Sequence[str]) -> dict[str, float]:
    """Return the AUROC of clean against triggered per detector."""
    bank = data.fit.select(torch.arange(0, len(data.fit), 4))
    found = {}
    for name in names:
        detector = make_detector(name, heads, bank if name == "knn" else None)
        found[name] = auroc(detector.score(data.clean), detector.score(data.triggered))
    return found


def rates(probe: LinearProbe, clean: Tensor, triggered: Tensor, data: Data, target: int) -> dict[str, float]:
    """Return CA, PA and ASR."""
    assert data.clean.labels is not None
    assert data.triggered.labels is not None
    predicted = probe.predict(triggered)
    return {
        "CA": probe.accuracy(clean, data.clean.labels),
        "PA": float((predicted == data.triggered.labels).double().mean()),
        "ASR": float((predicted == target).double().mean()),
    }


def purification(heads: Heads, data: Data, target: int, seed: int) -> dict[str, dict[str, float]]:
    """Return CA, PA and ASR undefended, with all samples purified, and with the flagged ones only."""
    assert data.fit.labels is not None
    probe = LinearProbe.fit(data.fit.source, data.fit.labels, seed=seed)
    found = {"none": rates(probe, data.clean.source, data.triggered.source, data, target)}
    detector = make_detector("platonic", heads)
    stored = stored_clean_scores("platonic", heads)
    assert stored is not None
    threshold = conformal_threshold(stored, RATE)
    parts = (data.clean, data.triggered)
    flagged = [detector.score(part) > threshold for part in parts]
    for name in PURIFIERS:
        purifier = make_purifier(name, heads)
        generator = torch.Generator().manual_seed(seed)
        whole = [purifier.purify(part, generator=generator) for part in parts]
        found[name] = rates(probe, whole[0], whole[1], data, target)
        some = [
            purify_flagged(purifier, part, flags, generator)
            for part, flags in zip(parts, flagged, strict=True)
        ]
        found[f"{name}, flagged only"] = rates(probe, some[0], some[1], data, target)
    return found


def corrupted(heads: Heads, data: Data, seed: int) -> dict[str, Any]:
    """Return AUROC and blame with the features of each reference taken from other images."""
    found: dict[str, Any] = {"none": {"blame": blame_references(heads, data.triggered, data.clean)}}
    for name in heads.reference_names:
        bad = Data(data.fit, shuffled(data.clean, name, seed), shuffled(data.triggered, name, seed + 1))
        found[name] = {
            "auroc": areas(heads, bad, ("ridge", "platonic", "robust")),
            "blame on clean images": blame_references(heads, bad.clean, data.clean),
            "blame on triggered images": blame_references(heads, bad.triggered, data.clean),
        }
    return found


def measure(case: Case, data: Data, config: FitConfig, seed: int) -> dict[str, Any]:
    """Fit with one seed and measure everything."""
    heads = fit_heads(data.fit, config, seed=seed, progress=Lines(f"{case.name}, seed {seed}"))
    wrong = mismatched(data.clean, seed)
    matched = {}
    for name in ("ridge", "energy", "platonic"):
        detector = make_detector(name, heads)
        matched[name] = auroc(detector.score(data.clean), detector.score(wrong))
    return {
        "case": case.name,
        "seed": seed,
        "auroc": areas(heads, data, DETECTORS),
        "matched": matched,
        "purification": purification(heads, data, case.target, seed),
        "corrupted": corrupted(heads, data, seed),
    }


def measure_bad_reference(
    case: Case, bad: str, folders: dict[str, Path], arguments: argparse.Namespace, pixels: Tensor
) -> dict[str, Any]:
    """Fit with a reference that carries the suspect's own backdoor."""
    with tempfile.TemporaryDirectory() as scratch:
        planted = plant_into(folders[bad], case.trigger, pixels, 0, arguments.epochs, Path(scratch) / "bad")
        data = collect(case, {**folders, bad: planted}, arguments)
    heads = fit_heads(data.fit, arguments.config, seed=0, progress=Lines(f"{case.name}, {bad} backdoored"))
    return {
        "case": case.name,
        "bad": bad,
        "auroc": areas(heads, data, ("ridge", "platonic", "robust")),
        "blame": blame_references(heads, data.triggered, data.clean),
    }


def interval(values: Sequence[float]) -> str:
    """Return the mean and half of its 95 % t-interval over the seeds."""
    if len(values) < 2:
        return f"{values[0]:.4f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.4f} ± {half:.4f}"


def tables(results: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown tables of all finished runs."""
    runs = [entry for entry in results.values() if "seed" in entry]
    cases = list(dict.fromkeys(entry["case"] for entry in runs))

    def row(title: str, pick: Any) -> str:
        cells = [interval([pick(entry) for entry in runs if entry["case"] == case]) for case in cases]
        seeds = sorted({entry["seed"] for entry in runs})
        means = [statistics.mean(pick(entry) for entry in runs if entry["seed"] == seed) for seed in seeds]
        return f"| {title} | {' | '.join(cells)} | {interval(means)} |"

    head = f"| | {' | '.join(cases)} | mean |\n|---|" + "---|" * (len(cases) + 1)
    lines = ["AUROC, clean against triggered", "", head]
    lines += [row(name, lambda e, n=name: e["auroc"][n]) for name in DETECTORS]
    lines += ["", "AUROC, matched against mismatched", "", head]
    lines += [row(name, lambda e, n=name: e["matched"][n]) for name in ("ridge", "energy", "platonic")]
    for what in ("CA", "PA", "ASR"):
        lines += ["", what, "", head]
        keys = list(runs[0]["purification"])
        lines += [row(key, lambda e, k=key, w=what: e["purification"][k][w]) for key in keys]
    lines += ["", "AUROC with one reference's features taken from other images", "", head]
    for name in [key for key in runs[0]["corrupted"] if key != "none"]:
        for detector in ("ridge", "platonic", "robust"):
            lines.append(
                row(f"{name}: {detector}", lambda e, n=name, d=detector: e["corrupted"][n]["auroc"][d])
            )
    bad = [entry for entry in results.values() if "bad" in entry]
    if bad:
        lines += [
            "",
            "One backdoored reference (seed 0)",
            "",
            "| case | reference | ridge | platonic | robust |",
        ]
        lines.append("|---|---|---|---|---|")
        for entry in bad:
            values = " | ".join(f"{entry['auroc'][name]:.4f}" for name in ("ridge", "platonic", "robust"))
            lines.append(f"| {entry['case']} | {entry['bad']} | {values} |")
    return "\n".join(lines)


def cases_of(arguments: argparse.Namespace, root: Path) -> list[Case]:
    """Return the given backdoored encoders, and plant the others (once)."""
    cases = []
    for text in arguments.suspect:
        folder, trigger, target = text.split("=")
        cases.append(Case(Path(folder), trigger, int(target)))
    for folder in arguments.plant:
        for number, name in enumerate(arguments.trigger):
            planted = root / f"{folder.name}-{name.replace(' ', '-')}"
            target = number % arguments.classes
            if not (planted / "model.safetensors").is_file():
                pixels = planting_pixels(folder, target, arguments)
                plant_into(folder, name, pixels, 0, arguments.epochs, planted)
            cases.append(Case(planted, name, target))
    return cases


def planting_pixels(folder: Path, target: int, arguments: argparse.Namespace) -> Tensor:
    """Return images that are not used elsewhere, three of the target class first (they define the target)."""
    source = open_source(arguments.fit_images)
    first = arguments.plant_first
    rows = list(range(first, min(len(source.refs), first + arguments.plant_images)))
    chosen = [row for row in rows if source.refs[row].label == target][:3]
    with open_encoder(str(folder)) as encoder:
        geometry = encoder.geometry
    return load_pixels(source, [geometry], [*chosen, *(row for row in rows if row not in chosen)])[geometry]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suspect", action="append", default=[], metavar="DIR=TRIGGER=LABEL")
    parser.add_argument("--plant", action="append", type=Path, default=[], help="clean timm folder")
    parser.add_argument("--trigger", action="append", choices=TRIGGERS, default=[])
    parser.add_argument("--reference", action="append", type=Path, required=True)
    parser.add_argument("--bad-reference", help="name of a reference to plant the same backdoor in")
    parser.add_argument("--fit-images", required=True)
    parser.add_argument("--test-images", required=True)
    parser.add_argument("--fit-limit", type=int, default=10_000)
    parser.add_argument("--test-limit", type=int, default=5_000)
    parser.add_argument("--plant-first", type=int, default=20_000, help="first image to plant with")
    parser.add_argument("--plant-images", type=int, default=PLANT_IMAGES)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=15, help="of planting")
    parser.add_argument("--seeds", type=int, default=5, help="fits per encoder; 0 plants only")
    parser.add_argument("--output", type=Path, required=True, help="folder of results and planted encoders")
    parser.add_argument("--cache", type=Path, help="feature cache")
    parser.add_argument("--smoke", action="store_true", help="seconds, useless results: to see that it runs")
    arguments = parser.parse_args()
    arguments.config = preset("tiny")
    if arguments.smoke:
        quick = replace(arguments.config.energy, epochs=1)
        arguments.config = replace(arguments.config, energy=quick, denoiser=quick, lift_features=16)
    return arguments


def main() -> None:
    """Plant, fit, measure; write results.json and print the tables."""
    arguments = parse()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    arguments.cache = arguments.cache or arguments.output / "cache"
    place = arguments.output / "results.json"
    results: dict[str, dict[str, Any]] = json.loads(place.read_text()) if place.is_file() else {}
    folders = {folder.name: folder for folder in arguments.reference}

    def keep(key: str, entry: dict[str, Any]) -> None:
        results[key] = entry
        place.write_text(json.dumps(results, indent=1) + "\n")

    for case in cases_of(arguments, arguments.output):
        missing = [seed for seed in range(arguments.seeds) if f"{case.name}, seed {seed}" not in results]
        if missing:
            data = collect(case, folders, arguments)
            for seed in missing:
                keep(f"{case.name}, seed {seed}", measure(case, data, arguments.config, seed))
        bad = arguments.bad_reference
        if bad and f"{case.name}, {bad} backdoored" not in results:
            pixels = planting_pixels(folders[bad], case.target, arguments)
            entry = measure_bad_reference(case, bad, folders, arguments, pixels)
            keep(f"{case.name}, {bad} backdoored", entry)
    if results:
        print(tables(results))


if __name__ == "__main__":
    main()
