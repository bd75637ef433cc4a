"""Table defences: detectors, purifiers and encoder-level detectors on every planted encoder, with costs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from platodef_cli.bench.benchmark_run import BenchmarkRun, BenchmarkTable
from platodef_cli.bench.defending import NONE, inapplicable, published_key
from platodef_cli.bench.encoder_level import EncoderCell, examined
from platodef_cli.bench.evaluation import Costs, Defended, Method
from platodef_cli.bench.results import ResultColumn, ResultRow, ResultTable, Unit, Value
from platodef_cli.bench.statistics import of_metric
from platodef_cli.bench.zoo.card import ZooCard
from platodef_cli.defences import DETECTORS, ENCODER_DETECTORS, PURIFIERS
from platodef_cli.defences.interface import MODES, Mode

_ONE_THREAD: Mapping[str, object] = {"threads": 1}  # part of the keys: costs of more threads are others
_RATES = ("CA", "PA", "ASR")
_PARENT = "ASR of the clean parent"
_CAPTION = (
    "Costs are processor seconds on one core and the largest addition to resident memory (0: nothing beyond "
    "what features and images take already), the worst of all encoders; heads are shared and not counted."
)

_Examined = dict[tuple[str, Mode], dict[str, EncoderCell]]  # detector and mode -> encoder -> result


def fill(run: BenchmarkRun) -> BenchmarkTable:
    """Measure every defence on every planted encoder, on one thread."""
    cards = run.planted()
    with _one_thread():
        cells = _defended(run, cards)
        examined_cards = [*cards, *_parents(run, cards)]
        statistics = _examined(run, examined_cards)
    detectors = [name for name in DETECTORS.names() if name not in run.config.skip]
    purifiers = [name for name in PURIFIERS.names() if name not in run.config.skip]
    grids = [_undefended(cards, cells)]
    if detectors:
        grids.append(_detectors(detectors, cells))
    if purifiers:
        grids.append(_purifiers(purifiers, cells))
    if statistics:
        grids.append(_encoder_level(examined_cards, statistics))
    return BenchmarkTable(
        title="Defences: every method on every planted encoder",
        grids=tuple(grids),
        plots=tuple(cell.plot for cell in cells.values()),
        configuration=run.roles(),
        notes=(*inapplicable(list(cells.values())), *_inapplicable(statistics)),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processor seconds be those of one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _defended(run: BenchmarkRun, cards: Sequence[ZooCard]) -> dict[str, Defended]:
    """Return encoder -> every method on it."""
    seed, cells = run.config.seeds[0], {}
    with run.progress.step("planted encoders", len(cards)) as task:
        for card in cards:
            cells[card.name] = run.defended(
                card,
                seed,
                lambda card=card: run.evaluation(card, seed),  # type: ignore[misc]
                name=f"defences-{card.name}-{seed}",
                title=f"{card.name} on {card.parent}",
                published=run.config.published,
                more=_ONE_THREAD,
            )
            task.advance(note=card.name)
    return cells


def _parents(run: BenchmarkRun, cards: Sequence[ZooCard]) -> list[ZooCard]:
    """Return the clean encoders that the backdoors were planted in: their statistics are the comparison."""
    finished = run.feature_store.zoo.cards
    return [finished[name] for name in dict.fromkeys(card.parent or "" for card in cards) if name in finished]


def _examined(run: BenchmarkRun, cards: Sequence[ZooCard]) -> _Examined:
    """Return the statistics of the encoder-level detectors."""
    modes = MODES if run.config.published else MODES[:1]
    plan = [
        (name, mode) for name in ENCODER_DETECTORS.names() if name not in run.config.skip for mode in modes
    ]
    results: _Examined = {}
    with run.progress.step("encoder-level detectors", len(plan) * len(cards)) as task:
        for name, mode in plan:
            for card in cards:
                cell = examined(run, name, card, mode=mode, more=_ONE_THREAD)
                results.setdefault((name, mode), {})[card.name] = cell
                task.advance(note=f"{name} ({mode}), {card.name}")
    return results


def _undefended(cards: Sequence[ZooCard], cells: Mapping[str, Defended]) -> ResultTable:
    """Return one row per planted encoder without defence."""
    rows = []
    for card in cards:
        assert card.backdoor is not None
        rows.append(
            ResultRow(
                label=card.name,
                values={
                    "architecture": Value(value=None, note=card.family),
                    "trigger": Value(value=None, note=card.backdoor.trigger),
                    **cells[card.name].methods[NONE].numbers,
                    _PARENT: of_metric(card.backdoor.success_of_parent),
                },
            )
        )
    columns = (
        ResultColumn(key="architecture", group="encoder", label="architecture", unit="text"),
        ResultColumn(key="trigger", group="encoder", label="trigger", unit="text"),
        *(ResultColumn(key=name, group="no defence", label=name) for name in (*_RATES, _PARENT)),
    )
    caption = (
        "CA: accuracy on clean images; PA: on images with the trigger; ASR: triggered images of other "
        "classes that land on the target. The classifier is a linear probe, for image-text attacks the class "
        "prompts."
    )
    return ResultTable(
        id="undefended", title="Without defence", caption=caption, columns=columns, rows=tuple(rows)
    )


def _detectors(names: Sequence[str], cells: Mapping[str, Defended]) -> ResultTable:
    """Return one row per detector and mode, one column per encoder."""
    rows = []
    for name in names:
        for label, key in ((name, f"detector {name}"), (f"{name}, published", published_key(name))):
            methods = {encoder: cell.methods[key] for encoder, cell in cells.items() if key in cell.methods}
            if methods:
                values = {encoder: _number(method, "AUC") for encoder, method in methods.items()}
                rows.append(ResultRow(label=label, values={**values, **_worst(methods.values())}))
    columns = [ResultColumn(key=name, group=name, label=name, unit="plain") for name in cells]
    return ResultTable(
        id="detectors",
        title="Detectors: AUROC, clean against triggered images of other classes",
        caption=f"{_CAPTION} Published modes score clean and triggered images in one batch, mixed.",
        columns=(*columns, *_cost_columns("s per 1000")),
        rows=tuple(rows),
    )


def _purifiers(names: Sequence[str], cells: Mapping[str, Defended]) -> ResultTable:
    """Return one row per purifier, three columns per encoder."""
    rows = []
    for name in names:
        methods = {encoder: cell.methods[f"purifier {name}"] for encoder, cell in cells.items()}
        values = {
            f"{encoder}:{rate}": _number(method, rate)
            for encoder, method in methods.items()
            for rate in _RATES
        }
        rows.append(ResultRow(label=name, values={**values, **_worst(methods.values())}))
    columns = [
        ResultColumn(key=f"{name}:{rate}", group=name, label=rate) for name in cells for rate in _RATES
    ]
    return ResultTable(
        id="purifiers",
        title="Purifiers: CA, PA and ASR, everything purified",
        caption=_CAPTION,
        columns=(*columns, *_cost_columns("s per 1000")),
        rows=tuple(rows),
    )


def _encoder_level(cards: Sequence[ZooCard], statistics: _Examined) -> ResultTable:
    """Return one row per encoder-level detector and mode, one column per encoder."""
    rows = []
    for (name, mode), cells in statistics.items():
        values = {
            encoder: Value(value=cell.value, n=int(cell.value is not None), note=cell.note)
            for encoder, cell in cells.items()
        }
        label = name if mode == "default" else f"{name}, {mode}"
        rows.append(ResultRow(label=label, values={**values, **_worst(cells.values())}))
    columns = []
    for card in cards:
        title = f"{card.name} (planted)" if card.truth == "backdoored" else f"{card.name} (clean)"
        columns.append(ResultColumn(key=card.name, group=title, label=title, unit="plain"))
    return ResultTable(
        id="encoder-level",
        title="Encoder level: statistic, higher is more suspicious",
        caption=_CAPTION,
        columns=(*columns, *(one for one in _cost_columns("s per encoder") if one.key != "fit_seconds")),
        rows=tuple(rows),
    )


def _number(method: Method, measure: str) -> Value:
    return method.numbers.get(measure) or Value(value=None, n=0, note=method.note)


_COSTS: Mapping[str, Unit] = {"fit_seconds": "plain", "seconds": "plain", "memory_mb": "count"}


def _cost_columns(seconds: str) -> Iterator[ResultColumn]:
    """Yield the columns of the costs; ``seconds`` names those of the work itself."""
    labels = {"fit_seconds": "fit s", "seconds": seconds, "memory_mb": "MB"}
    for key, unit in _COSTS.items():
        yield ResultColumn(key=key, group="cost", label=labels[key], unit=unit)


def _worst(methods: Iterable[Method | EncoderCell]) -> dict[str, Value]:
    """Return the largest costs; none where the method applies to no encoder."""
    costs: list[Costs] = [method.costs for method in methods if method.costs is not None]
    return {key: Value(value=max(getattr(cost, key) for cost in costs)) for key in _COSTS if costs}


def _inapplicable(statistics: _Examined) -> list[str]:
    """Return why encoder-level detectors have no number, one line per encoder."""
    return [
        f"not applicable: encoder detector {name} ({mode}) on {encoder}: {cell.note}"
        for (name, mode), cells in statistics.items()
        for encoder, cell in cells.items()
        if cell.note
    ]
