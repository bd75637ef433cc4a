"""platodef: tells whether a downloaded vision encoder can be trusted.

The public Python API is what ``__all__`` lists; importing it is quick and imports no torch. Everything else
may change between releases.

>>> from platodef_cli import audit
>>> report = audit("org/name@main", images="calibration/")  # doctest: +SKIP
>>> report.verdict, report.exit_code  # doctest: +SKIP
('pass', 0)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Python binds a package in its parent when it is first imported. The name `audit` shall stay the function, so
# the package of that name, which is empty, comes first.
import platodef_cli.audit as _  # noqa: F401
from platodef_cli.api import audit, preflight, read_report, render
from platodef_cli.audit.policy.limits import Policy
from platodef_cli.errors import (
    HubError,
    IncompleteError,
    InconclusiveError,
    PlatodefError,
    RefusedError,
    UsageError,
)
from platodef_cli.version import __version__

if TYPE_CHECKING:
    from platodef_cli.encoders.checks.preflight import Preflight
    from platodef_cli.records import AuditReport

__all__ = [
    "AuditReport",
    "HubError",
    "IncompleteError",
    "InconclusiveError",
    "PlatodefError",
    "Policy",
    "Preflight",
    "RefusedError",
    "UsageError",
    "__version__",
    "audit",
    "preflight",
    "read_report",
    "render",
]

_ON_FIRST_USE = {
    "AuditReport": "platodef_cli.records",
    "Preflight": "platodef_cli.encoders.checks.preflight",
}


def __getattr__(name: str) -> Any:
    """Load the records on first use: pydantic takes longer to import than everything else here."""
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_FIRST_USE[name]), name)
