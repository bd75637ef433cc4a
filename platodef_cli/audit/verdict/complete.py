"""What every report of a finished audit holds."""

from platodef_cli.errors import UsageError
from platodef_cli.records import AuditReport, EncoderRecord, ImageSetRecord


def is_unfinished(report: AuditReport) -> bool:
    """Return whether an audit ended early: its report holds its verdict, and no measurements to judge."""
    if report.verdict in ("refused", "error"):
        return True
    nothing = report.target is None or report.images is None or not (report.probes or report.searches)
    return report.verdict == "inconclusive" and nothing


def target_of(report: AuditReport) -> EncoderRecord:
    """Return the audited encoder.

    Raises:
        UsageError: The report does not hold it.
    """
    if report.target is None:
        raise UsageError("the report is damaged: it does not say which encoder was audited")
    return report.target


def images_of(report: AuditReport) -> ImageSetRecord:
    """Return the images of an audit.

    Raises:
        UsageError: The report does not hold them.
    """
    if report.images is None:
        raise UsageError("the report is damaged: it does not say which images were used")
    return report.images
