"""What a kind of trigger search is: its budgets and limits, how it searches, and what it finds.

Limits are needed where no encoder runs (``platodef gate``), so a module with a kind of search imports torch
inside its functions.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from platodef_cli.search import SEARCH_KINDS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from platodef_cli.encoders.interface import Encoder
    from platodef_cli.progress import Task
    from platodef_cli.search.statistics import CleanStatistics, Effect


@dataclass(frozen=True, eq=False)
class SearchedTrigger(ABC):
    """A trigger that a search found; implements :class:`platodef_cli.features.interface.Variant`.

    Attributes:
        kind: Name of the kind of search.
        values: float32 ``[3, h, w]``: the colours or the change that was searched for.
        side: Side of what it covers as a fraction of the image's side; 1 is the whole image.
        place: (y, x) of its corner as a share of the free height and width.
    """

    kind: str
    values: "Tensor"
    side: float = 1.0
    place: tuple[float, float] = (0.0, 0.0)

    @property
    def name(self) -> str:
        """``found-KIND-DIGEST``; the digest covers every field."""
        content = self.values.detach().cpu().float().contiguous().numpy()
        head = f"{self.kind} {content.shape} {self.side!r} {self.place!r}"
        own = fields(self)[len(fields(SearchedTrigger)) :]
        head += "".join(f" {entry.name}={getattr(self, entry.name)!r}" for entry in own)
        return f"found-{self.kind}-{hashlib.sha256(head.encode() + content.tobytes()).hexdigest()[:12]}"

    @abstractmethod
    def __call__(self, pixels: "Tensor", seeds: "Tensor") -> "Tensor":
        """Change images; see :class:`platodef_cli.features.interface.Variant`."""

    def place_text(self) -> str | None:
        """Return where it lies, in words; None where it changes the whole image."""
        return None

    def parts(self) -> tuple["SearchedTrigger", ...]:
        """Return its parts, each of which does nothing alone; none where it is one change."""
        return ()

    def picture(self, height: int, width: int) -> "Tensor":
        """Return it alone, uint8 ``[3, h, w]``.

        Reports say below the picture that a trigger with a place is on mid-grey, and that one without is
        stretched to the full range around mid-grey, because a change of a few levels is invisible.

        Args:
            height: Of the encoder's input, pixels.
            width: Of the encoder's input, pixels.
        """
        import torch

        from platodef_cli.triggers.variant import to_bytes, to_unit

        grey = torch.full((1, 3, height, width), 128, dtype=torch.uint8)
        changed = self(grey, torch.zeros(1, dtype=torch.int64))
        if self.place_text() is not None:
            return changed[0]
        change = to_unit(changed) - to_unit(grey)
        return to_bytes(0.5 + 0.5 * change / change.abs().max().clamp_min(1e-6))[0]


@dataclass(frozen=True)
class SearchTarget:
    """What a search works on.

    Attributes:
        encoder: Whose features shall collapse. It may be asked for gradients of any number of images: that
            of an audit computes them in parts that fit into memory.
        statistics: Of its clean features.
        pool: Images to search with, uint8 ``[N, 3, H, W]``.
        features: Their clean features, ``[N, D]``.
    """

    encoder: "Encoder"
    statistics: "CleanStatistics"
    pool: "Tensor"
    features: "Tensor"

    def draw(self, count: int, generator: "torch.Generator") -> "Tensor":
        """Return random images of the pool, float32 ``[count, 3, H, W]`` in [0, 1]."""
        import torch

        return self.take(torch.randint(0, len(self.pool), (count,), generator=generator))

    def take(self, rows: "Tensor") -> "Tensor":
        """Return images of the pool by number, float32 ``[n, 3, H, W]`` in [0, 1]."""
        from platodef_cli.triggers.variant import to_unit

        return to_unit(self.pool[rows])


@dataclass(frozen=True)
class SearchKind(ABC):
    """One kind of trigger search: a row of :data:`platodef_cli.search.SEARCH_KINDS`, in a file of its own.

    The class says what holds for every search of the kind; the fields are settings, and part of the cache
    key. What an audit runs is the class without arguments.

    Attributes:
        name: In the table, in reports and in the key of its limits (``<name>_collapse`` in a policy).
        trigger: The class of what it finds.
        collapse_limits: Default of its limits: the collapse that accuses a suspect, per default budget.
        limits_meaning: What the limits mean, one line for policy files.
        version: Part of the cache key: raise it when equal settings find another trigger.
        optional: An audit runs it only where it is asked for by name.
        budgets: How strong the trigger may be; one search is made for each. All fields have defaults.
        restarts: Runs per budget, each with random numbers of its own; the best one counts.
    """

    name: ClassVar[str]
    trigger: ClassVar[type[SearchedTrigger]]
    collapse_limits: ClassVar[tuple[float, ...]]
    limits_meaning: ClassVar[str]
    version: ClassVar[int] = 1
    optional: ClassVar[bool] = False

    budgets: tuple[float, ...] = ()
    restarts: int = 1

    @abstractmethod
    def budget_text(self, budget: float) -> str:
        """Return a budget in words (``16% of the side``, ``8/255``), the same for every input size."""

    @abstractmethod
    def cost(self) -> int:
        """Return how many images go through the encoder with gradients, per run."""

    @abstractmethod
    def run(
        self, target: SearchTarget, budget: float, generator: "torch.Generator", task: "Task"
    ) -> tuple[SearchedTrigger, int]:
        """Search with one budget, once.

        Args:
            target: Encoder and images.
            budget: One of the budgets.
            generator: Draws the start and the batches.
            task: Advanced by every image, often: a caller that was interrupted ends the search there.

        Returns:
            The best trigger, and the steps of its last round.
        """


def fault_of(kind: Any) -> str:
    """Return what is wrong with a plug-in's kind of search."""
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
    if not isinstance(made.restarts, int) or made.restarts < 1:
        return f"its 'restarts' are {made.restarts!r:.60}; give a whole number from 1"
    return "" if isinstance(cost, int) else f"its cost is {cost!r:.60}, not a whole number"


