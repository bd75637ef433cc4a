"""What is known of an audit while it runs, so that one that ends early still leaves a report."""

import platform
import resource
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from platodef_cli.audit.config import AuditConfig
from platodef_cli.errors import EXIT_CODES
from platodef_cli.images.interface import ImageSource, digest_of
from platodef_cli.metrics.costs import peak_ever
from platodef_cli.plugins import Plugin
from platodef_cli.records import AuditReport, EncoderRecord, Finding, ImageSetRecord, Outcome, Reason, Timing
from platodef_cli.version import __version__

if TYPE_CHECKING:
    from platodef_cli.audit.inputs import Inputs
    from platodef_cli.audit.state import AuditState

ENDINGS: dict[int, Outcome] = {
    code: outcome for outcome, code in EXIT_CODES.items() if outcome not in ("pass", "fail")
}
"""Exit codes of an audit that ended early with a verdict; usage errors and interruptions have none."""

_LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "open_clip_torch",
    "safetensors",
    "pillow",
    "numpy",
)
_LEFT_OUT = "everything after the step at which the audit ended: the behaviour of the encoder is unknown"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class PartialReport:
    """The parts of a report that are known so far; an audit fills it in as it goes.

    Attributes:
        model: What the user asked to audit.
        config: The whole configuration, once it is known.
        target: The suspect, once it was loaded.
        references: The references that were loaded.
        images: The images, once they were listed.
        findings: What the static checks found.
        not_examined: What the static checks left alone.
        warnings: Warnings so far.
        seconds: Step -> wall seconds so far.
        started: When the audit started, ISO 8601.
        plugins: Those that were loaded so far.
    """

    model: str
    config: AuditConfig | None = None
    target: EncoderRecord | None = None
    references: tuple[EncoderRecord, ...] = ()
    images: ImageSetRecord | None = None
    findings: tuple[Finding, ...] = ()
    not_examined: tuple[str, ...] = ()
    warnings: Sequence[str] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    started: str = field(default_factory=_now)
    plugins: set[Plugin] = field(default_factory=set)

    def note(self, inputs: "Inputs") -> None:
        """Keep what opening the inputs made known."""
        self.target = inputs.suspect.record
        self.references = tuple(encoder.record for encoder in inputs.references.values())
        self.findings, self.not_examined = inputs.checked.findings, inputs.checked.not_examined
        self.images = listed(inputs.images)

    def unfinished(self, code: int, reason: str, message: str, summary: str) -> AuditReport:
        """Return the report of an audit that an error ended.

        Args:
            code: The exit code of the error, a key of ``ENDINGS``.
            reason: Stable name of the kind of error: refused, hub, inconclusive, ...
            message: What was wrong and what to do, one line.
            summary: The last line on stderr.
        """
        config, outcome = self.config, ENDINGS[code]
        return AuditReport(
            tool_version=__version__,
            verdict=outcome,
            exit_code=code,
            summary=summary,
            reasons=(Reason(id=reason, outcome=outcome, message=message),),
            findings=self.findings,
            not_examined=(_LEFT_OUT, *self.not_examined),
            warnings=tuple(self.warnings),
            target=self.target,
            references=self.references,
            images=self.images,
            seed=0 if config is None else config.seed,
            policy={} if config is None else config.limits.to_json(),
            configuration={"model": self.model} if config is None else config.to_json(),
            libraries=libraries(self.plugins),
            device="unknown" if config is None else config.device,
            timing=Timing(started=self.started, finished=_now(), seconds=self.seconds),
        )


def libraries(plugins: Iterable[Plugin] = ()) -> dict[str, str]:
    """Return the versions of Python, of the libraries that compute, and of ``plug-in NAME``."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions | {f"plug-in {plugin.distribution}": plugin.version for plugin in sorted(plugins)}


NOT_EXAMINED = (
    "triggers outside the battery and the budgets of the search",
    "triggers that act through text, a downstream head, or only on images unlike the given ones",
    "the references themselves: they are trusted as given",
    "the training data and the training code of the suspect",
)


def not_examined(state: "AuditState") -> tuple[str, ...]:
    """Return what nobody looked at, always and in this audit."""
    notes = tuple(getattr(state.inputs.suspect, "notes", ()))
    unlabelled = (
        ()
        if state.labelled
        else ("linear-probe accuracy, concentration on a class and PA: the images have no labels",)
    )
    return (*NOT_EXAMINED, *unlabelled, *notes, *state.inputs.checked.not_examined)


def listed(images: ImageSource) -> ImageSetRecord:
    """Return the images of a source, before they have roles."""
    return ImageSetRecord(
        uri=images.uri,
        count=len(images.refs),
        classes=images.classes,
        digest=digest_of(images, range(len(images.refs))),
        skipped=tuple((name, reason) for name, reason in images.skipped),
    )


def image_set(state: "AuditState") -> ImageSetRecord:
    """Return the images and their roles."""
    roles = {
        "fit": 0 if state.head.origin == "loaded" else len(state.features.tuples(state.parts.fit)[0]),
        "calibration": state.defences.thresholds[0].calibration,
        "test": len(state.test),
    }
    return listed(state.inputs.images).model_copy(update=roles)


def device_name(device: str) -> str:
    """Return a device with the name of its hardware."""
    if device.startswith("cuda"):
        import torch

        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({platform.machine()})"


def peak_memory() -> float:
    """Return the peak of this process and its largest child together, MB."""
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak_ever() + child / 1024, 1)
