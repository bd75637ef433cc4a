"""What is known of an audit while it runs, so that one that ends early still leaves a report."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from platodef_cli.audit.clock import Clock
from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.context import context_of
from platodef_cli.audit.provenance import libraries, listed
from platodef_cli.errors import EXIT_CODES
from platodef_cli.plugins import Plugin
from platodef_cli.records import (
    AlignmentRecord,
    AuditReport,
    EncoderRecord,
    Finding,
    ImageSetRecord,
    Metric,
    Outcome,
    Reason,
    Timing,
)
from platodef_cli.version import __version__

if TYPE_CHECKING:
    from platodef_cli.audit.inputs import Inputs
    from platodef_cli.images.interface import ImageSource

ENDINGS: dict[int, Outcome] = {
    code: outcome for outcome, code in EXIT_CODES.items() if outcome not in ("pass", "fail")
}
"""Exit codes of an audit that ended early with a verdict; usage errors and interruptions have none."""

_LEFT_OUT = "everything after the step at which the audit ended: the behaviour of the encoder is unknown"


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
        clock: Started with the audit.
        plugins: Those that were loaded so far.
        alignment: How the encoders agree on clean images, once it was measured.
        metrics: What else was measured.
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
    clock: Clock = field(default_factory=Clock)
    plugins: set[Plugin] = field(default_factory=set)
    alignment: tuple[AlignmentRecord, ...] = ()
    metrics: tuple[Metric, ...] = ()

    def note(self, inputs: "Inputs") -> None:
        """Keep what opening the inputs made known."""
        self.target = inputs.suspect.record
        self.references = tuple(inputs.reference_records.values())
        self.findings, self.not_examined = inputs.checked.findings, inputs.checked.not_examined

    def note_alignment(self, pairs: tuple[AlignmentRecord, ...], share: Metric | None) -> None:
        """Keep how the encoders agree."""
        self.alignment, self.metrics = pairs, () if share is None else (share,)

    def note_images(self, images: "ImageSource") -> None:
        """Keep what listing the images made known."""
        self.images = listed(images)

    def unfinished(self, code: int, reason: str, message: str, summary: str) -> AuditReport:
        """Return the report of an audit that an error ended.

        Args:
            code: The exit code of the error, a key of ``ENDINGS``.
            reason: Stable name of the kind of error: refused, hub, inconclusive, ...
            message: What was wrong and what to do, one line.
            summary: The last line on stderr.
        """
        config, outcome = self.config, ENDINGS[code]
        reasons = (Reason(id=reason, outcome=outcome, message=message),)
        policy = {} if config is None else config.limits.to_json()
        configuration = {"model": self.model} if config is None else config.to_json()
        return AuditReport(
            tool_version=__version__,
            verdict=outcome,
            exit_code=code,
            summary=summary,
            reasons=reasons,
            findings=self.findings,
            not_examined=(_LEFT_OUT, *self.not_examined),
            warnings=tuple(self.warnings),
            target=self.target,
            references=self.references,
            images=self.images,
            alignment=self.alignment,
            metrics=self.metrics,
            seed=0 if config is None else config.seed,
            policy=policy,
            configuration=configuration,
            libraries=libraries(self.plugins),
            device="unknown" if config is None else config.device,
            timing=Timing(started=self.clock.started, finished=self.clock.now(), seconds=self.seconds),
            context=context_of(configuration, policy, reasons=reasons, findings=self.findings),
        )
