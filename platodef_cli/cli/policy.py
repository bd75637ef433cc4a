"""``platodef policy init | check | metrics``."""

from pathlib import Path
from typing import Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.gate import read_policy
from platodef_cli.cli.outputs import check_output, write_text
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import show_json, show_rows
from platodef_cli.errors import UsageError


def _toml(value: object) -> str:
    """Return a value of a policy as TOML."""
    from platodef_cli.report.json import dumps

    if isinstance(value, tuple):
        return f"[{', '.join(_toml(entry) for entry in value)}]"
    # a JSON string is a TOML basic string, and so are the numbers
    return dumps(value).strip()


def template() -> str:
    """Return a policy file with every key at its default, commented out, and its meaning."""
    from platodef_cli.audit.policy.limits import DEFAULTS, MEANINGS

    lines = [
        "# Limits of platodef's verdict. Every key may be left out: then its default holds, as shown.",
        "# Looked for in the current folder as platodef.toml, or given with --policy; the same keys may",
        "# stand under [tool.platodef] in pyproject.toml. The command line (--policy, --set, --fail-if)",
        "# comes before PLATODEF_<KEY> in the environment, before platodef.toml, before pyproject.toml.",
        "# A limit inside the confidence interval of what was measured makes the verdict inconclusive.",
    ]
    for key, default in DEFAULTS.items():
        lines += ["", f"# {MEANINGS[key]}", f"# {key} = {_toml(default)}"]
    return "\n".join(lines) + "\n"


def init(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="FILE.toml", help="Where to write it.")] = Path(
        "platodef.toml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Write a policy file with every key, its default and its meaning."""
    if path.exists() and not force:
        raise UsageError(f"{path} is already there; --force overwrites it")
    write_text(check_output(path), template())
    session.finish(f"wrote {path}; every key is commented out, so it changes nothing yet")


def check(
    session: Session,
    policy: options.PolicyFile = None,
    set_: options.SetKeys = None,
    fail_if: options.FailIf = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the policy that `platodef audit` would use here, and where each value comes from."""
    effective = read_policy(policy, set_, fail_if)
    values = {key: getattr(effective.policy, key) for key in effective.sources}
    if as_json:
        show_json({key: {"value": value, "source": effective.sources[key]} for key, value in values.items()})
    else:
        rows = [(key, _toml(value), effective.sources[key]) for key, value in values.items()]
        show_rows(("key", "value", "from"), rows, as_json=False)
    session.finish(f"the policy {effective.policy.name!r} is valid")


def metrics(session: Session, as_json: options.AsJson = False) -> None:
    """List the metrics that --fail-if and `fail_if` can name."""
    from platodef_cli.audit.verdict.metric_names import METRICS

    show_rows(
        ("metric", "meaning"), [(name, metric.meaning) for name, metric in METRICS.items()], as_json=as_json
    )
