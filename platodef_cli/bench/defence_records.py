"""Results of the measurement of defences, as JSON values and as Markdown tables."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from platodef_cli.records import Metric
from platodef_cli.version import __version__

if TYPE_CHECKING:
    from platodef_cli.bench.defences import DefenceConfig

Kind = Literal["detector", "purifier", "encoder"]
_LIBRARIES = ("torch", "timm", "scikit-learn")


@dataclass(frozen=True)
class PlantedRow:
    """A planted encoder without defence.

    Attributes:
        encoder: Name.
        architecture: Architecture.
        trigger: Name of the trigger, with its parameters.
        clean_accuracy: CA.
        poisoned_accuracy: PA.
        attack_success: ASR on non-target images.
        baseline_success: The same rate on clean images.
    """

    encoder: str
    architecture: str
    trigger: str
    clean_accuracy: Metric
    poisoned_accuracy: Metric
    attack_success: Metric
    baseline_success: Metric


@dataclass(frozen=True)
class DefenceRow:
    """One defence on one encoder.

    Attributes:
        encoder: Name.
        kind: What the defence is.
        defence: Its row in its table.
        mode: default or published.
        truth: planted or clean.
        not_applicable: Why there is no number, else None.
        auroc: Clean against triggered non-target test images.
        clean_accuracy: CA with everything purified.
        poisoned_accuracy: PA with everything purified.
        attack_success: ASR on non-target images with everything purified.
        statistic: Value of an encoder-level detector.
        fit_seconds: Processor seconds of fitting, on one core.
        seconds: Processor seconds per 1000 samples (per encoder for encoder-level detectors).
        memory_mb: Largest addition to resident memory, MB.
    """

    encoder: str
    kind: Kind
    defence: str
    mode: str
    truth: str = "planted"
    not_applicable: str | None = None
    auroc: Metric | None = None
    clean_accuracy: Metric | None = None
    poisoned_accuracy: Metric | None = None
    attack_success: Metric | None = None
    statistic: float | None = None
    fit_seconds: float | None = None
    seconds: float | None = None
    memory_mb: float | None = None


@dataclass(frozen=True)
class DefenceTable:
    """Everything that was measured, with what it was measured with.

    Attributes:
        planted: The encoders without defence.
        rows: The defences.
        configuration: What was asked.
        versions: Versions of platodef and its libraries.
    """

    planted: tuple[PlantedRow, ...]
    rows: tuple[DefenceRow, ...]
    configuration: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, config: "DefenceConfig", planted: Sequence[PlantedRow], rows: Sequence[DefenceRow]
    ) -> "DefenceTable":
        """Return the table of one measurement."""
        names = ("images", "limit", "bank", "modes", "seed")
        versions = {"platodef": __version__, **{name: version(name) for name in _LIBRARIES}}
        return cls(tuple(planted), tuple(rows), {name: getattr(config, name) for name in names}, versions)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""

        def plain(value: Any) -> Any:
            return value.model_dump(mode="json") if isinstance(value, Metric) else value

        def row(entry: PlantedRow | DefenceRow) -> dict[str, Any]:
            return {name: plain(getattr(entry, name)) for name in asdict(entry)}

        return {
            "configuration": self.configuration,
            "versions": self.versions,
            "planted": [row(entry) for entry in self.planted],
            "defences": [row(entry) for entry in self.rows],
        }

    def tables(self) -> dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]]:
        """Return title -> header and rows: without defence, detectors, purifiers, encoder level."""
        encoders = [entry.encoder for entry in self.planted]
        undefended = [
            (entry.encoder, entry.architecture, entry.trigger, *_percent(entry)) for entry in self.planted
        ]
        result: dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]] = {
            "Without defence": (("encoder", "architecture", "trigger", "CA", "PA", "ASR"), undefended)
        }
        costs = ("fit s", "s / 1000", "MB")
        for kind, title, cell in (
            ("detector", "Detectors: AUROC, clean against triggered non-target images", _auroc),
            ("purifier", "Purifiers: CA / PA / ASR in percent, everything purified", _purified),
        ):
            lines = self._pivot(kind, encoders, cell)
            if lines:
                result[title] = (("defence", "mode", *encoders, *costs), lines)
        every = list(dict.fromkeys(row.encoder for row in self.rows if row.kind == "encoder"))
        truth = {row.encoder: row.truth for row in self.rows if row.kind == "encoder"}
        lines = self._pivot("encoder", every, _statistic)
        if lines:
            header = ("defence", "mode", *(f"{name} ({truth[name]})" for name in every))
            result["Encoder level: statistic, higher is more suspicious"] = (
                (*header, "fit s", "s / encoder", "MB"),
                lines,
            )
        return result

    def markdown(self) -> str:
        """Return the tables as Markdown."""
        parts = []
        for title, (header, lines) in self.tables().items():
            parts += [f"### {title}", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
            parts += [f"| {' | '.join(line)} |" for line in lines]
            parts.append("")
        parts += [f"- {line}" for line in self.reasons()]
        return "\n".join(parts).rstrip() + "\n"

    def reasons(self) -> list[str]:
        """Return why defences have no number: one line per defence and reason."""
        found = sorted({(row.defence, row.not_applicable) for row in self.rows if row.not_applicable})
        return [f"{name} is not applicable: {why}" for name, why in found]

    def _pivot(self, kind: str, encoders: Sequence[str], cell: Any) -> list[tuple[str, ...]]:
        """Return one line per defence and mode, one column per encoder, costs at the end (worst case)."""
        lines = []
        chosen = [row for row in self.rows if row.kind == kind]
        for defence, mode in dict.fromkeys((row.defence, row.mode) for row in chosen):
            mine = {row.encoder: row for row in chosen if (row.defence, row.mode) == (defence, mode)}
            cells = [cell(mine[name]) if name in mine else "-" for name in encoders]
            costs = [
                _worst([getattr(row, name) for row in mine.values()], digits)
                for name, digits in (("fit_seconds", 1), ("seconds", 2), ("memory_mb", 0))
            ]
            lines.append((defence, mode, *cells, *costs))
        return lines


def _percent(row: PlantedRow | DefenceRow) -> tuple[str, ...]:
    metrics = (row.clean_accuracy, row.poisoned_accuracy, row.attack_success)
    return tuple("-" if m is None or m.value is None else f"{100 * m.value:.1f}" for m in metrics)


def _auroc(row: DefenceRow) -> str:
    return "-" if row.auroc is None or row.auroc.value is None else f"{row.auroc.value:.3f}"


def _purified(row: DefenceRow) -> str:
    return "-" if row.not_applicable else " / ".join(_percent(row))


def _statistic(row: DefenceRow) -> str:
    return "-" if row.statistic is None else f"{row.statistic:.3f}"


def _worst(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.{digits}f}" if known else "-"
