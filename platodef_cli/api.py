"""The Python API: what ``from platodef_cli import ...`` gives."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from platodef_cli import environment
from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.policy.limits import Policy
from platodef_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from platodef_cli.encoders.checks.preflight import Preflight
    from platodef_cli.records import AuditReport
    from platodef_cli.report.interface import RenderOptions


def audit(
    model: str | Path,
    *,
    images: str | Path | None = None,
    references: Sequence[str | Path] = (),
    revision: str | None = None,
    policy: Policy | str | Path | None = None,
    head: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    offline: bool = False,
    device: str = "cpu",
    batch_size: int = 64,
    battery: str = "standard",
    cache_dir: Path | None = None,
    use_cache: bool = True,
    progress: Progress = SILENT,
) -> "AuditReport":
    """Audit a vision encoder, as ``platodef audit`` does; nothing is printed.

    Libraries that load models are set to send no telemetry and to convert no pickles, through environment
    variables of this process.

    Args:
        model: Folder, ``org/name[@revision]``, ``hf://org/name[@revision]`` or ``builtin:NAME``.
        images: Folder, ``.parquet`` file, ``hf://datasets/org/name@revision`` or ``builtin:shapes``; may be
            left out for ``builtin:`` models only.
        references: Trusted encoders; empty takes the defaults.
        revision: Branch, tag or commit of ``model``.
        policy: Limits of the verdict, or a TOML file of them.
        head: Folder of fitted heads; None fits them.
        limit: Use that many images only; the answer is then inconclusive at best.
        seed: Of every random choice.
        offline: Never use the network.
        device: ``cpu`` or ``cuda``.
        batch_size: Images per call of an encoder.
        battery: ``standard`` or ``quick``.
        cache_dir: Feature cache; None takes the user's.
        use_cache: Read and write the cache.
        progress: Receives steps and warnings.

    Returns:
        The report that ``-o json`` writes: ``verdict`` pass, fail or inconclusive, ``exit_code``,
        ``reasons``, measurements and provenance.

    Raises:
        UsageError: An input is wrong.
        RefusedError: The model's files are unsafe; nothing of it was loaded.
        HubError: The hub does not give a model or the images.
        IncompleteError: Memory, time or disk ran out, or the process of the model ended.
        InconclusiveError: There are too few images to begin.
    """
    environment.prepare()
    from platodef_cli.audit.policy.sources import policy_of

    limits = policy_of(Path(policy)) if isinstance(policy, str | Path) else policy
    config = AuditConfig(
        model=str(model),
        revision=revision,
        references=tuple(map(str, references)),
        images=None if images is None else str(images),
        limit=limit,
        seed=seed,
        head=None if head is None else str(head),
        cache_dir=cache_dir,
        use_cache=use_cache,
        offline=offline,
        device=device,
        batch_size=batch_size,
        battery=battery,
        policy=limits or Policy(),
    )
    from platodef_cli.audit.run import audit as run

    with environment.offline_while(offline):
        return run(config, progress=progress)


def preflight(
    model: str | Path, *, revision: str | None = None, offline: bool = False, progress: Progress = SILENT
) -> "Preflight":
    """Check the files of a model without loading anything of it, as ``platodef preflight`` does.

    Args:
        model: Folder or name on the hub; of the latter, only files that an encoder may need are downloaded.
        revision: Branch, tag or commit of ``model``.
        offline: Never use the network.
        progress: Receives the steps.

    Returns:
        Files with hashes, architecture, findings, and what was not examined.

    Raises:
        UsageError: There is no such model.
        RefusedError: A file is unsafe.
        HubError: The hub does not give the model.
    """
    environment.prepare()
    from platodef_cli.encoders.checks.preflight import preflight as check
    from platodef_cli.encoders.reference import parse
    from platodef_cli.encoders.resolve import resolve

    with environment.offline_while(offline):
        return check(resolve(parse(str(model), revision), offline=offline, progress=progress).directory)


def read_report(path: str | Path) -> "AuditReport":
    """Read a JSON report of this or an earlier version.

    Raises:
        UsageError: The file is missing, too large, of a newer version, or is not a report.
    """
    from platodef_cli.report.reading import read_report as read

    return read(Path(path))


def render(report: "AuditReport", form: str, options: "RenderOptions | None" = None) -> str:
    """Return a report as text.

    Args:
        report: From :func:`audit` or :func:`read_report`.
        form: A format of ``platodef report -o``: terminal, json, markdown, html, sarif, junit.
        options: Width, colour and details; for a file by default.

    Raises:
        UsageError: There is no such format; the message lists the choices.
    """
    from platodef_cli.report import REPORTS
    from platodef_cli.report.interface import RenderOptions

    text: str = REPORTS.load(form)(report, options or RenderOptions())
    return text