def search_kinds(extra: Sequence[str] = ()) -> tuple[type[SearchKind], ...]:
    """Return the built-in kinds in the order of the table, then those that the named plug-ins add.

    Args:
        extra: Names of plug-ins; what else they add is not looked at.

    Raises:
        UsageError: A plug-in's kind of search cannot be loaded.
    """
    added = sorted(set(extra) & set(SEARCH_KINDS.plugins()))
    return tuple(SEARCH_KINDS.load(name) for name in (*SEARCH_KINDS.built_in(), *added))


def default_searches(extra: Sequence[str] = ()) -> tuple[SearchKind, ...]:
    """Return what :func:`search_kinds` does, each with its default settings."""
    return tuple(kind() for kind in search_kinds(extra))


def usual_kinds(kinds: Sequence[SearchKind]) -> tuple[str, ...]:
    """Return the names of those that an audit runs where none is asked for by name."""
    # a plug-in's kind need not be made of SearchKind
    return tuple(kind.name for kind in kinds if not getattr(kind, "optional", False))


@dataclass(frozen=True)
class SearchConfig:
    """What is searched for on an encoder, and on which images; part of the cache key.

    Attributes:
        kinds: Kinds of search with their settings, in the order of the results.
        pool: Images that the search draws from.
        held_out: Other images that the result is measured on.
    """

    kinds: tuple[SearchKind, ...] = field(default_factory=default_searches)
    pool: int = 384
    held_out: int = 256

    def searches(self) -> list[tuple[SearchKind, float]]:
        """Return every kind with every budget, in the order of the results."""
        return [(kind, budget) for kind in self.kinds for budget in kind.budgets]

    def key(self, number: int) -> dict[str, object]:
        """Return JSON values for the cache key of one search: what its result depends on."""
        kind, budget = self.searches()[number]
        settings = {name: value for name, value in asdict(kind).items() if name != "budgets"}
        named = {"name": kind.name, "version": kind.version, **settings, **_release(kind)}
        return {
            "kind": named,
            "budget": budget,
            "number": number,  # random numbers follow from it
            "pool": self.pool,
            "held_out": self.held_out,
        }


def _release(kind: SearchKind) -> dict[str, str]:
    """Return what tells the versions of a plug-in's kind of search apart; nothing for the others."""
    plugin = SEARCH_KINDS.plugin(kind.name)
    return {} if plugin is None else {"plug-in": plugin.release}


@dataclass(frozen=True)
class SearchResult:
    """The best trigger of one budget on one encoder.

    Attributes:
        variant: The trigger.
        budget: Size of the budget, in words (``16% of the side``, ``8/255``).
        steps: Steps of its last round.
        effect: What it does to held-out images.
        draws: Resampled collapses, see :func:`platodef_cli.search.resampling.collapse_draws`, with the
            randomness of the search, see :class:`platodef_cli.search.restarts.SearchError`.
        held_out: Number of held-out images.
    """

    variant: SearchedTrigger
    budget: str
    steps: int
    effect: "Effect"
    draws: tuple[float, ...] = ()
    held_out: int = 0
