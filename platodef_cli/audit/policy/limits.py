"""The limits of a verdict: every key, its default, its meaning and the values that it takes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from platodef_cli.errors import UnknownNameError, UsageError


def _key(default: Any, meaning: str) -> Any:
    """Return a field of the policy with its one-line meaning."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Policy:
    """Limits of the verdict; ``platodef policy check`` prints them with their meanings.

    Scores of the search are the smaller of collapse / limit and distance to the references / gap.
    A limit inside the confidence interval of what was measured makes the verdict inconclusive.
    """

    name: str = _key("default", "shown in the verdict")
    auroc: float = _key(
        0.80, "a trigger of the battery counts only above this AUROC (clean against triggered)"
    )
    battery_collapse: float = _key(
        0.45, "... and if it collapses the features to this mean pairwise cosine or more"
    )
    battery_gap: float = _key(0.25, "... and by this much more than every reference and every benign control")
    patch_collapse: tuple[float, ...] = _key(
        (0.60, 0.93), "collapse that a searched patch must reach, per side of the search"
    )
    universal_collapse: tuple[float, ...] = _key(
        (0.25, 0.60), "the same for a searched universal change, per norm of the search"
    )
    wave_collapse: tuple[float, ...] = _key(
        (0.75,), "the same for a searched sinusoid, per amplitude of the search"
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

    def __post_init__(self) -> None:
        # scores are collapse / limit and distance / gap
        limits = {
            "patch_collapse": self.patch_collapse,
            "universal_collapse": self.universal_collapse,
            "wave_collapse": self.wave_collapse,
            "search_gap": (self.search_gap,),
        }
        for name, values in limits.items():
            if not all(0 < value <= 1 for value in values):
                text = ", ".join(map(str, values))
                raise UsageError(f"policy {self.name!r}: {name} is {text}; give above 0 and at most 1")

    def to_json(self) -> dict[str, float | int | str | bool]:
        """Return the limits as flat values for the report; entries of lists are numbered from 1."""
        flat: dict[str, float | int | str | bool] = {}
        for name, value in asdict(self).items():
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
        lists: dict[str, dict[int, object]] = {}
        values: dict[str, object] = {}
        for key, value in flat.items():
            name, _, number = key.rpartition("_")
            if name in DEFAULTS and isinstance(DEFAULTS[name], tuple) and number.isdecimal():
                lists.setdefault(name, {})[int(number)] = value
            else:
                values[key] = value
        values.update({name: [entries[n] for n in sorted(entries)] for name, entries in lists.items()})
        return cls(**checked(values, "the policy in the report"))


DEFAULTS: dict[str, Any] = {entry.name: entry.default for entry in fields(Policy)}
MEANINGS: dict[str, str] = {entry.name: entry.metadata["meaning"] for entry in fields(Policy)}


def checked(values: Mapping[str, object], where: str) -> dict[str, Any]:
    """Return values as fields of a policy.

    Args:
        values: Key -> value, as TOML or JSON gives it.
        where: Names their source in errors.

    Raises:
        UsageError: A key is unknown, or a value is not of its key's kind.
    """
    for name in values:
        if name not in DEFAULTS:
            raise UnknownNameError(f"key in {where}:", name, DEFAULTS)
    return {name: _checked(where, name, value, DEFAULTS[name]) for name, value in values.items()}


def _checked(where: str, name: str, value: Any, default: Any) -> Any:
    """Return a value if it is of the kind of its default."""
    wrong = UsageError(f"{where}: {name} is {value!r}, it must be {wanted(default)}")
    if default == ():
        if not isinstance(value, list | tuple) or not all(isinstance(e, str) and e.strip() for e in value):
            raise wrong
        return tuple(value)
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(default):
            raise wrong
        return tuple(_checked(where, f"{name}[{i}]", entry, default[i]) for i, entry in enumerate(value))
    if isinstance(default, str):
        if not isinstance(value, str) or not value.strip():
            raise wrong
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int):
        if not number or isinstance(value, float) or value < 1:
            raise wrong
        return value
    if not number or not -1 <= value <= 1:
        raise wrong
    return float(value)


def wanted(default: object) -> str:
    """Return in words what values a key with this default takes."""
    if default == ():
        return "a list of rules such as 'auroc > 0.9'"
    if isinstance(default, tuple):
        return f"a list of {len(default)} numbers"
    if isinstance(default, str):
        return "a name"
    return "a whole number from 1 on" if isinstance(default, int) else "a number between -1 and 1"
