"""Scores of every head on feature tuples, and the held-out metrics that a fitted head carries."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from platodef_cli.errors import UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import SCORE_BLOCK, Heads
from platodef_cli.heads.mismatch import derange

DROP = "leave_one_out_drop: "  # metric of every reference, nats
ODD_NATS = 2.0  # an honest reference moves by tenths; one that sees other images by tens
MISMATCHES = 8  # source-only mismatches per held-out tuple in the reported metrics


def auroc(negative: Tensor, positive: Tensor) -> float:
    """Return the probability that a positive scores above a negative (ties count half)."""
    scores = torch.cat([negative, positive]).double()
    _, inverse, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    middle = counts.cumsum(0) - (counts - 1) / 2  # mean rank of every distinct value, from 1
    ranks = middle[inverse][len(negative) :]
    wins = float(ranks.sum()) - len(positive) * (len(positive) + 1) / 2
    return wins / (len(negative) * len(positive))


def energy_scores(heads: Heads, tuples: FeatureTuples) -> Tensor:
    """Return the energy ``[N]`` float64 of the trained network.

    Raises:
        NotApplicable: The heads have no networks.
    """
    _ = heads.networks
    return heads.energies(tuples)


def ridge_scores(heads: Heads, tuples: FeatureTuples) -> Tensor:
    """Return the squared Mahalanobis length ``[N]`` float64 of the ridge residual."""
    source, references = heads.standardise(tuples)
    return heads.ridge.mahalanobis(source, torch.cat(references, dim=1)).double()


def gaussian_scores(
    heads: Heads, tuples: FeatureTuples, *, references: Sequence[str] | None = None
) -> Tensor:
    """Return ``ln N(s; 0, widened S) - ln p(s | r)`` ``[N]`` float64 of the closed form, nats.

    Args:
        heads: Fitted heads.
        tuples: Features to score.
        references: Names of the references to use; None uses all.
    """
    return heads.closed_energies(tuples, references=references)


def gaussian_mean(
    heads: Heads, tuples: FeatureTuples, *, references: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the standardised source and its closed-form conditional mean, ``[N, D_s]`` each."""
    return heads.closed_mean(tuples, references=references)


def leave_one_out_scores(heads: Heads, tuples: FeatureTuples) -> dict[str, Tensor]:
    """Return reference name -> closed-form scores ``[N]`` without that reference.

    Raises:
        UsageError: There is only one reference.
    """
    names = heads.reference_names
    if len(names) < 2:
        raise UsageError("leaving a reference out needs at least two references")
    scores = heads.closed_energies_of(tuples, _all_but_one(names))
    return dict(zip(names, scores.T, strict=True))


def _all_but_one(names: Sequence[str]) -> list[list[str]]:
    return [[other for other in names if other != name] for name in names]


def closed_scores(heads: Heads, tuples: FeatureTuples) -> dict[str, Tensor]:
    """Return :func:`gaussian_scores` and :func:`robust_scores`, which share most of their work."""
    names = heads.reference_names
    subsets = [None, *(_all_but_one(names) if len(names) > 1 else [None])]
    scores = heads.closed_energies_of(tuples, subsets)
    return {"gaussian": scores[:, 0], "robust": scores[:, 1:].amin(dim=1)}


def robust_scores(heads: Heads, tuples: FeatureTuples) -> Tensor:
    """Return the least of the leave-one-out scores ``[N]`` float64, which one lying reference cannot raise.

    With a single reference there is nothing to leave out, and it is the closed-form score.
    """
    return closed_scores(heads, tuples)["robust"]


def leave_one_out_drops(heads: Heads, tuples: FeatureTuples) -> dict[str, float]:
    """Return, for every reference, the median drop of the closed-form score when it is left out, nats.

    Raises:
        UsageError: There is only one reference, or no row.
    """
    if not len(tuples):
        raise UsageError("there are no rows to compare the references on")
    everything = gaussian_scores(heads, tuples)
    without = leave_one_out_scores(heads, tuples)
    return {name: float((everything - scores).median()) for name, scores in without.items()}


def blame_references(
    heads: Heads, tuples: FeatureTuples, clean: FeatureTuples | None = None
) -> dict[str, float]:
    """Return, for every reference, by how many nats it disagrees with the rest more than on clean tuples.

    A reference's disagreement is the median drop of the score when it is left out. Good references stay
    near or below 0; a corrupted one stands out, because only leaving *it* out helps. Where the suspect is
    the odd one, leaving any reference out helps.

    Args:
        heads: Fitted heads with at least two references.
        tuples: Tuples under suspicion.
        clean: Clean tuples, as a baseline; None takes what the heads measured on held-out tuples.

    Raises:
        UsageError: There is only one reference, no row, or no baseline.
    """
    shifts = leave_one_out_drops(heads, tuples)
    if clean is None:
        baseline = {name: heads.metrics.get(DROP + name) for name in shifts}
        if None in baseline.values():
            raise UsageError("these heads carry no clean baseline of the references; give clean tuples")
        usual = {name: value or 0.0 for name, value in baseline.items()}
    else:
        usual = leave_one_out_drops(heads, clean)
    return {name: shifts[name] - usual[name] for name in shifts}


def odd_reference(blame: Mapping[str, float]) -> str | None:
    """Return the one reference that disagrees with all others and with the suspect, or None.

    Args:
        blame: What :func:`blame_references` returns.
    """
    worst = max(blame, key=lambda name: blame[name])
    others = [value for name, value in blame.items() if name != worst]
    return worst if blame[worst] >= ODD_NATS and max(others) < 0 else None


