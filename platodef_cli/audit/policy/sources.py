"""Where a policy comes from: command line, environment, ``platodef.toml``, ``pyproject.toml``.

Every key is taken from the first place that has it. Files are looked for in the current folder only: a
parent folder may belong to somebody else. Nothing is ever read from inside the audited model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from platodef_cli.audit.policy.files import read_toml, refuse_inside
from platodef_cli.audit.policy.limits import ADDED_LIMIT, DEFAULTS, Policy, checked, optional_keys
from platodef_cli.audit.verdict.rules import parse_rule
from platodef_cli.errors import UnknownNameError, UsageError

CONFIG_FILE = "platodef.toml"
PREFIX = "PLATODEF_"
POLICY_VARIABLE = f"{PREFIX}POLICY"
_NOT_KEYS = ("POLICY", "CACHE_DIR", "HEADS_DIR")
_ADJUSTED = ", adjusted"


@dataclass(frozen=True)
class Effective:
    """A policy, and where each of its values came from.

    Attributes:
        policy: What holds.
        sources: Key -> place, for people (``--set``, ``PLATODEF_AUROC``, ``platodef.toml``, ``default``).
    """

    policy: Policy
    sources: dict[str, str]


@dataclass(frozen=True)
class _Layer:
    """The keys of one place; a file is also a policy with a name of its own."""

    values: dict[str, Any]
    sources: dict[str, str]
    name: str | None = None
    place: str = ""


def effective_policy(
    *,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    rules: Sequence[str] = (),
    environment: Mapping[str, str],
    folder: Path | None,
    models: Sequence[str] = (),
    recorded: Mapping[str, float | int | str | bool] | None = None,
) -> Effective:
    """Return the policy that holds.

    Args:
        file: ``--policy``.
        overrides: ``--set KEY=VALUE``.
        rules: ``--fail-if``; they are added to those of the policy.
        environment: Variables; ``PLATODEF_POLICY`` names a file, ``PLATODEF_<KEY>`` sets a key.
        folder: The current folder, where ``platodef.toml`` and ``pyproject.toml`` are looked for; None
            looks for none.
        models: Names or folders of the audited model; a file inside it is refused.
        recorded: The policy in a report, in place of the defaults where no file is given.

    Raises:
        UsageError: A file cannot be read, a key is unknown, a value is wrong, or a file lies in the model.
    """
    paths = _paths(file, environment, folder)
    for path, _ in paths.values():
        refuse_inside(path, models, "the policy")
    layers = _layers(paths, overrides, environment)
    files = [layer for layer in layers if layer.name is not None]
    base = Policy() if files or recorded is None else _recorded(recorded)
    bottom = "default" if files or recorded is None else "report"
    # a policy file says nothing of a kind of search that only a plug-in has, which may be missing here
    base = base.with_limits(_of_plugins(recorded or {}))
    sources = {**dict.fromkeys(DEFAULTS, bottom), **dict.fromkeys(_added(base), "report")}
    values: dict[str, Any] = {}
    for layer in reversed(layers):
        values.update(layer.values)
        sources.update(layer.sources)
    if "name" not in values:
        # named after the first file, and after what else had a say
        name = base.name if not files else files[0].name or base.name
        own = files[0].sources.values() if files else ()
        adjusted = bool({sources[key] for key in values} - set(own)) and not name.endswith(_ADJUSTED)
        values["name"] = f"{name}{_ADJUSTED}" if adjusted else name
        sources["name"] = files[0].place if files else bottom
    policy = replace(base, **values)
    added = [rule for rule in rules if rule not in policy.fail_if]
    if added:
        sources["fail_if"] = "--fail-if" if not policy.fail_if else f"{sources['fail_if']}, --fail-if"
        policy = replace(policy, fail_if=(*policy.fail_if, *dict.fromkeys(added)))
    for rule in policy.fail_if:
        parse_rule(rule)
    return Effective(policy, sources)


def _layers(
    paths: Mapping[str, tuple[Path, tuple[str, ...]]],
    overrides: Sequence[str],
    environment: Mapping[str, str],
) -> list[_Layer]:
    """Return the keys of every place, highest precedence first.

    A file that nobody named and that sets nothing, as ``policy init`` writes it, is no policy.
    """
    files = {place: _from_file(*path) for place, path in paths.items()}
    found = [files[name] for name in (CONFIG_FILE, "pyproject.toml") if name in files]
    return [
        _from_words(overrides),
        *([files["--policy"]] if "--policy" in files else []),
        _from_environment(environment),
        *([files[POLICY_VARIABLE]] if POLICY_VARIABLE in files else []),
        *(layer for layer in found if layer.values),
    ]


def policy_of(path: Path) -> Policy:
    """Return the policy that a file says, whatever the environment and the current folder say.

    Raises:
        UsageError: The file cannot be read, a key is unknown or a value is wrong.
    """
    return effective_policy(file=path, environment={}, folder=None).policy


def _added(policy: Policy) -> dict[str, tuple[float, ...]]:
    """Return the limits of a policy for kinds of search that plug-ins add."""
    return {name: limits for name, limits in policy.search_limits if name not in DEFAULTS}


def _of_plugins(flat: Mapping[str, float | int | str | bool]) -> dict[str, tuple[float, ...]]:
    """Return the recorded limits of kinds of search that plug-ins add."""
    keys = [key for key in flat if key.rpartition("_")[0] not in DEFAULTS and ADDED_LIMIT.fullmatch(key)]
    return _added(Policy.from_json({key: flat[key] for key in keys}))


def _recorded(flat: Mapping[str, float | int | str | bool]) -> Policy:
    try:
        return Policy.from_json(flat)
    except UsageError as error:
        raise UsageError(f"{error} (give a policy with --policy)") from error


def _paths(
    file: Path | None, environment: Mapping[str, str], folder: Path | None
) -> dict[str, tuple[Path, tuple[str, ...]]]:
    """Return place -> (file, table inside it), for the files that are there or were named."""
    paths: dict[str, tuple[Path, tuple[str, ...]]] = {}
    if file is not None:
        paths["--policy"] = (file, ())
    if environment.get(POLICY_VARIABLE):
        paths[POLICY_VARIABLE] = (Path(environment[POLICY_VARIABLE]), ())
    if folder is None:
        return paths
    if (folder / CONFIG_FILE).is_file():
        paths[CONFIG_FILE] = (folder / CONFIG_FILE, ())
    project = folder / "pyproject.toml"
    if project.is_file() and _table(read_toml(project, "the project file"), ("tool", "platodef")) is not None:
        paths["pyproject.toml"] = (project, ("tool", "platodef"))
    return paths


def _table(content: Mapping[str, Any], names: Sequence[str]) -> Any:
    table: Any = content
    for name in names:
        table = table.get(name) if isinstance(table, Mapping) else None
    return table


def _from_file(path: Path, table: tuple[str, ...]) -> _Layer:
    """Read the keys of a file, or of a table in it."""
    values = _table(read_toml(path, "the policy"), table)
    where = f"the policy {path}" + (f" [{'.'.join(table)}]" if table else "")
    if not isinstance(values, dict):
        raise UsageError(f"{where} is not a table of keys")
    own = checked(values, where)
    place = f"{path} [{'.'.join(table)}]" if table else str(path)
    # a file that was found says nothing by its stem
    name = path.name if path.name in (CONFIG_FILE, "pyproject.toml") else path.stem
    return _Layer(own, dict.fromkeys(own, place), name, place)


def _from_environment(environment: Mapping[str, str]) -> _Layer:
    """Read ``PLATODEF_<KEY>``; an empty variable is no variable."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or not text:
            continue
        key = variable.removeprefix(PREFIX)
        if key in _NOT_KEYS:
            continue
        known = (*DEFAULTS, *optional_keys())
        if key.lower() not in known or key != key.upper():
            # other tools may have variables of this prefix, but a key with a typing error must not be lost
            names = [name.upper() for name in known]
            if get_close_matches(key.upper(), [*names, *_NOT_KEYS], n=1, cutoff=0.75):
                raise UnknownNameError("environment variable", variable, [PREFIX + name for name in names])
            continue
        values |= checked({key.lower(): text}, f"the environment variable {variable}", text=True)
        sources[key.lower()] = variable
    return _Layer(values, sources)


def _from_words(overrides: Sequence[str]) -> _Layer:
    """Read ``KEY=VALUE`` words; the last one of a key counts."""
    values: dict[str, Any] = {}
    for word in overrides:
        key, equals, text = word.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--set {word}: give KEY=VALUE, such as auroc=0.9")
        values |= checked({key: text.strip()}, "--set", text=True)
    return _Layer(values, dict.fromkeys(values, "--set"))
