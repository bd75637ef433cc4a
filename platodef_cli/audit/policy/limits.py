"""The limits of a verdict: every key, its default, its meaning and the values that it takes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any

from platodef_cli.errors import UnknownNameError, UsageError

_SEARCH = "search_limits"


def _key(default: Any, meaning: str) -> Any:
    """Return a field of the policy with its one-line meaning."""
    return field(default=default, metadata={"meaning": meaning})


def search_key(kind: str) -> str:
    """Return the key of the limits of a kind of search: ``patch_collapse`` for ``patch``."""
    return f"{kind.replace('-', '_')}_collapse"


@dataclass(frozen=True, init=False)
class Policy:
    """Limits of the verdict; ``platodef policy check`` prints them with their meanings.

    Every key can be given and read by its name, those of the kinds of search (``patch_collapse``) as well:
    ``Policy(name="mine", patch_collapse=(0.5, 0.9))``.

    Scores of the search are the smaller of collapse / limit and distance to the references / gap.
    A limit inside the confidence interval of what was measured makes the verdict inconclusive.

    Raises:
        UsageError: A key is unknown, or a limit that scores divide by is not above 0 and at most 1.
    """

    name: str = _key("default", "shown in the verdict")
    auroc: float = _key(
        0.80, "a trigger of the battery counts only above this AUROC (clean against triggered)"
    )
    battery_collapse: float = _key(
        0.45, "... and if it collapses the features to this mean pairwise cosine or more"
    )
    battery_gap: float = _key(0.25, "... and by this much more than every reference and every benign control")
    search_limits: tuple[tuple[str, tuple[float, ...]], ...] = _key(
        (), "key -> limits of every kind of search, in the order of their table"
    )
    search_gap: float = _key(
        0.20, "a found trigger must collapse the suspect by this much more than every reference"
    )
    matched_auroc: float = _key(
        0.75, "the heads must tell matched from mismatched tuples this well, else inconclusive"
    )
    alignment_p: float = _key(0.05, "largest p-value of the CKNNA with the best reference, else inconclusive")
    min_test: int = _key(100, "fewest clean test images for an answer")
    min_calibration: int = _key(60, "fewest calibration images for an answer")
    fail_if: tuple[str, ...] = _key((), "further rules, e.g. 'poisoned-accuracy < 0.5'")

    # the keys of the search come from a table that packages may extend, so no signature can list them
    def __init__(self, **values: Any) -> None:
        given = {**dict(values.pop(_SEARCH, ())), **values}
        keys = {name: key.default for name, key in policy_keys().items()}
        _check_names(given, keys, "a policy")
        keys.update(given)
        own = {entry.name for entry in fields(self)}
        searched = tuple((name, tuple(limits)) for name, limits in keys.items() if name not in own)
        for name in own:
            # as the constructor of a frozen dataclass does it
            object.__setattr__(self, name, searched if name == _SEARCH else keys[name])
        # scores are collapse / limit and distance / gap
        for name, limits in (*searched, ("search_gap", (self.search_gap,))):
            if not all(0 < limit <= 1 for limit in limits):
                text = ", ".join(map(str, limits))
                raise UsageError(f"policy {self.name!r}: {name} is {text}; give above 0 and at most 1")

    if not TYPE_CHECKING:  # type checkers shall go on to see errors in the names of the fields

        def __getattr__(self, name: str) -> tuple[float, ...]:
            # a copy has no fields yet when it is asked for its methods
            limits = dict(self.__dict__.get(_SEARCH, ()))
            if name not in limits:
                raise AttributeError(f"a policy has no key {name!r}")
            return limits[name]

    def collapse_limits(self, kind: str) -> tuple[float, ...]:
        """Return the collapse limits of a kind of search, per budget; none where the kind is unknown."""
        return dict(self.search_limits).get(search_key(kind), ())

    def to_json(self) -> dict[str, float | int | str | bool]:
        """Return the limits as flat values for the report; entries of lists are numbered from 1."""
        values: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            values.update(value if entry.name == _SEARCH else {entry.name: value})
        flat: dict[str, float | int | str | bool] = {}
        for name, value in values.items():
            if isinstance(value, tuple):
                flat.update({f"{name}_{number}": entry for number, entry in enumerate(value, start=1)})
            else:
                flat[name] = value
        return flat

    @classmethod
    def from_json(cls, flat: Mapping[str, float | int | str | bool]) -> "Policy":
        """Return the policy that a report records.

        Keys that the report does not have, because an earlier version wrote it, take their defaults.

        Raises:
            UsageError: The record has a key that is not one of a policy, or a wrong value.
        """
        lists: dict[str, dict[int, object]] = {
            name: {} for name, default in DEFAULTS.items() if isinstance(default, tuple)
        }
        values: dict[str, object] = {}
        for key, value in flat.items():
            name, _, number = key.rpartition("_")
            if name in lists and number.isdecimal():
                lists[name][int(number)] = value
            else:
                values[key] = value
        for name, entries in lists.items():
            if entries:
                values[name] = [entries[number] for number in sorted(entries)]
        return cls(**checked(values, "the policy in the report"))


@dataclass(frozen=True)
class PolicyKey:
    """One key of a policy, as files, the environment and reports name it.

    Attributes:
        default: Its value where nothing else is given.
        meaning: In one line.
    """

    default: Any
    meaning: str


def policy_keys() -> dict[str, PolicyKey]:
    """Return every key in order; the kinds of search bring theirs.

    Raises:
        UsageError: A kind of search would take the key of something else.
    """
    from platodef_cli.search.interface import search_kinds

    keys: dict[str, PolicyKey] = {}
    own = {entry.name for entry in fields(Policy)}
    for entry in fields(Policy):
        if entry.name != _SEARCH:
            keys[entry.name] = PolicyKey(entry.default, entry.metadata["meaning"])
            continue
        for kind in search_kinds():
            name = search_key(kind.name)
            if name in own or name in keys:
                raise UsageError(f"a kind of search cannot be called {kind.name!r}: {name!r} is taken")
            keys[name] = PolicyKey(kind.collapse_limits, kind.limits_meaning)
    return keys


class _OfEveryKey(Mapping[str, Any]):
    """Key -> what it has of something; read when it is asked, so that added kinds of search are there."""

    def __init__(self, attribute: str):
        self._attribute = attribute

    def __getitem__(self, key: str) -> Any:
        return getattr(policy_keys()[key], self._attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(policy_keys())

    def __len__(self) -> int:
        return len(policy_keys())


DEFAULTS: Mapping[str, Any] = _OfEveryKey("default")
MEANINGS: Mapping[str, str] = _OfEveryKey("meaning")


def checked(values: Mapping[str, object], where: str, *, text: bool = False) -> dict[str, Any]:
    """Return values as fields of a policy.

    Args:
        values: Key -> value, as TOML or JSON gives it.
        where: Names their source in errors.
        text: The values are texts, lists with commas, as a command line gives them.

    Raises:
        UsageError: A key is unknown, or a value is not of its key's kind.
    """
    defaults = dict(DEFAULTS)
    _check_names(values, defaults, where)
    return {name: _checked(where, name, value, defaults[name], text) for name, value in values.items()}


def _check_names(names: Iterable[str], known: Iterable[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise UnknownNameError(f"key in {where}:", name, known)


def _checked(where: str, name: str, value: Any, default: Any, text: bool) -> Any:
    """Return a value if it is of the kind of its default."""
    from pydantic import TypeAdapter, ValidationError

    kind, wanted = _accepted(default, strict=not text)
    given = value
    if text and isinstance(default, tuple):
        given = [part.strip() for part in str(value).split(",") if part.strip()]
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    if isinstance(default, tuple) and default and first["loc"] and first["type"] != "missing":
        # one entry of a list of limits
        place = int(first["loc"][0])
        name, value, wanted = f"{name}[{place}]", given[place], _accepted(default[place], strict=True)[1]
    raise UsageError(f"{where}: {name} is {value!r}, it must be {wanted}")


def _accepted(default: object, *, strict: bool) -> tuple[Any, str]:
    """Return what values a key with this default takes: their type, and in words.

    Args:
        default: Of the key.
        strict: Numbers in texts are no numbers.
    """
    from pydantic import Field

    word = Annotated[str, Field(pattern=r"\S", strict=True)]
    if isinstance(default, str):
        return word, "a name"
    if isinstance(default, int):
        return Annotated[int, Field(ge=1, strict=strict)], "a whole number from 1 on"
    if isinstance(default, float):
        share = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False, strict=strict)]
        return share, "a number between -1 and 1"
    if not isinstance(default, tuple):
        raise TypeError(f"a policy has no values such as {default!r}")
    if not default:
        return tuple[word, ...], "a list of rules such as 'auroc > 0.9'"
    entries = tuple(_accepted(entry, strict=strict)[0] for entry in default)
    return GenericAlias(tuple, entries), f"a list of {len(default)} numbers"
