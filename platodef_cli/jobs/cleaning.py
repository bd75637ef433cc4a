"""Scoring and purifying feature files that may be larger than memory: a file at a time, in blocks of rows."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from platodef_cli.defences import make_purifier, purify_flagged
from platodef_cli.defences.alarm import Alarm, calibrated
from platodef_cli.defences.calibrate import conformal_pvalues
from platodef_cli.defences.interface import Mode, PurifyOptions
from platodef_cli.disk import canonical_json
from platodef_cli.features.file import IDS_KEY, SOURCE_KEY, VARIANT_KEY, load_features
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.features.stream import FeatureFile
from platodef_cli.features.writer import TensorWriter, write_features
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.origin import check_origin
from platodef_cli.heads.pretrained import load_heads, read_description
from platodef_cli.jobs.inputs import file_digest
from platodef_cli.jobs.pieces import Counts, Piece


@dataclass(frozen=True)
class Judging:
    """How rows are scored.

    Attributes:
        head: Folder of the heads.
        detector: Its name.
        mode: ``default`` or ``published``.
        rate: Promised share of clean rows over the threshold.
        calibrate: Feature file of clean rows, or None for the clean scores in the heads.
        seed: Of detectors and purifiers that draw.
        device: Of the heads.
        source_key: Name of the suspect's tensor.
        reference_keys: Names of the references' tensors, or None.
    """

    head: str
    detector: str
    mode: Mode = "default"
    rate: float = 0.05
    calibrate: str | None = None
    seed: int = 0
    device: str = "cpu"
    source_key: str = SOURCE_KEY
    reference_keys: tuple[str, ...] | None = None

    def settings(self) -> dict[str, Any]:
        """Return what results depend on: contents of files instead of their places."""
        values = asdict(self)
        values.pop("device")
        values["head"] = read_description(Path(self.head)).sha256
        values["calibrate"] = None if self.calibrate is None else file_digest(Path(self.calibrate))
        return values

    def load(self) -> Heads:
        """Load the heads."""
        return load_heads(Path(self.head), device=self.device)

    def alarm(self, heads: Heads) -> Alarm:
        """Calibrate the detector."""
        clean = None
        if self.calibrate is not None:
            clean = load_features(self.calibrate, self.source_key, self.reference_keys)
            clean = clean if clean.variants is None else clean.select(clean.variants == 0)
        return calibrated(self.detector, heads, clean, self.rate, self.seed, self.mode)

    def open(self, path: str) -> FeatureFile:
        """Open a feature file."""
        return FeatureFile(Path(path), self.source_key, self.reference_keys)

    def check(self, heads: Heads, file: FeatureFile) -> None:
        """Check that the encoders of the heads made a file.

        Raises:
            UsageError: Others did.
        """
        check_origin(heads, file.read(0, 1), str(file.path))


@dataclass(frozen=True)
class Scoring:
    """Every feature file becomes a safetensors file of scores, p-values and flags."""

    judging: Judging

    def settings(self) -> Mapping[str, Any]:
        """Return what the files depend on."""
        return {"kind": "score", **self.judging.settings()}

    def start(self) -> "LiveScoring":
        """Load the heads and calibrate."""
        heads = self.judging.load()
        return LiveScoring(self.judging, heads, self.judging.alarm(heads))


class LiveScoring:
    """Scores feature files."""

    def __init__(self, judging: Judging, heads: Heads, alarm: Alarm):
        self._judging, self._heads, self._alarm = judging, heads, alarm

    def make(self, piece: Piece, target: Path) -> Counts:
        """Write ``score``, ``p_value`` float64 ``[N]``, ``flagged`` uint8 ``[N]``, and what the rows are."""
        assert piece.path is not None
        file = self._judging.open(piece.path)
        self._judging.check(self._heads, file)
        rows, alarm = (file.rows,), self._alarm
        shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "score": (torch.float64, rows), "p_value": (torch.float64, rows), "flagged": (torch.uint8, rows),
        }  # fmt: skip
        text = b"" if file.ids is None else canonical_json(list(file.ids)).encode()
        if file.ids is not None:
            shapes[IDS_KEY] = (torch.uint8, (len(text),))
        if file.has_variants:
            shapes[VARIANT_KEY] = (torch.int64, rows)
        facts = {"detector": self._judging.detector, "threshold": alarm.threshold}
        facts |= {"false_positive_rate": alarm.rate}
        count = 0
        with TensorWriter(target, shapes, {"scores": canonical_json(facts)}) as writer:
            if file.ids is not None:
                writer.write(IDS_KEY, text)
            for block in file.blocks():
                scores, p_values, flagged = judge(alarm, block)
                count += int(flagged.sum())
                writer.write("score", scores)
                writer.write("p_value", p_values)
                writer.write("flagged", flagged.to(torch.uint8))
                if block.variants is not None:
                    writer.write(VARIANT_KEY, block.variants)
        return {"rows": file.rows, "flagged": count}

    def close(self) -> None:
        """Nothing is open."""


def judge(alarm: Alarm, block: FeatureTuples) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores float64, p-values float64 and flags bool, ``[N]`` each."""
    scores = alarm.detector.score(block)
    return scores, conformal_pvalues(alarm.clean, scores), scores > alarm.threshold


