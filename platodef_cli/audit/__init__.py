"""The audit: from an encoder, references and clean images to a report. It never prints."""

from platodef_cli.audit.config import AuditConfig, Policy
from platodef_cli.audit.run import audit

__all__ = ["AuditConfig", "Policy", "audit"]