def denoiser_scores(heads: Heads, tuples: FeatureTuples) -> Tensor:
    """Return the squared Mahalanobis length ``[N]`` float64 of the source around its one-shot mean.

    The mean is ``D(0; sigma_max, r)``: at the largest noise level the input carries nothing, so the
    denoiser returns the conditional mean; the metric is the closed form's residual covariance.
    """
    source, _ = heads.standardise(tuples)
    residual = (source - one_shot_mean(heads, tuples)).to(heads.device)
    return heads.closed_form.posterior().mahalanobis(residual).double().cpu()


@torch.no_grad()
def one_shot_mean(heads: Heads, tuples: FeatureTuples) -> Tensor:
    """Return the denoiser's conditional mean ``[N, D_s]``, standardised, on the CPU.

    Raises:
        NotApplicable: The heads have no networks.
    """
    source, references = heads.standardise(tuples)
    _, denoiser = heads.networks
    means = []
    for start in range(0, len(source), SCORE_BLOCK):
        part = slice(start, start + SCORE_BLOCK)
        condition = denoiser.condition([row[part].to(heads.device) for row in references])
        blank = torch.zeros_like(source[part]).to(heads.device)
        sigma = torch.tensor(heads.config.sigma_max, device=heads.device)
        means.append(denoiser(blank, sigma, condition).cpu())
    return torch.cat(means) if means else torch.zeros_like(source)


COMPONENTS: dict[str, Callable[[Heads, FeatureTuples], Tensor]] = {
    "energy": energy_scores,
    "ridge": ridge_scores,
    "gaussian": gaussian_scores,
    "denoiser": denoiser_scores,
    "robust": robust_scores,
}

NETWORKED = ("energy", "denoiser")
"""Components that heads without networks do not have."""


def component_scores(heads: Heads, tuples: FeatureTuples) -> dict[str, Tensor]:
    """Return the scores ``[N]`` float64 of every component that these heads have."""
    skipped = NETWORKED if heads.energy is None else ()
    return scores_of(heads, tuples, [name for name in COMPONENTS if name not in skipped])


def scores_of(heads: Heads, tuples: FeatureTuples, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the scores ``[N]`` float64 of some components; what they share is computed once."""
    shared = closed_scores(heads, tuples) if {"gaussian", "robust"} <= set(names) else {}
    return {name: shared[name] if name in shared else COMPONENTS[name](heads, tuples) for name in names}


def held_out_metrics(
    heads: Heads, tuples: FeatureTuples, advance: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Return the metrics of held-out clean ``tuples`` against source-only mismatches of the same images.

    Keys: ``matched_auroc``, ``ridge_auroc``, ``gaussian_auroc`` (matched against mismatched),
    ``energy_gap`` (nats), ``mi_lower_bound`` (nats, from the NCE loss), ``nce_loss``,
    ``gaussian_mutual_information`` (nats, linear closed form), ``mean_r2``, ``gaussian_r2`` and
    ``ridge_r2`` (explained variance of the conditional means), and per reference the median drop of the
    closed-form score when it is left out (nats, with several references only). Of heads without networks
    the closed form is the energy, and its conditional mean is the mean.

    Args:
        heads: Fitted heads.
        tuples: Clean tuples that they were not fitted on.
        advance: Called after each of the ``MISMATCHES + 1`` passes over the tuples, or fewer of few tuples.
    """
    generator = torch.Generator().manual_seed(heads.seed)
    every = torch.arange(len(tuples))
    other = derange(every, min(MISMATCHES, len(every) - 1), generator)
    matched = component_scores(heads, tuples)
    advance()
    mismatched = []
    for column in other.T:
        mismatched.append(component_scores(heads, tuples.with_source(tuples.source[column])))
        advance()
    joined = {name: torch.stack([part[name] for part in mismatched], dim=1) for name in matched}
    source, references = heads.standardise(tuples)
    total = source.square().mean()
    ridge_error = (source - heads.ridge.posterior().mean(torch.cat(references, dim=1))).square().mean()
    standard, lifted_mean = gaussian_mean(heads, tuples)
    mean = lifted_mean.cpu() if heads.denoiser is None else one_shot_mean(heads, tuples)
    mean_error = (source - mean).square().mean()
    own = "gaussian" if heads.energy is None else "energy"
    loss = contrastive_loss(-matched[own], -joined[own])
    several = len(heads.reference_names) > 1
    drops = leave_one_out_drops(heads, tuples) if several else {}
    return {
        **{DROP + name: value for name, value in drops.items()},
        "matched_auroc": auroc(matched[own], joined[own].flatten()),
        "ridge_auroc": auroc(matched["ridge"], joined["ridge"].flatten()),
        "gaussian_auroc": auroc(matched["gaussian"], joined["gaussian"].flatten()),
        "energy_gap": float(joined[own].mean() - matched[own].mean()),
        "mi_lower_bound": math.log(joined[own].shape[1] + 1) - loss,
        "gaussian_mutual_information": heads.ridge.mutual_information(),
        "mean_r2": 1.0 - float(mean_error / total),
        "gaussian_r2": 1.0 - float((standard - lifted_mean).square().mean() / total),
        "ridge_r2": 1.0 - float(ridge_error / total),
    }


def contrastive_loss(positive: Tensor, negative: Tensor) -> float:
    """Return the mean K-way softmax cross-entropy of logits ``[B]`` against ``[B, K]``.

    It is never above the sigmoid NCE loss of the same logits, and ``ln(K + 1)`` minus it is a lower
    bound of the mutual information for independently drawn negatives (Oord et al. 2018).
    """
    every = torch.cat([positive.unsqueeze(1), negative], dim=1).double()
    return float((every.logsumexp(dim=1) - positive.double()).mean())
