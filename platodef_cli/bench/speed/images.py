"""Contests about images: several encoders in one pass, resuming after a kill, time in encoder kernels."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from platodef_cli.bench.speed.contest import Contest
from platodef_cli.bench.speed.networks_of_timm import NETWORK, as_encoder, random_network
from platodef_cli.encoders.interface import Encoder
from platodef_cli.encoders.precision import compare, may_be_faster
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import Extraction, Request, extract
from platodef_cli.images.open import open_source
from platodef_cli.progress import SILENT, Task

# images, pixels of a side of them, layers of the networks
_EXTRACTED = {"small": (4, 256, 1), "usual": (12, 800, 12), "real": (500, 2000, 12)}
_IN_KERNELS = {"small": (4, 256, 1), "usual": (12, 800, 12), "real": (48, 2000, 12)}
_RESUMED = {"small": (24, 96, 1), "usual": (16, 500, 6), "real": (64, 800, 12)}
_NETWORKS = 3
_BATCH = 16
_SHARD = 4


@dataclass
class _Scene:
    """Photographs, networks and encoders of one contest, made when they are needed first."""

    images: int
    side: int
    depth: int
    folder: Path

    def __post_init__(self) -> None:
        self.paths = _photographs(self.folder / "images", self.images, self.side)
        self.networks = [random_network(NETWORK, seed, self.depth) for seed in range(_NETWORKS)]

    def encoders(self, *, fast: bool) -> dict[str, Encoder]:
        """Return the networks as encoders, in bfloat16 where that is faster and the same."""
        made: dict[str, Encoder] = {}
        for number, network in enumerate(self.networks):
            encoder = as_encoder(network, f"network-{number}")
            if fast and may_be_faster("cpu", encoder.geometry):
                few = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8)
                found = compare(encoder, few)
                if found.same and found.faster:
                    encoder.tune(forward_dtype="bfloat16")
            made[f"network-{number}"] = encoder
        return made


def three_encoders(size: str) -> Contest:
    """P7: one decoding pass for three encoders against three passes of a plain loop."""
    images, side, depth = _EXTRACTED[size]
    kept = tempfile.TemporaryDirectory(prefix="platodef-bench-")
    scene = _Scene(images, side, depth, Path(kept.name))
    encoders = scene.encoders(fast=True)
    source = open_source(str(scene.folder / "images"), limit=None, seed=0)

    def ours() -> Tensor:
        found = extract(source, encoders, [Request()], batch_size=_BATCH)
        return torch.stack([found.features(name)[1] for name in encoders])

    def theirs() -> Tensor:
        return torch.stack([_plain_loop(network, scene.paths) for network in scene.networks])

    def quality(first: Tensor, second: Tensor) -> str:
        cosine = torch.cosine_similarity(first.double(), second.double(), dim=2).min()
        precision = next(iter(encoders.values())).record.dtype
        return f"cosine at least {float(cosine):.5f} ({precision})"

    return Contest(
        work=f"three {NETWORK} ({depth} layers) over {images} JPEGs of {side} x {side * 3 // 4}",
        peer="three passes of a plain timm loop",
        goal=3,
        ours=ours,
        theirs=theirs,
        quality=quality,
        kept=kept,
        profiled=lambda: [
            encoder.embed(torch.full((_BATCH, 3, 224, 224), 99, dtype=torch.uint8))
            for encoder in encoders.values()
        ],
        note="Without instructions for bfloat16 only two of three decodings are saved.",
    )


def in_kernels(size: str) -> Contest:
    """P10: the encoders alone on ready batches, as a share of the whole extraction."""
    images, side, depth = _IN_KERNELS[size]
    kept = tempfile.TemporaryDirectory(prefix="platodef-bench-")
    scene = _Scene(images, side, depth, Path(kept.name))
    encoders = scene.encoders(fast=True)
    source = open_source(str(scene.folder / "images"), limit=None, seed=0)
    ready = torch.randint(0, 256, (images, 3, 224, 224), dtype=torch.uint8)

    def theirs() -> None:
        for encoder in encoders.values():
            for start in range(0, images, _BATCH):
                encoder.embed(ready[start : start + _BATCH])

    return Contest(
        work=f"extraction by three {NETWORK} ({depth} layers), {images} JPEGs of {side} pixels",
        peer="the encoders alone on ready batches: the share of time that is not wasted",
        goal=0.5,
        ours=lambda: extract(source, encoders, [Request()], batch_size=_BATCH),
        theirs=theirs,
        quality=lambda ours, theirs: "a share, at most 1",
        kept=kept,
    )


def resuming(size: str) -> Contest:
    """P8: an extraction that was killed half way against one from the beginning."""
    images, side, depth = _RESUMED[size]
    kept = tempfile.TemporaryDirectory(prefix="platodef-bench-")
    folder = Path(kept.name)
    scene = _Scene(images, side, depth, folder)
    encoders = scene.encoders(fast=False)
    cache, half = folder / "cache", folder / "half"
    _killed(folder, half, images, side, depth)

    def prepare() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(half, cache)

    def ours() -> Extraction:
        return _cached_extraction(folder, encoders, cache)

    def theirs() -> Extraction:
        shutil.rmtree(cache, ignore_errors=True)
        return _cached_extraction(folder, encoders, cache)

    def quality(resumed: Extraction, whole: Extraction) -> str:
        same = all(torch.equal(resumed.values[key], whole.values[key]) for key in whole.values)
        bytes_ = "the same bytes" if same else "OTHER BYTES"
        return f"{resumed.hits} of {resumed.hits + resumed.misses} shards were there, {bytes_}"

    return Contest(
        work=f"extraction of {images} images by {_NETWORKS} encoders, killed at 50 %, resumed",
        peer="from the beginning",
        goal=1 / 0.55,
        ours=ours,
        theirs=theirs,
        quality=quality,
        prepare=prepare,
        kept=kept,
    )


class _Killing:
    """A progress that kills this process half way; implements :class:`platodef_cli.progress.Progress`."""

    def __init__(self) -> None:
        self._done = self._total = 0

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Task]:
        """Count the units of the step."""
        self._total = total or 0
        yield self

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Die at half of them."""
        self._done += amount
        if 2 * self._done >= self._total:
            os.kill(os.getpid(), signal.SIGKILL)

    def warn(self, message: str) -> None:
        """Do nothing."""


