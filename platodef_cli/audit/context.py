"""What a report says so that others can weigh it: taxonomies, the quality of the test, signature, card."""

from collections.abc import Iterable, Mapping

from platodef_cli.records import (
    AccusedRecord,
    CardRecord,
    ContextRecord,
    Finding,
    LineageRecord,
    Reason,
    SignatureRecord,
)
from platodef_cli.report.quality import quality_of
from platodef_cli.report.taxonomies import taxonomy_of


def context_of(
    configuration: Mapping[str, object],
    policy: Mapping[str, object],
    *,
    reasons: Iterable[Reason] = (),
    findings: Iterable[Finding] = (),
    signature: SignatureRecord | None = None,
    card: CardRecord | None = None,
    accused: AccusedRecord | None = None,
    lineage: LineageRecord | None = None,
) -> ContextRecord:
    """Return the context of a report.

    Args:
        configuration: What the audit was asked.
        policy: Its limits, flat.
        reasons: Of the verdict.
        findings: What the reader should know.
        signature: What the publisher signed.
        card: What the model card says.
        accused: The change that tells most against the suspect.
        lineage: What is known of the model that it was made from.
    """
    return ContextRecord(
        taxonomy=taxonomy_of(reasons, findings),
        quality=quality_of(configuration, policy),
        signature=signature,
        card=card,
        accused=accused,
        lineage=lineage,
    )


def in_taxonomies(
    context: ContextRecord | None, reasons: Iterable[Reason], findings: Iterable[Finding]
) -> ContextRecord | None:
    """Return a context whose taxonomy is of these reasons and findings; None stays None."""
    if context is None:
        return None
    return context.model_copy(update={"taxonomy": taxonomy_of(reasons, findings)})
