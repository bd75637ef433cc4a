"""The search for an unknown trigger: one file per kind of search, one row per kind in the table.

A backdoored encoder maps every triggered image to one feature, so a search over its weights finds a cheap
change that collapses its features. The same search runs on the references: what it reaches there is what
an adversary without a backdoor reaches, and the verdict compares the two.
"""

from platodef_cli.registry import Registry

# in the order of their searches, whose random numbers depend on their place: new kinds go to the end
SEARCH_KINDS = Registry(
    "kind of search",
    {
        "patch": "platodef_cli.search.patch:PatchSearch",
        "universal": "platodef_cli.search.universal:UniversalSearch",
        "wave": "platodef_cli.search.wave:WaveSearch",
        "warp": "platodef_cli.search.warp:WarpSearch",
        "corners": "platodef_cli.search.corners:CornersSearch",
        "pairs": "platodef_cli.search.pairs:PairsSearch",
    },
    group="platodef.search_kinds",
    requires=(
        "name: str",
        "trigger",
        "collapse_limits: tuple",
        "limits_meaning: str",
        "version: int",
        "()",
        "budget_text(budget)",
        "cost()",
        "run(target, budget, generator, task)",
    ),
    named=True,
    fault="platodef_cli.search.interface:fault_of",
)