@dataclass(frozen=True)
class Purifying:
    """Every feature file becomes one with cleaned source features.

    Attributes:
        judging: How rows are scored.
        method: Name of the purifier.
        everything: Purify all rows, not only those over the threshold.
        options: Of the purifier.
    """

    judging: Judging
    method: str
    everything: bool = False
    options: PurifyOptions = field(default_factory=PurifyOptions)

    def settings(self) -> Mapping[str, Any]:
        """Return what the files depend on."""
        own = {"method": self.method, "everything": self.everything, "options": asdict(self.options)}
        return {"kind": "purify", **self.judging.settings(), **own}

    def recipe(self, rows: int) -> dict[str, object]:
        """Return what is written into the file: what was done to how many rows."""
        options = self.options
        recipe: dict[str, object] = {
            "method": self.method, "heads": Path(self.judging.head).name, "seed": self.judging.seed,
            "rows": rows,
            "steps": options.steps, "samples": options.samples, "guidance": options.guidance,
            "start": options.start,
        }  # fmt: skip
        if not self.everything:
            recipe |= {"detector": self.judging.detector, "false_positive_rate": self.judging.rate}
        return recipe

    def start(self) -> "LivePurifying":
        """Load the heads and calibrate."""
        heads = self.judging.load()
        return LivePurifying(self, heads, None if self.everything else self.judging.alarm(heads))


class LivePurifying:
    """Purifies feature files."""

    def __init__(self, work: Purifying, heads: Heads, alarm: Alarm | None):
        self._work, self._heads, self._alarm = work, heads, alarm
        self._purifier = make_purifier(work.method, heads, work.options)

    def make(self, piece: Piece, target: Path) -> Counts:
        """Write the feature file with cleaned source features; everything else stays as it is."""
        assert piece.path is not None
        file = self._work.judging.open(piece.path)
        self._work.judging.check(self._heads, file)
        # begins anew with every file: what becomes of a shard does not depend on those before it
        generator = torch.Generator().manual_seed(self._work.judging.seed)
        # the header says how many rows were flagged, so that all are judged before the first is written
        flags = [self._flags(block) for block in file.blocks()]
        flagged = sum(int(part.sum()) for part in flags)
        recipe = canonical_json(self._work.recipe(flagged))

        def cleaned() -> Iterator[FeatureTuples]:
            for block, part in zip(file.blocks(), flags, strict=True):
                source = purify_flagged(self._purifier, block, part, generator=generator)
                yield replace(block, source=source, metadata={**block.metadata, "purified": recipe})

        write_features(target, cleaned(), file.rows, file.ids)
        return {"rows": file.rows, "flagged": flagged}

    def _flags(self, block: FeatureTuples) -> Tensor:
        if self._alarm is None:
            return torch.ones(len(block), dtype=torch.bool)
        return judge(self._alarm, block)[2]

    def close(self) -> None:
        """Nothing is open."""


def feature_pieces(paths: list[Path]) -> list[Piece]:
    """Return one piece per feature file, of the same name."""
    return [Piece(path.name, str(path.absolute())) for path in paths]
