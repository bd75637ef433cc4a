"""Fits an audit into a time: fewer images, a shorter battery and fewer searches, in that order of loss."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.duration import in_words, parse_duration
from platodef_cli.audit.inputs import Inputs, Split, split
from platodef_cli.audit.plan.plan import Measured, Plan, measure, phases_of, plan_of
from platodef_cli.audit.plan.work import Work, work_of
from platodef_cli.audit.steps.search import settings_of
from platodef_cli.audit.verdict.evidence import needed
from platodef_cli.errors import InconclusiveError
from platodef_cli.features.cache import FeatureCache
from platodef_cli.progress import Progress
from platodef_cli.search.interface import usual_kinds
from platodef_cli.triggers.battery import battery

CORE = ("patch", "universal")
"""Kinds of search without which there is no answer: a local change, and one of the whole image."""
FEWEST_PROBED = 100
"""Probe images below which the intervals of the battery decide little."""
_USED = 0.9  # of the budget: estimates err
_ENOUGH = 1000  # images that are kept while something else can be shortened


@dataclass(frozen=True)
class Sizes:
    """What a budget chooses.

    Attributes:
        sample: Images.
        probe_images: Test images under every change.
        battery: Name of the battery.
        searches: Kinds of search.
    """

    sample: int
    probe_images: int
    battery: str
    searches: tuple[str, ...]

    def of(self, config: AuditConfig) -> AuditConfig:
        """Return the audit with these sizes."""
        return replace(
            config,
            sample=self.sample,
            probe_images=self.probe_images,
            battery=self.battery,  # type: ignore[arg-type]
            searches=self.searches,
        )

    def options(self, full: "Sizes") -> dict[str, str]:
        """Return the options that give the same sizes, where they are not those of the full audit."""
        given = {
            "--sample": (str(self.sample), self.sample != full.sample),
            "--probe-images": (str(self.probe_images), self.probe_images != full.probe_images),
            "--battery": (self.battery, self.battery != full.battery),
            "--searches": (",".join(self.searches), self.searches != full.searches),
        }
        return {name: value for name, (value, differs) in given.items() if differs}


def fitted(
    config: AuditConfig,
    inputs: Inputs,
    cache: FeatureCache | None,
    threads: int,
    progress: Progress,
    spent: float,
) -> tuple[AuditConfig, Plan]:
    """Return the audit that fits into its budget, and its plan.

    What loses least is shortened first: probed images, images beyond a thousand, the battery, images, and
    then the most expensive kinds of search, except for :data:`CORE`. What turns out not to help is taken
    back. Only measured speeds make two runs differ.

    Args:
        config: With a budget.
        inputs: Encoders and images.
        cache: What it holds costs nothing.
        threads: Of all encoders together.
        progress: Receives the step.
        spent: Seconds since the audit began.

    Raises:
        InconclusiveError: Not even the smallest audit with an answer fits.
    """
    assert config.budget is not None
    room = _USED * parse_duration(config.budget) - spent
    full = _full(config, inputs)
    works = work_of(full.of(config), inputs, _parts(config, inputs, full), cache)
    parts = _parts(config, inputs, full)
    measured = measure(full.of(config), inputs, works, parts, threads, progress, everything=True)
    known: dict[Sizes, float] = {}

    def seconds(sizes: Sizes) -> float:
        if sizes not in known:
            now = _parts(config, inputs, sizes)
            given = work_of(sizes.of(config), inputs, now, cache)
            phases = phases_of(sizes.of(config), inputs, now, given, measured)
            known[sizes] = sum(phase.seconds for phase in phases if phase.certain)
        return known[sizes]

    costs = _search_costs(config, full, works, measured)
    sizes = choose(full, _fewest(config, full), room, seconds, costs)
    if sizes is None:
        least = _least(config, full)
        need = seconds(least)
        raise InconclusiveError(
            f"a budget of {config.budget} is too small for an answer: the smallest audit that gives one "
            f"({least.sample} images, {least.probe_images} of them under the {least.battery} battery, the "
            f"searches {' and '.join(least.searches)}) takes about {in_words(need + spent)}; give --budget "
            f"{_advised((need + spent) / _USED)} or more"
        )
    chosen = sizes.of(config)
    parts = _parts(config, inputs, sizes)
    plan = plan_of(
        chosen,
        inputs,
        parts,
        work_of(chosen, inputs, parts, cache),
        measured,
        left_out=tuple(_words(config, full, sizes)),
        options=sizes.options(full),
    )
    return chosen, plan


def choose(
    full: Sizes,
    fewest: int,
    room: float,
    seconds: Callable[[Sizes], float],
    costs: Mapping[str, float],
) -> Sizes | None:
    """Return the sizes with the least loss that fit, or None.

    Args:
        full: What there is without a budget.
        fewest: Images that an answer takes.
        room: Seconds.
        seconds: Estimates sizes.
        costs: Kind of search -> seconds on the suspect.
    """
    path = [full]
    for smaller in _ladder(full, fewest, costs):
        if seconds(path[-1]) <= room:
            break
        path.append(smaller)
    if seconds(path[-1]) > room:
        return None
    sizes = path[-1]
    # take back what was shortened on the way and did not help
    for name in ("battery", "sample", "probe_images"):
        larger = (replace(sizes, **{name: getattr(earlier, name)}) for earlier in path)
        sizes = next(each for each in larger if each == sizes or seconds(each) <= room)
    return sizes


def _ladder(full: Sizes, fewest: int, costs: Mapping[str, float]) -> Iterator[Sizes]:
    """Yield smaller and smaller sizes."""
    sizes = full

    def shrink(floor: int) -> Iterator[Sizes]:
        nonlocal sizes
        while sizes.sample > floor:
            sizes = replace(sizes, sample=max(floor, int(sizes.sample * 0.8) // 10 * 10))
            yield sizes

    probed = [count for count in (200, FEWEST_PROBED) if count < full.probe_images]
    for count in probed[:1]:
        sizes = replace(sizes, probe_images=count)
        yield sizes
    yield from shrink(min(full.sample, max(fewest, _ENOUGH)))
    for count in probed[1:]:
        sizes = replace(sizes, probe_images=count)
        yield sizes
    if sizes.battery != "quick":
        sizes = replace(sizes, battery="quick")
        yield sizes
    yield from shrink(min(full.sample, fewest))
    spare = sorted((name for name in full.searches if name not in CORE), key=lambda name: -costs[name])
    for name in spare:
        left = tuple(kind for kind in sizes.searches if kind != name)
        if left:
            sizes = replace(sizes, searches=left)
            yield sizes


def _full(config: AuditConfig, inputs: Inputs) -> Sizes:
    count = len(inputs.images.refs)
    kinds = settings_of(config).kinds
    asked = config.searches or usual_kinds(kinds)
    wanted = tuple(kind.name for kind in kinds if kind.name in asked)
    sample = count if config.sample is None else min(count, config.sample)
    probed = min(config.probe_images, len(split(count, config.seed, sample).test))
    return Sizes(sample, max(20, probed), config.battery, wanted)


def _fewest(config: AuditConfig, full: Sizes) -> int:
    return min(full.sample, needed(config.limits, config.false_positive_rate))


def _least(config: AuditConfig, full: Sizes) -> Sizes:
    *_, least = [full, *_ladder(full, _fewest(config, full), dict.fromkeys(full.searches, 0.0))]
    return least


def _parts(config: AuditConfig, inputs: Inputs, sizes: Sizes) -> Split:
    return split(len(inputs.images.refs), config.seed, sizes.sample)


def _search_costs(
    config: AuditConfig, full: Sizes, works: tuple[Work, ...], measured: Measured
) -> dict[str, float]:
    speed = measured.speeds[works[0].name].gradient or 0.0
    kinds = {kind.name: kind for kind in settings_of(config).kinds}
    return {
        name: speed * kinds[name].restarts * kinds[name].cost() * len(kinds[name].budgets)
        for name in full.searches
    }


def _words(config: AuditConfig, full: Sizes, sizes: Sizes) -> Iterator[str]:
    """Say what is left out, and what that costs in power."""
    if sizes.sample != full.sample:
        wider = (full.sample / sizes.sample) ** 0.5
        gone_images = full.sample - sizes.sample
        yield f"{gone_images} of {full.sample} images: intervals are {wider:.1f} times as wide"
    if sizes.probe_images != full.probe_images:
        wider = (full.probe_images / sizes.probe_images) ** 0.5
        yield (
            f"{full.probe_images - sizes.probe_images} of {full.probe_images} probe images: intervals of the "
            f"battery are {wider:.1f} times as wide"
        )
    if sizes.battery != full.battery:
        kept = {item.family for item in battery(sizes.battery)}
        gone = dict.fromkeys(i.family for i in battery(full.battery) if i.family not in kept)
        yield f"known triggers: {', '.join(gone)} (not examined)"
    gone_kinds = [name for name in full.searches if name not in sizes.searches]
    if gone_kinds:
        yield f"the searches for unknown triggers: {', '.join(gone_kinds)} (not examined)"


def _advised(seconds: float) -> str:
    """Return a time in the spelling of the option, rounded up."""
    return f"{int(seconds) + 1}s" if seconds < 100 else f"{int(seconds / 60) + 1}m"
