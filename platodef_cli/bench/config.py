"""What a run of the benchmark is asked to do."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from platodef_cli.bench.attacks import ADVERSARIAL
from platodef_cli.defences import DETECTORS, ENCODER_DETECTORS, PURIFIERS
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.heads.backbone import BackboneConfig
from platodef_cli.heads.config import FitConfig, preset
from platodef_cli.heads.presets import CLOSED
from platodef_cli.registry import Registry

SKIPPABLE: Mapping[str, tuple[Registry, ...]] = {
    "1": (DETECTORS, PURIFIERS, ADVERSARIAL),
    "encoder": (ENCODER_DETECTORS,),
    "defences": (DETECTORS, PURIFIERS, ENCODER_DETECTORS),
}
ONE_SEED = ("encoder", "defences", "alignment")
NETWORKED = ("3", "solvers", "backbones")  # tables about networks
PURIFYING = ("1", "defences")  # tables that try every purifier
_OWN: Mapping[str, tuple[str, ...]] = {
    "1": ("adversarial", "skip"),
    "2": ("attack",),
    "encoder": ("skip",),
    "defences": ("published", "skip"),
}


@dataclass(frozen=True)
class BenchConfig:
    """A run of one table.

    Attributes:
        zoo: Folder of the zoo.
        table: A row of :data:`platodef_cli.bench.TABLES`.
        images: Labelled images; None: ``builtin:shapes`` for a zoo of shapes.
        limit: Use so many of them.
        seeds: Seeds of splits, heads and negatives; intervals are over them and over planted encoders.
        preset: Size of the heads.
        quick: Tiny heads and few steps, for a look at the tables, not for numbers.
        only: Shell patterns of suspects.
        results: Folder of the cells; None: ``results`` inside the zoo.
        fresh: Compute everything again.
        attack: Attack of Registry 2.
        adversarial: Test images that adversarial rows attack; 0 leaves these rows out.
        skip: Methods of tables 1, encoder and defences to leave out.
        published: Whether table defences measures the published modes of detectors as well.
        diffusion: Folder of an unconditional diffusers pipeline for ``zip`` in tables 1 and defences; None: a
            small one is trained.
        command: What the user typed.
    """

    zoo: Path
    table: str
    images: str | None = None
    limit: int | None = None
    seeds: tuple[int, ...] = (0,)
    preset: str = "tiny"
    quick: bool = False
    only: tuple[str, ...] = ()
    results: Path | None = None
    fresh: bool = False
    attack: str = "ssl-backdoor"
    adversarial: int = 200
    skip: tuple[str, ...] = ()
    published: bool = True
    diffusion: Path | None = None
    command: str = ""

    def __post_init__(self) -> None:
        """Refuse before the first image is decoded what would otherwise be noticed, or not, after hours."""
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise UsageError("give at least one seed, each once, from 0 on")
        if len(self.seeds) > 1 and self.table in ONE_SEED:
            raise UsageError(f"table {self.table} takes one seed, not {len(self.seeds)}")
        if preset(self.preset).backbone is None and self.table in NETWORKED:
            raise UsageError(f"table {self.table} compares networks; choose another preset than {CLOSED}")
        if self.diffusion is not None and self.table not in PURIFYING:
            raise UsageError(f"--diffusion: table {self.table} does not purify by zip")
        if self.diffusion is not None and not self.diffusion.is_dir():
            raise UsageError(f"--diffusion {self.diffusion} is no folder")
        methods = dict.fromkeys(name for table in SKIPPABLE.get(self.table, ()) for name in table.names())
        for name in self.skip:
            if not methods:
                raise UsageError(f"--skip {name}: table {self.table} has no methods to leave out")
            if name not in methods:
                raise UnknownNameError("method", name, methods)

    def heads(self, **changes: object) -> FitConfig:
        """Return how heads are fitted, with ``changes`` on top."""
        config = preset(self.preset)
        if self.quick:
            config = replace(
                config,
                backbone=config.backbone and BackboneConfig(width=16, depth=1, heads=2),
                energy=replace(config.energy, epochs=1),
                denoiser=replace(config.denoiser, epochs=1),
                lift_features=32,
            )
        return replace(config, **changes)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, float | int | str | bool | tuple[str, ...]]:
        """Return what changes the results, for the record."""
        values = asdict(self)
        kept = ["preset", "quick", "only", "limit", *_OWN.get(self.table, ())]
        own = {name: values[name] for name in kept if values[name] is not None}
        return own if self.diffusion is None else {**own, "diffusion": self.diffusion.name}
