"""The audit: from an encoder, references and clean images to a report. It never prints.

Python puts this room into its package as ``platodef_cli.audit``, where users expect the function that
``from platodef_cli import audit`` gives; so the room can be called, and is that function.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from platodef_cli.audit.config import AuditConfig
    from platodef_cli.audit.partial_report import PartialReport
    from platodef_cli.audit.policy.limits import Policy
    from platodef_cli.audit.run import audit

__all__ = ["AuditConfig", "PartialReport", "Policy", "audit"]
_PLACES = {"AuditConfig": "config", "PartialReport": "partial", "Policy": "policy", "audit": "run"}


def __getattr__(name: str) -> Any:
    """Import a part of this room on first use: ``audit`` needs torch, the others do not."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


class _Room(ModuleType):
    """A module that can be called like :func:`platodef_cli.api.audit`."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Audit a vision encoder; see :func:`platodef_cli.api.audit`."""
        return import_module("platodef_cli.api").audit(*arguments, **options)


sys.modules[__name__].__class__ = _Room
