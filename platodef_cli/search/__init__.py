"""The search for an unknown trigger: one file per kind of search, one row per kind in the table.

A backdoored encoder maps every triggered image to one feature, so a search over its weights finds a cheap
change that collapses its features. The same search runs on the references: what it reaches there is what
an adversary without a backdoor reaches, and the verdict compares the two.
"""

import json
from dataclasses import asdict
from typing import Any

from platodef_cli.registry import Registry


def _fault(kind: Any) -> str:
    """Return what is wrong with a plug-in's kind of search."""
    from platodef_cli.search.interface import SearchedTrigger

    if not isinstance(kind.trigger, type) or not issubclass(kind.trigger, SearchedTrigger):
        return f"its 'trigger' is {kind.trigger!r:.60}, not a subclass of SearchedTrigger"
    if not kind.collapse_limits or not all(
        isinstance(limit, int | float) and 0 < limit <= 1 for limit in kind.collapse_limits
    ):
        return f"its 'collapse_limits' are {kind.collapse_limits!r:.60}; give numbers above 0 and at most 1"
    made = kind()
    budgets = asdict(made)["budgets"]
    if len(budgets) > len(kind.collapse_limits):
        return f"it has {len(budgets)} budgets and {len(kind.collapse_limits)} of 'collapse_limits'"
    json.dumps(asdict(made))  # the key of the cache
    cost = made.cost()
    return "" if isinstance(cost, int) else f"its cost is {cost!r:.60}, not a whole number"


# in the order of their searches, whose random numbers depend on their place: new kinds go to the end
SEARCH_KINDS = Registry(
    "kind of search",
    {
        "patch": "platodef_cli.search.patch:PatchSearch",
        "universal": "platodef_cli.search.universal:UniversalSearch",
        "wave": "platodef_cli.search.wave:WaveSearch",
    },
    group="platodef.search_kinds",
    requires=(
        "name: str",
        "trigger",
        "collapse_limits: tuple",
        "limits_meaning: str",
        "version: int",
        "()",
        "budget_text(budget, pixels)",
        "cost()",
        "run(target, budget, generator, task)",
    ),
    named=True,
    fault=_fault,
)
