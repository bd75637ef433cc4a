"""``platodef preflight``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli import environment
from platodef_cli.cli import completion, options
from platodef_cli.cli.exits import closing_line, explain
from platodef_cli.cli.outputs import to_stdout
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import aligned, show_json
from platodef_cli.encoders.checks.layout import CONFIGURATIONS
from platodef_cli.encoders.checks.nothing import PICKLES
from platodef_cli.errors import (
    EXIT_FAIL,
    EXIT_INCOMPLETE,
    EXIT_INCONCLUSIVE,
    EXIT_PASS,
    EXIT_REFUSED,
    EXIT_USAGE,
    PlatodefError,
    UsageError,
)

if TYPE_CHECKING:
    from platodef_cli.encoders.checks.preflight import Preflight
    from platodef_cli.encoders.resolve import ResolvedModel

_PRECEDENCE = (EXIT_PASS, EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_USAGE, EXIT_INCOMPLETE, EXIT_REFUSED)
_PASSED = "the files passed every static check; the behaviour of the model was not examined"


def _text(result: "Preflight", commit: str | None) -> str:
    facts = [
        ("model", result.directory),
        ("commit", commit or "none, a local folder"),
        ("backend", result.backend),
        ("architecture", result.architecture),
        ("parameters", f"{result.parameters:,}"),
        ("digest", result.digest),
    ]
    parts = [
        aligned(("", ""), facts).lstrip("\n"),
        aligned(("file", "bytes", "sha256"), [(file.path, file.bytes, file.sha256) for file in result.files]),
    ]
    if result.findings:
        rows = [(finding.severity, finding.message, finding.id) for finding in result.findings]
        parts.append(aligned(("severity", "finding", "id"), rows))
    parts.append(aligned(("not examined",), [(entry,) for entry in result.not_examined or ("nothing",)]))
    return "\n".join(parts)


def _folders(models: Sequence[str]) -> list[str]:
    """Return the models, each once; a file stands for its folder, if that is a model folder.

    Hooks pass whatever files changed: a ``package.json`` or a firmware's ``.bin`` belongs to no model.
    """
    found = []
    for model in models:
        path = Path(model)
        if path.is_file():
            if not _holds_model(path.parent):
                continue
            model = str(path.parent)
        found.append(model)
    return list(dict.fromkeys(found))


def _holds_model(folder: Path) -> bool:
    """Return whether a loader could find a model there: safetensors, or pickles beside a configuration."""
    names = {entry.name for entry in folder.iterdir()}
    if any(name.endswith(".safetensors") for name in names):
        return True
    return not names.isdisjoint(CONFIGURATIONS[:2]) and any(name.endswith(PICKLES) for name in names)


def _check(
    session: Session, model: str, revision: str | None, offline: bool, follow_links: bool
) -> "tuple[Preflight, ResolvedModel]":
    from platodef_cli.encoders.load import check_supported
    from platodef_cli.encoders.reference import parse
    from platodef_cli.encoders.resolve import examine, resolve

    resolved = resolve(parse(model, revision), offline=offline, progress=session.progress)
    with session.progress.step("checking files"):
        result = examine(resolved, follow_links=follow_links)
    check_supported(result)
    return result, resolved


def preflight(
    session: Session,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Folder (or a file in it), org/name, org/name@revision, hf://org/name or builtin:NAME.",
            autocompletion=completion.encoders,
        ),
    ],
    revision: options.Revision = None,
    offline: options.Offline = False,
    follow_links: options.FollowLinks = False,
    as_json: options.AsJson = False,
    exit_zero: options.ExitZero = False,
) -> None:
    """Check the files of models without loading anything of them.

    Refuses (5) unsafe formats and configurations, fails (1) on findings of high severity, and lists what
    it did not look into. A Hub model is downloaded first, but only the files that an encoder may need. Of
    several models the worst result counts, and --json gives a list.
    """
    without_network = options.offline(offline)
    if without_network:
        environment.go_offline()
    if revision is not None and len(models) > 1:
        raise UsageError("--revision is for one model; write org/name@revision for each of several")
    shown, endings = [], []
    for model in _folders(models):
        try:
            result, resolved = _check(session, model, revision, without_network, follow_links)
        except PlatodefError as error:
            if len(models) == 1:
                raise
            endings.append(explain(error))
            continue
        high = [finding for finding in result.findings if finding.severity == "high"]
        endings.append((EXIT_FAIL, f"{model}: {high[0].message}") if high else (EXIT_PASS, _PASSED))
        if as_json:
            shown.append({"uri": resolved.uri, "commit": resolved.commit, **result.model_dump(mode="json")})
        else:
            to_stdout(_text(result, resolved.commit))
    if as_json:
        show_json(shown[0] if len(models) == 1 and shown else shown)
    _finish(session, endings, exit_zero)


def _finish(session: Session, endings: list[tuple[int, str]], exit_zero: bool) -> None:
    """Tell every ending but the worst, which ends the command.

    Raises:
        typer.Exit: The worst is not a pass.
    """
    endings = sorted(endings or [(EXIT_PASS, "none of the files belongs to a model")], key=_rank)
    for code, message in endings[:-1]:
        if code != EXIT_PASS:
            session.say(closing_line(code, message))
    code, message = endings[-1]
    session.finish(message, EXIT_PASS if exit_zero and code == EXIT_FAIL else code)


def _rank(ending: tuple[int, str]) -> int:
    return _PRECEDENCE.index(ending[0])
