"""The model that the suspect was made from, as the user says: an extra control that nobody trusts.

It is loaded like a suspect, isolated, because nobody has audited it; it judges nothing.
"""

from contextlib import ExitStack
from typing import Any

from platodef_cli.audit.config import AuditConfig
from platodef_cli.encoders.bounded import bounded
from platodef_cli.encoders.interface import Encoder
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import UsageError
from platodef_cli.progress import Progress


def confined(config: AuditConfig) -> dict[str, Any]:
    """Return the options of :func:`open_encoder` for a model that nobody trusts: alone, and within limits."""
    return {
        "offline": config.offline,
        "device": config.device,
        "dtype": config.dtype,
        "isolate": True,
        "memory_limit_gb": config.memory_limit_gb,
        "time_limit_s": config.time_limit_s,
        "require_isolation": config.require_isolation,
        "follow_links": config.follow_links,
    }


def open_base(config: AuditConfig, suspect: Encoder, stack: ExitStack, progress: Progress) -> Encoder | None:
    """Open the base that was given, isolated like a suspect; None where none was.

    Args:
        config: The audit.
        suspect: Loaded.
        stack: Closes the base in the end.
        progress: Receives the steps.

    Raises:
        UsageError: It is the suspect itself, or has features of another length.
        PlatodefError: As for a suspect.
    """
    if config.base is None:
        return None
    encoder = open_encoder(config.base, name="base", **confined(config), progress=progress)
    stack.callback(encoder.close)
    if encoder.record.digest == suspect.record.digest:
        raise UsageError(f"--base {config.base} is the suspect itself; give the model that it was made from")
    if encoder.record.dim != suspect.record.dim:
        raise UsageError(
            f"--base {config.base}: its features have {encoder.record.dim} numbers and the suspect's "
            f"{suspect.record.dim}; give the model that the suspect was made from"
        )
    return bounded(encoder, limit_gb=config.memory_limit_gb, most=config.batch_size, warn=progress.warn)