def die_half_way(folder: str, cache: str, images: int, side: int, depth: int) -> None:
    """Extract into a cache and be killed at half of the features: the process that P8 starts."""
    torch.set_num_threads(1)
    scene = _Scene(images, side, depth, Path(folder))
    _cached_extraction(Path(folder), scene.encoders(fast=False), Path(cache), _Killing())


def _killed(folder: Path, cache: Path, images: int, side: int, depth: int) -> None:
    """Leave the cache of a process that was killed."""
    arguments = (str(folder), str(cache), images, side, depth)
    code = f"from {__name__} import die_half_way; die_half_way(*{arguments!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    if done.returncode != -signal.SIGKILL:
        raise RuntimeError(f"the process was not killed: {done.stderr.decode(errors='replace')[-300:]}")


def _cached_extraction(
    folder: Path, encoders: dict[str, Encoder], cache: Path, progress: Any = SILENT
) -> Extraction:
    source = open_source(str(folder / "images"), limit=None, seed=0)
    return extract(
        source,
        encoders,
        [Request()],
        cache=FeatureCache(cache),
        batch_size=_SHARD,
        shard_size=_SHARD,
        progress=progress,
    )


def _plain_loop(network: nn.Module, paths: list[Path]) -> Tensor:
    """Return features as the documentation of timm has it, in batches."""
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(paths), _BATCH):
            batch = [transform(Image.open(path).convert("RGB")) for path in paths[start : start + _BATCH]]
            parts.append(network(torch.stack(batch)))
    return torch.cat(parts).clone()


def _photographs(folder: Path, count: int, side: int) -> list[Path]:
    """Write smooth random pictures with some noise as JPEGs; equal arguments give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
        noise = generator.normal(0, 6, (side * 3 // 4, side, 3))
        picture = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
        path = folder / f"{number:05}.jpg"
        Image.fromarray(picture).save(path, quality=90)
        paths.append(path)
    return paths
