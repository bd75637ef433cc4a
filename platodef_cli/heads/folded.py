"""Scores of the closed form with everything linear multiplied out beforehand.

Standardising, the conditional mean and whitening are linear, so each is folded into the matrices of the next:
a score is one product of the centred source, one of the lifted references for each of their subsets, and
the lengths of the rows. The references are lifted once for all subsets, and the marginal is whitened once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from platodef_cli.heads.closed_form import ClosedForm, Mask

ROWS = 2048  # at once: what a block takes stays in the cache of the processor


class FoldedScores:
    """``ln N(s; 0, widen S) - ln p(s | r_K)`` for several subsets K of the references.

    Args:
        closed_form: The Gaussian start.
        source: Mean and standard deviation ``[D_s]`` of sources.
        references: Mean and standard deviation ``[D_m]`` of every reference.
        masks: The subsets.
        widen: Factor on the marginal covariance, see :meth:`ClosedForm.ratio`.

    Raises:
        UsageError: A subset was not prepared when the heads were fitted.
    """

    def __init__(
        self,
        closed_form: ClosedForm,
        source: tuple[Tensor, Tensor],
        references: Sequence[tuple[Tensor, Tensor]],
        masks: Sequence[Mask],
        widen: float,
    ):
        self.device = device = closed_form.device
        self._mean = source[0].to(device)
        self._lifts = []
        scales, means = [], []
        for number, (mean, std) in enumerate(references):
            lift, std = closed_form.lift_of(number), std.to(device)
            directions = (lift.directions.double() / std.double()[:, None]).float()
            self._lifts.append((mean.to(device), directions, lift.offsets))
            # of the columns [centred, relu(...)]; the centred ones are standardised twice
            scales.append(torch.cat([std, torch.ones_like(lift.offsets)]).double() * lift.std.double())
            means.append(lift.mean.double() / lift.std.double())
        scale, mean = torch.cat(scales), torch.cat(means)
        ends = torch.tensor([0, *(len(part) for part in scales)]).cumsum(0).tolist()
        marginal = closed_form.marginal()
        own = source[1].to(device).double()[:, None]
        whitener = marginal.vectors.double() / (marginal.values.double() * widen).sqrt() / own
        whiteners, biases = [whitener], [torch.zeros_like(own[:, 0])]
        determinant = (marginal.values * widen).log().sum()
        self._parts: list[list[tuple[slice, Tensor]]] = []
        determinants = []
        for mask in masks:
            posterior = closed_form.posterior(mask)
            whitener = posterior.vectors.double() / posterior.values.double().sqrt()
            folded = posterior.weights.double() @ whitener
            whiteners.append(whitener / own)
            biases.append(mean @ folded)
            weights = (folded / scale[:, None]).float()
            self._parts.append([(span, weights[span].contiguous()) for span in _spans(mask, ends)])
            determinants.append(determinant - posterior.values.log().sum())
        self._whitener = torch.cat(whiteners, dim=1).float()
        self._bias = torch.cat(biases).float()
        self._determinants = torch.stack(determinants).double()

    @torch.no_grad()
    def energies(self, source: Tensor, references: Sequence[Tensor]) -> Tensor:
        """Return nats ``[N, K]`` float64, higher is more suspicious.

        Args:
            source: Sources ``[N, D_s]`` as the encoder gives them.
            references: References ``[N, D_m]`` likewise.
        """
        parts = [torch.empty(0, len(self._parts), dtype=torch.float64, device=self.device)]
        with torch.autocast(self.device.type, enabled=False):
            for start in range(0, len(source), ROWS):
                rows = slice(start, start + ROWS)
                blocks = [values[rows].to(self.device).float() for values in (source, *references)]
                parts.append(self._block(blocks[0], blocks[1:]))
        return torch.cat(parts)

    def _block(self, source: Tensor, references: Sequence[Tensor]) -> Tensor:
        columns = []
        for values, (mean, directions, offsets) in zip(references, self._lifts, strict=True):
            centred = values - mean
            columns += [centred, torch.addmm(offsets, centred, directions).relu_()]
        lifted = torch.cat(columns, dim=1)
        white = torch.addmm(self._bias, source - self._mean, self._whitener)
        white = white.view(len(source), len(self._parts) + 1, -1)
        for number, parts in enumerate(self._parts, start=1):
            for span, weights in parts:
                white[:, number].addmm_(lifted[:, span], weights, alpha=-1)
        squares: Tensor = torch.linalg.vector_norm(white, dim=2).double().square()
        energies: Tensor = 0.5 * (squares[:, 1:] - squares[:, :1] - self._determinants)
        return energies


def _spans(mask: Mask, ends: Sequence[int]) -> list[slice]:
    """Return the columns of the kept references, neighbours as one."""
    spans: list[slice] = []
    for number, kept in enumerate(mask):
        if kept and spans and spans[-1].stop == ends[number]:
            spans[-1] = slice(spans[-1].start, ends[number + 1])
        elif kept:
            spans.append(slice(ends[number], ends[number + 1]))
    return spans
