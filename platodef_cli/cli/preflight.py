"""``platodef preflight``."""

from typing import TYPE_CHECKING

from platodef_cli.cli import environment, options
from platodef_cli.cli.outputs import to_stdout
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import aligned, show_json
from platodef_cli.errors import EXIT_FAIL, EXIT_PASS

if TYPE_CHECKING:
    from platodef_cli.encoders.preflight import Preflight


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


def preflight(
    session: Session,
    model: options.Model,
    revision: options.Revision = None,
    offline: options.Offline = False,
    as_json: options.AsJson = False,
    exit_zero: options.ExitZero = False,
) -> None:
    """Check the files of a model without loading anything of it.

    Refuses (5) unsafe formats and configurations, fails (1) on findings of high severity, and lists what
    it did not look into. A Hub model is downloaded first, but only the files that an encoder may need.
    """
    if options.offline(offline):
        environment.go_offline()
    from platodef_cli.encoders.preflight import preflight as check
    from platodef_cli.encoders.reference import parse, resolve

    resolved = resolve(parse(model, revision), offline=options.offline(offline), progress=session.progress)
    with session.progress.step("checking files"):
        result = check(resolved.directory)
    if as_json:
        show_json({"uri": resolved.uri, "commit": resolved.commit, **result.model_dump(mode="json")})
    else:
        to_stdout(_text(result, resolved.commit))
    high = [finding for finding in result.findings if finding.severity == "high"]
    if high:
        session.finish(high[0].message, EXIT_PASS if exit_zero else EXIT_FAIL)
    else:
        session.finish("the files passed every static check; the behaviour of the model was not examined")
