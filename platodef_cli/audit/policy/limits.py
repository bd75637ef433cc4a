"""The limits of a verdict: every key, its default, its meaning and the values that it takes."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from platodef_cli.audit.policy.values import checked_value
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.plugins import recording
from platodef_cli.search import SEARCH_KINDS

_SEARCH = "search_limits"
_LATER = ("require_signature", "trusted_signers")
"""Keys that earlier reports lack, so that they are named only where they are used."""
ADDED_LIMIT = re.compile(r"[a-z0-9][a-z0-9_]*_collapse_\d{1,4}")
"""Limit of a kind of search in a report, with its number; other keys can look like this too."""


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
    auroc: float = _key(0.80, "two of three accuse: clean and changed images are told apart above this AUROC")
    battery_collapse: float = _key(
        0.60, "... the change collapses the features to this mean pairwise cosine or more"
    )
    battery_gap: float = _key(0.25, "... and by this much more than every reference and every benign control")
    battery_lost: float = _key(
        0.75, "... or it takes this share of their variance, as for a target that is no image"
    )
    battery_lost_gap: float = _key(0.40, "... and by this much more than from every reference")
    battery_shift: float = _key(
        1.25, "... it moves the features by this many clean root variances (to another image: 1.41)"
    )
    battery_shift_gap: float = _key(0.50, "... and by this much more than every reference")
    search_limits: tuple[tuple[str, tuple[float, ...]], ...] = _key(
        (), "key -> limits of every kind of search, in the order of their table"
    )
    search_gap: float = _key(
        0.20, "a found trigger must collapse the suspect by this much more than every reference"
    )
    matched_auroc: float = _key(
        0.75, "the heads must tell matched from mismatched tuples this well, else inconclusive"
    )
    alignment_share: float = _key(
        0.40, "least CKNNA with the best reference, as a share of the references' own, else inconclusive"
    )
    alignment_p: float = _key(0.05, "largest p-value of the CKNNA with the best reference, else inconclusive")
    min_test: int = _key(100, "fewest clean test images for an answer")
    min_calibration: int = _key(60, "fewest calibration images for an answer")
    alpha: float = _key(
        0.01, "share of clean encoders that may fail: a failure needs a p-value of this or less, once known"
    )
    fail_if: tuple[str, ...] = _key((), "further rules, e.g. 'poisoned-accuracy < 0.5'")
    require_signature: bool = _key(False, "refuse models without a signature by one of trusted_signers")
    trusted_signers: tuple[str, ...] = _key(
        (), "who may sign: 'key:FILE.pem', 'certificate:ROOTS.pem', 'sigstore:IDENTITY ISSUER [TRUST.json]'"
    )

    if TYPE_CHECKING:  # type checkers shall go on to see errors in the names of the fields

        def __init__(
            self,
            *,
            name: str = ...,
            auroc: float = ...,
            battery_collapse: float = ...,
            battery_gap: float = ...,
            battery_lost: float = ...,
            battery_lost_gap: float = ...,
            battery_shift: float = ...,
            battery_shift_gap: float = ...,
            search_gap: float = ...,
            matched_auroc: float = ...,
            alignment_share: float = ...,
            alignment_p: float = ...,
            min_test: int = ...,
            min_calibration: int = ...,
            alpha: float = ...,
            fail_if: tuple[str, ...] = ...,
            require_signature: bool = ...,
            trusted_signers: tuple[str, ...] = ...,
            **search_limits: tuple[float, ...],
        ) -> None: ...

    else:
        # the keys of the search come from a table that packages may extend, so no signature can list them
        def __init__(self, **values: Any) -> None:
            _fill(self, dict(values.pop(_SEARCH, ())), values)

        def __getattr__(self, name: str) -> tuple[float, ...]:
            # a copy has no fields yet when it is asked for its methods
            limits = dict(self.__dict__.get(_SEARCH, ()))
            if name not in limits:
                raise AttributeError(f"a policy has no key {name!r}")
            return limits[name]

    def collapse_limits(self, kind: str) -> tuple[float, ...]:
        """Return the collapse limits of a kind of search, per budget; none where the kind is unknown."""
        return dict(self.search_limits).get(search_key(kind), ())

    def with_kinds(self, kinds: Iterable[str]) -> "Policy":
        """Return the policy with limits for kinds of search that plug-ins add; those it has stay.

        Args:
            kinds: Rows of :data:`platodef_cli.search.SEARCH_KINDS`; those that a policy has anyway change
                nothing.

        Raises:
            UsageError: A plug-in cannot be loaded, or would take the key of something else.
        """
        wanted: dict[str, str] = {}
        for kind in kinds:
            key = search_key(kind)
            if key in wanted:
                raise UsageError(
                    f"the kinds of search {wanted[key]!r} and {kind!r} have the same key {key!r}"
                )
            wanted[key] = kind
        return self.with_limits({key: _added_key(kind).default for key, kind in wanted.items()})

    def with_limits(self, limits: Mapping[str, tuple[float, ...]]) -> "Policy":
        """Return the policy with further search limits, key -> limits; those that it has stay."""
        had = dict(self.search_limits)
        if not limits.keys() - had:
            return self
        values: dict[str, Any] = {_SEARCH: tuple({**limits, **had}.items())}
        return replace(self, **values)

    def to_json(self) -> dict[str, float | int | str | bool]:
        """Return the limits as flat values for the report; entries of lists are numbered from 1."""
        values: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            values.update(value if entry.name == _SEARCH else {entry.name: value})
        flat: dict[str, float | int | str | bool] = {}
        for name, value in values.items():
            if name in _LATER and not value:
                continue
            if isinstance(value, tuple):
                flat.update({f"{name}_{number}": entry for number, entry in enumerate(value, start=1)})
            else:
                flat[name] = value
        return flat

    @classmethod
    def from_json(cls, flat: Mapping[str, float | int | str | bool]) -> "Policy":
        """Return the policy that a report records.

        Keys that the report does not have, because an earlier version wrote it, take their defaults. Limits
        of a kind of search that only a plug-in has are kept, whether it is installed here or not.

        Raises:
            UsageError: The record has a key that is not one of a policy, or a wrong value.
        """
        known = dict(DEFAULTS)
        lists: dict[str, dict[int, object]] = {}
        values: dict[str, object] = {}
        for key, value in flat.items():
            name, _, number = key.rpartition("_")
            listed = isinstance(known[name], tuple) and number.isdecimal() if name in known else False
            if listed or (name not in known and ADDED_LIMIT.fullmatch(key)):
                lists.setdefault(name, {})[int(number)] = value
            else:
                values[key] = value
        added: dict[str, tuple[float, ...]] = {}
        for name, entries in lists.items():
            ordered = [entries[number] for number in sorted(entries)]
            if name in known:
                values[name] = ordered
            else:
                shares = (0.0,) * len(ordered)
                added[name] = checked_value("the policy in the report", name, ordered, shares, False)
        return cls(**checked(values, "the policy in the report")).with_limits(added)


@dataclass(frozen=True)
class PolicyKey:
    """One key of a policy, as files, the environment and reports name it.

    Attributes:
        default: Its value where nothing else is given.
        meaning: In one line.
    """

    default: Any
    meaning: str


def _fill(policy: Policy, searches: Mapping[str, tuple[float, ...]], values: Mapping[str, Any]) -> None:
    """Set the fields of a new policy.

    Args:
        policy: It has no fields yet.
        searches: Limits of kinds of search, those of plug-ins that are not installed here as well.
        values: Key -> value, as they are given by name.
    """
    keys = {name: key.default for name, key in policy_keys().items()}
    order = list(keys)
    _check_names(values, "a policy")
    keys.update(searches)
    keys.update(values)
    own = {entry.name for entry in fields(Policy)}
    added = sorted(keys.keys() - set(order) - own)
    searched = tuple((name, tuple(keys[name])) for name in (*order, *added) if name not in own)
    for name in own:
        # as the constructor of a frozen dataclass does it
        object.__setattr__(policy, name, searched if name == _SEARCH else keys[name])
    if not 0 < policy.alpha < 1:
        raise UsageError(f"policy {policy.name!r}: alpha is {policy.alpha}; give above 0 and below 1")
    # scores are collapse / limit and distance / gap
    for name, limits in (*searched, ("search_gap", (policy.search_gap,))):
        if not all(0 < limit <= 1 for limit in limits):
            text = ", ".join(map(str, limits))
            raise UsageError(f"policy {policy.name!r}: {name} is {text}; give above 0 and at most 1")


def optional_keys() -> dict[str, str]:
    """Return key -> kind of search, for the kinds that plug-ins add; nothing of them is loaded."""
    known = policy_keys()
    return {search_key(kind): kind for kind in SEARCH_KINDS.plugins() if search_key(kind) not in known}


def _added_key(kind: str) -> PolicyKey:
    """Return the key of a plug-in's kind of search.

    Raises:
        UsageError: The plug-in cannot be loaded, or would take the key of something else.
    """
    known = policy_keys()
    name = search_key(kind)
    if name in known and kind not in SEARCH_KINDS.built_in():
        raise UsageError(f"{SEARCH_KINDS.plugin(kind)} cannot be used: its key {name!r} is taken")
    if name in known:
        return known[name]
    # what a policy looks at is not yet used
    with recording(set()):
        row = SEARCH_KINDS.load(kind)
    return PolicyKey(row.collapse_limits, row.limits_meaning)


def policy_key(name: str) -> PolicyKey:
    """Return a key, of the kinds of search that plug-ins add as well.

    Raises:
        KeyError: There is no such key.
        UsageError: It is that of a plug-in that cannot be loaded.
    """
    added = optional_keys()
    return _added_key(added[name]) if name in added else policy_keys()[name]


def policy_keys() -> dict[str, PolicyKey]:
    """Return every key that a policy always has, in order; the built-in kinds of search bring theirs.

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
    """Key -> what it has of something, for the keys that a policy always has; read when it is asked."""

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
    _check_names(values, where)
    return {
        name: checked_value(where, name, value, policy_key(name).default, text)
        for name, value in values.items()
    }


def _check_names(names: Iterable[str], where: str) -> None:
    known = policy_keys()
    for name in names:
        if name not in known and name not in optional_keys():
            raise UnknownNameError(f"key in {where}:", name, (*known, *optional_keys()))
