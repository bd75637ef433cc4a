"""What every encoder of an audit has to compute, less what the cache holds already."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.inputs import Inputs, Split
from platodef_cli.audit.steps.controls import control_images
from platodef_cli.audit.steps.prepare import requests_of
from platodef_cli.audit.steps.search import chosen, rows_of, settings_of
from platodef_cli.audit.steps.search_store import REFERENCE_SEED, SearchStore
from platodef_cli.audit.verdict.rules import compares_with_references
from platodef_cli.encoders.interface import Encoder
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import CLEAN
from platodef_cli.features.peek import uncached
from platodef_cli.search.interface import SearchConfig


@dataclass(frozen=True)
class SearchWork:
    """Images that go through one encoder in its searches.

    Attributes:
        searches: How many searches.
        passes: Images without gradients.
        gradients: Images with gradients.
    """

    searches: int = 0
    passes: int = 0
    gradients: int = 0


@dataclass(frozen=True)
class Work:
    """Images that go through one encoder.

    Attributes:
        name: Of the encoder.
        role: Of the encoder.
        clean: Clean images whose features are not in the cache.
        battery: Changed images whose features are not in the cache.
        cached: Images whose features are.
        search: Searches that are not in the cache.
        cached_searches: Searches that are.
        found: Images that the found triggers change, in the end.
        only_if_needed: Its searches wait for the suspect to give cause.
        controls: Images with gradients of its positive controls, at most.
    """

    name: str
    role: Literal["suspect", "reference", "base"]
    clean: int
    battery: int
    cached: int
    search: SearchWork
    cached_searches: int
    found: int
    only_if_needed: bool = False
    controls: int = 0

    @property
    def passes(self) -> int:
        """Forward passes that will be computed in any case."""
        searched = 0 if self.only_if_needed else self.search.passes
        return self.clean + self.battery + self.found + searched

    @property
    def gradients(self) -> int:
        """Images with gradients that will be computed in any case."""
        return 0 if self.only_if_needed else self.search.gradients


def work_of(
    config: AuditConfig, inputs: Inputs, parts: Split, cache: FeatureCache | None
) -> tuple[Work, ...]:
    """Return the work of the suspect, then that of every reference, then a base's; nothing is computed.

    Args:
        config: The audit.
        inputs: Its encoders and images.
        parts: Roles of the images.
        cache: Of features and searches, or None.
    """
    requests = requests_of(config, parts)
    missing = uncached(inputs.images, inputs.planned, requests, cache, config.batch_size)
    wanted = sum(len(request.indices or ()) for request in requests)
    settings = settings_of(config)
    rows = rows_of(inputs, parts, config, settings)
    store = SearchStore(cache, config, settings, inputs.images, rows)
    places = chosen(config, settings)
    kinds = {settings.searches()[place][0].name for place in places}
    found = len(kinds) * min(len(parts.test), config.probe_images)
    always = config.search_controls == "all" or compares_with_references(config.limits)
    always = always or config.positive_controls
    planted = control_images(config, settings) if config.positive_controls else 0
    works = []
    for name, encoder in inputs.planned.items():
        suspect, base = encoder is inputs.suspect, encoder is inputs.base
        seed = config.seed if suspect else REFERENCE_SEED
        # nothing is searched for on a base
        asked = [] if base else places
        left = [place for place in asked if store.read(encoder, place, seed) is None]
        lacking = missing[name]
        works.append(
            Work(
                name=name,
                role="suspect" if suspect else "base" if base else "reference",
                clean=lacking[CLEAN],
                battery=sum(lacking.values()) - lacking[CLEAN],
                cached=wanted - sum(lacking.values()),
                search=_search_work(settings, left, len(rows[seed]), encoder),
                cached_searches=len(asked) - len(left),
                found=found,
                only_if_needed=not (suspect or base or always),
                controls=0 if suspect or base else planted // max(1, len(inputs.references)),
            )
        )
    return tuple(works)


def _search_work(settings: SearchConfig, places: Sequence[int], images: int, encoder: Encoder) -> SearchWork:
    """Count what :class:`platodef_cli.search.run.EncoderSearch` does."""
    if not places:
        return SearchWork()
    held = min(settings.held_out, images // 2)
    pool = min(settings.pool, images - held)
    passes, gradients = held + pool, 0
    for place in places:
        kind = settings.searches()[place][0]
        passes += held + (kind.restarts * pool if kind.restarts > 1 else 0)
        gradients += kind.restarts * kind.cost()
    return SearchWork(len(places), passes, gradients)
