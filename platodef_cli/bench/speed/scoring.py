"""Contests of the default score: against the module as it is written down, and against one matrix product."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from platodef_cli.bench.speed.contest import Contest
from platodef_cli.bench.speed.features import random_tuples
from platodef_cli.defences import DEFAULT_DETECTOR, make_detector
from platodef_cli.encoders.precision import has_bfloat16
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.config import FitConfig
from platodef_cli.heads.energy import WIDEN
from platodef_cli.heads.evaluate import auroc
from platodef_cli.heads.fit import fit_heads
from platodef_cli.heads.heads import Heads

_NAMES = ("one", "two")
_CALLS = 512  # rows that small batches add up to, so that a run is long enough to be measured


class _Size(NamedTuple):
    dim: int
    rows: int  # that the heads are fitted on
    lifted: int  # random features of a reference


_SIZES = {
    "small": _Size(16, 100, 8),
    "usual": _Size(768, 2000, FitConfig().lift_features),
    "real": _Size(768, 4000, FitConfig().lift_features),
}


def few(size: str) -> Contest:
    """P4: the default score of 64 tuples."""
    return _scoring(size, 64)


def many(size: str) -> Contest:
    """P4: the default score of 4096 tuples."""
    return _scoring(size, 4096)


def few_product(size: str) -> Contest:
    """P4: the same beside one matrix product of as many multiplications."""
    return _product(size, 64)


def many_product(size: str) -> Contest:
    """P4: the same beside one matrix product of as many multiplications."""
    return _product(size, 4096)


@lru_cache(maxsize=1)
def _fitted(size: str) -> tuple[Heads, FeatureTuples, FeatureTuples]:
    """Return heads, and tuples to score: matched ones, and the same with the sources of other images."""
    chosen = _SIZES[size]
    tuples = random_tuples(chosen.rows + 4096, [chosen.dim] * 3, _NAMES)
    order = torch.arange(len(tuples))
    heads = fit_heads(tuples.select(order[: chosen.rows]), FitConfig(lift_features=chosen.lifted))
    matched = tuples.select(order[chosen.rows :])
    return heads, matched, matched.with_source(matched.source.roll(1, dims=0))


def _scoring(size: str, batch: int) -> Contest:
    heads, matched, mismatched = _fitted(size)
    detector = make_detector(DEFAULT_DETECTOR, heads, None)
    rows = matched.select(torch.arange(batch))
    calls = max(1, _CALLS // batch)
    # what emulates bfloat16 is no peer
    fast = has_bfloat16("cpu")
    wrong = mismatched.select(torch.arange(batch))

    def ours(tuples: FeatureTuples = rows) -> Tensor:
        return [detector.score(tuples) for _ in range(calls)][0]

    def theirs(tuples: FeatureTuples = rows) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            return [_plain(heads, tuples) for _ in range(calls)][0]

    def quality(first: Tensor, second: Tensor) -> str:
        own, other = auroc(first, ours(wrong)), auroc(second, theirs(wrong))
        same = float(torch.corrcoef(torch.stack([first, second.double()]))[0, 1])
        return f"correlation {same:.6f}; AUROC of mismatched tuples {own:.3f} against {other:.3f}"

    return Contest(
        work=f"default score, {calls} x {batch} tuples of {_SIZES[size].dim}-d features, two references",
        peer="the module, step by step" + (", under bfloat16 autocast" if fast else ", float32"),
        goal=2,
        ours=ours,
        theirs=theirs,
        quality=quality,
        note="What is left is products; the plain module has 1.7 times as many multiplications.",
    )


def _product(size: str, batch: int) -> Contest:
    heads, matched, _ = _fitted(size)
    detector = make_detector(DEFAULT_DETECTOR, heads, None)
    rows = matched.select(torch.arange(batch))
    calls = max(1, _CALLS // batch)
    dim, lifted = matched.source.shape[1], heads.config.lift_features
    # lifts; source to three subsets and the marginal; both references once whole and once each alone
    products = 2 * dim * lifted + 4 * dim * dim + 4 * (dim + lifted) * dim
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(batch, dim, generator=generator)
    right = torch.randn(dim, products // dim, generator=generator)

    def theirs() -> None:
        for _ in range(calls):
            left @ right

    return Contest(
        work=f"default score, {calls} x {batch} tuples of {dim}-d features, two references",
        peer=f"one matrix product, {batch} x {dim} by {dim} x {products // dim}: as many multiplications",
        goal=1 / 1.5,
        ours=lambda: [detector.score(rows) for _ in range(calls)][0],
        theirs=theirs,
        quality=lambda ours, theirs: "a share, at most about 1",
        note="Beside the products: centring, ReLU, and the lengths of three rows for every tuple.",
    )


def _plain(heads: Heads, tuples: FeatureTuples) -> Tensor:
    """Return the default score as it is defined: every subset by itself, step by step."""
    parts = {"gaussian": [(True, True)], "robust": [(False, True), (True, False)]}
    scores = []
    for member, masks in parts.items():
        least = torch.stack([_density_ratio(heads, tuples, mask) for mask in masks]).amin(dim=0)
        clean = heads.clean_scores[member]
        middle = clean.median()
        scores.append((least.double() - middle) / (clean - middle).abs().median().clamp_min(1e-12))
    return torch.stack(scores).mean(dim=0)


def _density_ratio(heads: Heads, tuples: FeatureTuples, mask: tuple[bool, ...]) -> Tensor:
    """Return ``ln N(s; 0, widened S) - ln p(s | r)``, in the precision that is set around it."""
    source, references = heads.standardise(tuples)
    lifted = []
    for number, values in enumerate(references):
        lift = heads.closed_form.lift_of(number)
        hidden = torch.relu(values @ lift.directions + lift.offsets)
        lifted.append((torch.cat([values, hidden], dim=1) - lift.mean) / lift.std)
    posterior, marginal = heads.closed_form.posterior(mask), heads.closed_form.marginal()
    residual = source - torch.cat(lifted, dim=1) @ posterior.weights
    own = ((residual @ posterior.vectors).square() / posterior.values).sum(dim=1)
    wide = ((source @ marginal.vectors).square() / (marginal.values * WIDEN)).sum(dim=1)
    return 0.5 * (own - wide + posterior.values.log().sum() - (marginal.values * WIDEN).log().sum())
