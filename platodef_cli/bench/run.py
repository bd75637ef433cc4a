"""Runs one table of the benchmark and describes how."""

import os
import platform
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch

from platodef_cli.bench import TABLES
from platodef_cli.bench.benchmark_run import BenchmarkRun, BenchmarkTable, versions_of_libraries
from platodef_cli.bench.cells import CellStore
from platodef_cli.bench.config import BenchConfig
from platodef_cli.bench.feature_store import FeatureStore, open_benchmark_images, public_uri
from platodef_cli.bench.rendering import rounded
from platodef_cli.bench.results import BenchResult
from platodef_cli.bench.zoo.card import read_card
from platodef_cli.bench.zoo.dataset import SHAPES, shapes_seeds
from platodef_cli.bench.zoo.manifest import Zoo, open_zoo
from platodef_cli.errors import UsageError
from platodef_cli.progress import SILENT, Progress
from platodef_cli.version import __version__

SHAPES_IMAGES = "builtin:shapes?seed=11&count=4000"


def bench(config: BenchConfig, *, progress: Progress = SILENT) -> BenchResult:
    """Fill one table.

    Finished cells are kept in the results folder of the zoo, so an interrupted run goes on where it
    stopped.

    Raises:
        UsageError: There is no zoo, no such table or encoder, or the images are wrong.
        InconclusiveError: The zoo has no encoder that the table needs, or there are too few images.
    """
    fill = TABLES.load(config.table)
    zoo = open_zoo(config.zoo)
    _check_names(config.only, zoo)
    benchmark_images = open_benchmark_images(
        _images(config, zoo), config.limit, zoo.manifest.classes, progress
    )
    store = CellStore(config.results or config.zoo / "results" / config.table, fresh=config.fresh)
    feature_store = FeatureStore(zoo, benchmark_images)
    try:
        table: BenchmarkTable = fill(BenchmarkRun(config, feature_store, store, progress))
    finally:
        feature_store.close()
    planned = {planned.name for planned in zoo.manifest.encoders}
    result = BenchResult(
        table=config.table,
        title=table.title,
        command=config.command,
        tool_version=__version__,
        recipe=zoo.manifest.recipe,
        zoo_seed=zoo.manifest.seed,
        trained_on=public_uri(zoo.manifest.images),
        images=public_uri(benchmark_images.uri),
        seeds=config.seeds,
        configuration={**config.to_json(), **table.configuration},
        libraries={"python": platform.python_version(), **versions_of_libraries()},
        device=f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)",
        encoders={name: _weights(feature_store, name) for name in sorted(feature_store.used)},
        grids=table.grids,
        plots=table.plots,
        alignment=table.alignment,
        goals=table.goals,
        notes=table.notes,
        missing=tuple(sorted(planned - set(zoo.cards))),
        seconds=round(store.seconds, 1),
    )
    return rounded(result)


def _check_names(patterns: Sequence[str], zoo: Zoo) -> None:
    """Refuse a pattern that no encoder of the plan matches, finished or not."""
    names = [planned.name for planned in zoo.manifest.encoders]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"--only {pattern} matches no encoder of this zoo; they are: {', '.join(names)}")


def _images(config: BenchConfig, zoo: Zoo) -> str:
    if config.images is not None:
        if _trained_on(config.images, zoo):
            raise UsageError(f"the zoo was trained on {config.images}; give other images of the same classes")
        return config.images
    if zoo.manifest.images == SHAPES:
        return SHAPES_IMAGES
    raise UsageError(
        f"no images: the zoo was trained on {zoo.manifest.images}; give other labelled images of the same "
        "classes with --images"
    )


def _trained_on(images: str, zoo: Zoo) -> bool:
    """Tell whether these are images that the zoo was trained on."""
    trained = zoo.manifest.images
    if trained == SHAPES:
        return any(f"seed={dataset}&" in f"{images}&" for dataset in shapes_seeds(zoo.manifest.seed))
    if "://" in images or images.startswith("builtin:"):
        return images == trained
    return os.path.realpath(images) == os.path.realpath(trained)


def _weights(feature_store: FeatureStore, name: str) -> str:
    card = feature_store.zoo.cards.get(name) or read_card(feature_store.extra[name])
    return next(file.sha256 for file in card.files if file.path.endswith("model.safetensors"))
