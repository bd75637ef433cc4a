"""Measures the power of the searches for references that come with the package: its positive controls."""

from dataclasses import dataclass
from pathlib import Path

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.inputs import open_inputs, split
from platodef_cli.audit.provenance import libraries
from platodef_cli.audit.steps.controls import REPEATS, digests_of, run_controls
from platodef_cli.audit.steps.search import Searches
from platodef_cli.audit.steps.search_store import REFERENCE_SEED
from platodef_cli.audit.verdict.power import judge_power
from platodef_cli.bench.calibrate import IMAGES, REFERENCES
from platodef_cli.bench.feature_store import public_uri
from platodef_cli.features.cache import FeatureCache
from platodef_cli.images.interface import digest_of
from platodef_cli.progress import SILENT, Progress
from platodef_cli.records import PositiveControls
from platodef_cli.version import __version__

_SUSPECT = "builtin:clean"  # an audit has one; nothing of it is measured


@dataclass(frozen=True)
class ControlsConfig:
    """What to plant, and into what.

    Attributes:
        images: Source of the images.
        references: Encoders that backdoors are planted into.
        searches: Kinds of search; all where there is none.
        repeats: Backdoors per kind of search and strength.
        cache: Folder of finished controls, so that an interrupted run goes on.
        command: What the user typed.
    """

    images: str = IMAGES
    references: tuple[str, ...] = REFERENCES
    searches: tuple[str, ...] = ()
    repeats: int = REPEATS
    cache: Path | None = None
    command: str = ""


def controls(config: ControlsConfig, *, progress: Progress = SILENT) -> PositiveControls:
    """Plant backdoors into references and search for them.

    Raises:
        UsageError: An input is wrong.
        InconclusiveError: There are too few images.
        IncompleteError: Memory or disk ran out; finished controls are kept.
    """
    asked = AuditConfig(
        model=_SUSPECT,
        references=config.references,
        images=config.images,
        searches=config.searches,
        cache_dir=config.cache,
    )
    cache = FeatureCache(asked.cache_dir, progress=progress)
    with open_inputs(asked, progress, cache=cache) as inputs:
        parts = split(len(inputs.images.refs), asked.seed, asked.sample)
        searches = Searches.of_audit(inputs, parts, asked, cache, progress)
        rows = searches.rows[REFERENCE_SEED]
        power = run_controls(
            inputs,
            searches,
            asked,
            progress,
            repeats=config.repeats,
            origin=f"shipped with platodef, measured by version {__version__}",
        )
        return PositiveControls(
            command=config.command,
            tool_version=__version__,
            libraries=libraries(),
            images=public_uri(inputs.images.uri),
            images_digest=digest_of(inputs.images, rows),
            search_images=len(rows),
            references={name: encoder.record.digest for name, encoder in inputs.references.items()},
            searches=digests_of(inputs, searches, asked),
            power=judge_power(power, asked.limits),
        )
