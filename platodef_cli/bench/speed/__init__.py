"""The same work by platodef and by its peer, side by side: ``platodef bench speed``.

A row of :data:`CONTESTS` makes one :class:`platodef_cli.bench.speed.contest.Contest` of a size; peers are
their plain loops, written from the definitions of the papers or calling the other library.
"""

from platodef_cli.registry import Registry

CONTESTS = Registry(
    "contest",
    {
        "P1": "platodef_cli.bench.speed.kernels:neighbours",
        "P2": "platodef_cli.bench.speed.kernels:linear",
        "P3": "platodef_cli.bench.speed.networks:purifying",
        "P3-isolated": "platodef_cli.bench.speed.networks:purifying_isolated",
        "P4-64": "platodef_cli.bench.speed.scoring:few",
        "P4-4096": "platodef_cli.bench.speed.scoring:many",
        "P4-product-64": "platodef_cli.bench.speed.scoring:few_product",
        "P4-product-4096": "platodef_cli.bench.speed.scoring:many_product",
        "P4-network": "platodef_cli.bench.speed.networks:scoring",
        "P4-ridge": "platodef_cli.bench.speed.networks:ridge_score",
        "P4-whitened": "platodef_cli.bench.speed.networks:whitened_ridge_score",
        "P5": "platodef_cli.bench.speed.kernels:probing",
        "P5-falling": "platodef_cli.bench.speed.kernels:probing_falling",
        "P7": "platodef_cli.bench.speed.images:three_encoders",
        "P8": "platodef_cli.bench.speed.images:resuming",
        "P10": "platodef_cli.bench.speed.images:in_kernels",
        "guard-1": "platodef_cli.bench.speed.guarding:one_image",
        "guard-64": "platodef_cli.bench.speed.guarding:many_images",
    },
)
SIZES = ("small", "usual", "real")
"""A second for tests; minutes; that of the goals."""
