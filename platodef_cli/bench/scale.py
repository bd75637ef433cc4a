"""What a piece of large work costs on this machine: images, rows, shards, processes, reports.

Every number is the median of several runs in CPU seconds (of this process, and of its children where it
starts some), on one computing thread; sizes are those of the files.
"""

import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from platodef_cli.encoders.geometry import Geometry, to_pixels
from platodef_cli.errors import IncompleteError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.card import HeadCard
from platodef_cli.heads.config import preset
from platodef_cli.heads.fit import fit_heads
from platodef_cli.heads.origin import encoder_records
from platodef_cli.heads.pretrained import save_heads
from platodef_cli.images.decode import decode
from platodef_cli.images.shapes import render
from platodef_cli.jobs.cleaning import Judging, Purifying, Scoring
from platodef_cli.jobs.extraction import SHARD_ROWS
from platodef_cli.jobs.pieces import JOURNAL, MANIFEST, Counts, Folder, InProcess, Piece, Work
from platodef_cli.progress import SILENT, Progress
from platodef_cli.report.summary.rows import read_rows
from platodef_cli.search.interface import SearchConfig
from platodef_cli.triggers.battery import battery

DIM, SIZE = 768, 224
ARCHITECTURE = "vit_base_patch16_224"
REFERENCES = 2
_JPEG = (500, 375)  # pixels of a usual photograph in data sets of images
_EMPTY = 400


@dataclass(frozen=True)
class ScaleCosts:
    """What was measured; times in CPU seconds, sizes in bytes.

    Attributes:
        machine: Processor and libraries.
        decode: One JPEG of 500 x 375 to 224 x 224.
        forward: One image through ViT-B/16 at 224 pixels, float32.
        backward: The same with the gradient of the pixels.
        extract_rows: Images of a shard.
        shard_bytes: A shard of 768-d features of a suspect and two references.
        write: To write and hash such a shard.
        score: To score one row.
        purify: To score and purify one row.
        piece: What the engine adds per shard: journal, hashes, names.
        manifest_bytes: Of the journal and the manifest, per shard.
        process: To start a process that audits, up to its first decision.
        report_bytes: A JSON report of a whole audit.
        summary: To read one report into the table.
        battery_images: Images that the battery makes an encoder see.
        search_images: Images that all searches send through an encoder with gradients, at most.
        ray_start: To start a cluster; None where ray is not installed.
    """

    machine: str
    decode: float
    forward: float
    backward: float
    extract_rows: int
    shard_bytes: int
    write: float
    score: float
    purify: float
    piece: float
    manifest_bytes: float
    process: float
    report_bytes: int
    summary: float
    battery_images: int
    search_images: int
    ray_start: float | None


