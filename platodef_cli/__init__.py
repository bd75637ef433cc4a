"""platodef: tells whether a downloaded vision encoder can be trusted.

The public Python API is what ``__all__`` lists; importing it is quick and imports no torch. Everything else
may change between releases.

>>> from platodef_cli import audit
>>> report = audit("org/name@main", images="calibration/")  # doctest: +SKIP
>>> report.verdict, report.exit_code  # doctest: +SKIP
('pass', 0)

The map
-------

A module imports only from folders that stand before its own in this list; ``import-linter`` checks it.

=============  ===========================================================================================
errors         the error tree, and one exit code per class
records        frozen results that cross folders; the report and its JSON schema
progress       how long computations tell what they do
temporary      files and folders for a short time; those of a process that was killed are removed
plugins        what other installed packages add to the tables of the registry
registry       tables of named implementations, open to other installed packages
disk           canonical JSON, atomic writes, careful opening of files that others wrote
environment    settings that libraries read once
resources      where the embedded encoders and heads lie
report         a report as terminal text, JSON, Markdown, HTML, SARIF, JUnit; reading it back
attestation    signed statements about a report and the model's files
images         where images come from: folders, parquet, Hub data sets, generated shapes
encoders       a model id becomes features: ``hub`` downloads, ``checks`` reads files without loading them,
               ``isolation`` runs the suspect in a child process, ``backends`` build networks
texts          text references: sentences about images, text towers that read them, models that write them
features       extraction in one decoding pass, the feature cache, the feature file
heads          what is fitted on clean features: closed forms, energy, denoiser
triggers       changes of images: known triggers, benign controls, the battery of both
defences       one file per method: detectors and purifiers, ours and those of other papers
guard          the defence in production: cleans features as they come, watches the share of flagged ones
search         the search for an unknown trigger, one file per kind
metrics        AUROC, alignment, accuracy, guarantees, costs
audit          ``run.py`` is the whole audit; ``steps`` measure, ``policy`` holds limits, ``verdict`` judges
jobs           the same work in many pieces: many audits, features shard by shard; here or on a Ray cluster
api            the functions of ``__all__``
bench          the laboratory: ``attacks`` plant backdoors, ``zoo`` trains encoders, tables of the paper
cli            the command ``platodef``; nothing else prints
=============  ===========================================================================================

How a picture becomes a verdict: an ``images`` source decodes it once; every encoder gets it in its own
geometry and ``features`` keeps one row per image and encoder. ``heads`` learn on half of the rows what a
clean suspect's feature looks like, given the references' features of the same image. ``defences`` score
rows, and their alarm thresholds are calibrated on other rows. The battery of ``triggers`` changes the
remaining images, ``search`` looks for an unknown change, on the suspect and on the references.
All of that becomes ``Measurements`` (:mod:`platodef_cli.audit.verdict.measurements`), and
:func:`platodef_cli.audit.verdict.judge` holds them against the limits of a policy: the report.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Python binds a package in its parent when it is first imported. The name `audit` shall stay the function, so
# the package of that name, which is empty, comes first. Its modules are reached as in
# `from platodef_cli.audit.run import audit`; `import platodef_cli.audit.run as x` finds the function instead.
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
    from platodef_cli.guard.guard import Guard
    from platodef_cli.guard.transformer import GuardTransformer
    from platodef_cli.records import AuditReport

__all__ = [
    "AuditReport",
    "Guard",
    "GuardTransformer",
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
    "Guard": "platodef_cli.guard.guard",
    "GuardTransformer": "platodef_cli.guard.transformer",
    "Preflight": "platodef_cli.encoders.checks.preflight",
}


def __getattr__(name: str) -> Any:
    """Load on first use what takes long to import: pydantic, torch, scikit-learn."""
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_FIRST_USE[name]), name)