def measure(report: Path, *, repeats: int = 3, progress: Progress = SILENT) -> ScaleCosts:
    """Measure everything.

    Args:
        report: A JSON report, for its size and the time to read it.
        repeats: Runs of which the median is taken.
        progress: Receives the steps.

    Raises:
        UsageError: The report cannot be read.
        IncompleteError: A process could not be started.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="platodef-scale-") as place:
            with progress.step("measuring images"):
                images = _images(repeats)
            with progress.step("measuring shards"):
                shards = _shards(Path(place), repeats)
            with progress.step("measuring processes and reports"):
                others = _others(Path(place), report, repeats)
    finally:
        torch.set_num_threads(threads)
    probes = 400 * len(battery())
    searches = sum(kind.restarts * kind.cost() for kind, _ in SearchConfig().searches())
    return ScaleCosts(
        machine=_machine(), battery_images=probes, search_images=searches, **images, **shards, **others
    )


def _seconds(action: Callable[[], object], repeats: int) -> float:
    """Return the median CPU seconds of this process and of the children that it waited for."""

    def used() -> float:
        import resource  # only where audits run in processes of their own

        both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(each.ru_utime + each.ru_stime for each in both)

    times = []
    for _ in range(repeats):
        before = used()
        action()
        times.append(used() - before)
    return median(times)


def _images(repeats: int) -> dict[str, Any]:
    import timm

    geometry = Geometry((SIZE, SIZE), (SIZE, SIZE), "bicubic")
    stream = io.BytesIO()
    small = Image.fromarray(np.moveaxis(render(0, np.arange(1))[0][0], 0, -1))
    small.resize(_JPEG).save(stream, "JPEG", quality=90)
    data = stream.getvalue()

    def decoded() -> None:
        for _ in range(20):
            to_pixels(decode(data), geometry)

    torch.manual_seed(0)
    network = timm.create_model(ARCHITECTURE, num_classes=0).eval().requires_grad_(False)
    batch = torch.randn(8, 3, SIZE, SIZE)

    def forward() -> None:
        with torch.inference_mode():
            network(batch)

    def backward() -> None:
        pixels = batch.clone().requires_grad_()
        network(pixels).sum().backward()

    forward()
    return {
        "decode": _seconds(decoded, repeats) / 20,
        "forward": _seconds(forward, repeats) / len(batch),
        "backward": _seconds(backward, repeats) / len(batch),
    }


class _Empty:
    """A work that does nothing but write a small file."""

    def settings(self) -> Mapping[str, Any]:
        return {"kind": "empty"}

    def start(self) -> "_Empty":
        return self

    def make(self, piece: Piece, target: Path) -> Counts:
        target.write_bytes(piece.name.encode())
        return {"rows": SHARD_ROWS}

    def close(self) -> None:
        pass


def _shards(place: Path, repeats: int) -> dict[str, Any]:
    from platodef_cli.features.file import save_features

    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    shared = drawn(SHARD_ROWS, DIM)
    spaces = [(shared + drawn(SHARD_ROWS, DIM)) @ drawn(DIM, DIM) for _ in range(1 + REFERENCES)]
    tuples = FeatureTuples(spaces[0], {f"r{n}": values for n, values in enumerate(spaces[1:])})
    heads = fit_heads(tuples.select(torch.arange(2000)), preset("tiny", mode="separate"))
    source, references = encoder_records(tuples, "generated")
    save_heads(
        place / "head", heads, card=HeadCard(name="h", source=source, references=references, trained_on="x")
    )
    path = place / "shard.safetensors"
    judging = Judging(str(place / "head"), "platonic")

    def live(work: Work) -> Callable[[], object]:
        started = work.start()
        return lambda: started.make(Piece("x", str(path)), place / "out.safetensors")

    def written() -> None:
        from platodef_cli.jobs.inputs import file_digest

        save_features(path, tuples)
        file_digest(path)

    write = _seconds(written, repeats)
    pieces = [Piece(f"part-{number:05d}", key=str(number)) for number in range(_EMPTY)]

    def empty() -> None:
        with tempfile.TemporaryDirectory(dir=place) as folder, Folder(Path(folder) / "out") as out:
            out.run(_Empty(), pieces, InProcess())
            sizes.append(sum((out.path / name).stat().st_size for name in (JOURNAL, MANIFEST)))

    sizes: list[int] = []
    piece = _seconds(empty, repeats) / _EMPTY
    return {
        "extract_rows": SHARD_ROWS,
        "shard_bytes": path.stat().st_size,
        "write": write,
        "score": _seconds(live(Scoring(judging)), repeats) / SHARD_ROWS,
        "purify": _seconds(live(Purifying(judging, "mean", everything=False)), repeats) / SHARD_ROWS,
        "piece": piece,
        "manifest_bytes": sizes[-1] / _EMPTY,
    }


def _others(place: Path, report: Path, repeats: int) -> dict[str, Any]:
    data = report.read_bytes()
    (place / "reports").mkdir()
    for number in range(10):
        (place / "reports" / f"{number}.json").write_bytes(data)
    command = [sys.executable, "-m", "platodef_cli.jobs.leash", str(os.getpid()), "audit", "--offline"]

    def process() -> None:
        # a model that is not there is found out when everything is loaded that an audit needs
        words = [*command, "-i", "builtin:shapes?count=600", "--", str(place / "absent" / "model")]
        done = subprocess.run(words, capture_output=True, timeout=600, check=False)
        if done.returncode != 2:
            raise IncompleteError(f"a process ended with code {done.returncode} where 2 was expected")

    return {
        "process": _seconds(process, repeats),
        "report_bytes": len(data),
        "summary": _seconds(lambda: read_rows(place / "reports"), repeats) / 10,
        "ray_start": _ray_start(),
    }


def _here() -> int:
    return os.getpid()


def _ray_start() -> float | None:
    """Return the wall seconds that a cluster on this machine takes to start."""
    import time

    from platodef_cli.errors import PlatodefError
    from platodef_cli.jobs.ray_cluster import cluster

    clock = time.perf_counter()
    try:
        with cluster(None) as ray:
            ray.get(ray.remote(_here).remote())
            return time.perf_counter() - clock
    except PlatodefError:
        return None


def _machine() -> str:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return (
        f"{name}, one thread; Python {platform.python_version()}, torch {torch.__version__.partition('+')[0]}"
    )


def to_json(costs: ScaleCosts) -> str:
    """Return the measurements as JSON."""
    return json.dumps(asdict(costs), indent=1) + "\n"
