"""What the training loop minimises: the NCE loss of the energy head and the DSM loss of the denoiser."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from platodef_cli.heads.closed_form import prepared_subsets
from platodef_cli.heads.denoiser import Denoiser, denoising_loss, log_uniform
from platodef_cli.heads.energy import EnergyHead, OwnRow, nce_loss
from platodef_cli.heads.mismatch import KINDS, Mismatches, MismatchSampler

COLLAPSE_SHARE = (0.5, 1.0)  # how far a synthetic attacked source moves towards its centre
EVALUATION_SEED = 20_240_229  # the held-out draw is the same for every head and run
EVALUATION_BLOCK = 4096


@dataclass
class Rows:
    """Standardised tuples in memory, on the training device.

    Attributes:
        source: ``[N, D_s]``.
        references: ``[N, D_m]`` each.
        leverage: Subset of the references -> ``[N]`` ridge leverage; empty for rows not fitted on.
        centres: ``[N, D_s]`` mean source of a row and its nearest rows, or None.
    """

    source: Tensor
    references: list[Tensor]
    leverage: Mapping[tuple[bool, ...], Tensor]
    centres: Tensor | None = None

    def __len__(self) -> int:
        return len(self.source)

    def own(self, rows: Tensor, keep: Tensor | None) -> OwnRow | None:
        """Return the leave-one-out data of ``rows`` ``[B]`` under ``keep`` ``[B, M]`` (None keeps all)."""
        if not self.leverage:
            return None
        full = (True,) * len(self.references)
        leverage = self.leverage[full][rows]
        if keep is not None:
            masks, which = torch.unique(keep.bool(), dim=0, return_inverse=True)
            for number, mask in enumerate(masks):
                chosen = which == number
                leverage[chosen] = self.leverage[tuple(mask.tolist())][rows[chosen]]
        return OwnRow(self.source[rows], leverage)


def drop_some(batch: int, references: int, probability: float, generator: torch.Generator) -> Tensor | None:
    """Return ``[B, M]`` keep flags: with ``probability`` a row keeps a random prepared proper subset only."""
    proper = [mask for mask in prepared_subsets(references) if 0 < sum(mask) < references]
    if probability == 0 or not proper:
        return None
    chosen = torch.tensor(proper)[torch.randint(len(proper), (batch,), generator=generator)]
    return chosen | (torch.rand(batch, 1, generator=generator) >= probability)


class EnergyObjective:
    """Eq. 13 with mismatches drawn by a :class:`MismatchSampler`.

    Args:
        module: The energy head.
        rows: Training tuples.
        held_out: Held-out tuples.
        sampler: Draws the training mismatches.
        held_out_sampler: Draws the held-out mismatches (without the synthetic kinds).
        subset_drop: Probability of dropping references of a row.
    """

    def __init__(
        self,
        module: EnergyHead,
        rows: Rows,
        held_out: Rows,
        sampler: MismatchSampler,
        held_out_sampler: MismatchSampler,
        subset_drop: float,
    ):
        self.module, self.rows, self.held_out_rows = module, rows, held_out
        self.sampler, self.held_out_sampler = sampler, held_out_sampler
        self.subset_drop = subset_drop
        self.count = len(rows)

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the NCE loss of matched training ``rows`` ``[B]`` and K mismatches each."""
        mismatches = self.sampler.draw(rows, generator)
        keep = drop_some(len(rows), len(self.rows.references), self.subset_drop, generator)
        return nce_loss(*self._logits(self.rows, rows, mismatches, keep, generator))

    @torch.no_grad()
    def held_out(self) -> float:
        """Return the NCE loss of the held-out rows over a fixed draw of mismatches."""
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        total, data = 0.0, self.held_out_rows
        for rows in torch.arange(len(data)).tensor_split(max(1, len(data) // EVALUATION_BLOCK)):
            mismatches = self.held_out_sampler.draw(rows, generator)
            total += float(nce_loss(*self._logits(data, rows, mismatches, None, generator))) * len(rows)
        return total / len(data)

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs besides the weights: the queue."""
        return {"queue": self.sampler.queue}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over :meth:`state`."""
        self.sampler.queue = state["queue"].cpu()

    def _logits(
        self,
        data: Rows,
        rows: Tensor,
        mismatches: Mismatches,
        keep: Tensor | None,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of the matched ``[B]`` and the mismatched ``[B, K]`` tuples."""
        device = data.source.device
        spaces = mismatches.rows.shape[2]
        matched = rows.reshape(-1, 1, 1).expand(-1, 1, spaces)
        every = torch.cat([matched, mismatches.rows], dim=1)  # [B, 1 + K, M + 1]
        flat = every.flatten(0, 1).to(device)
        source = data.source[flat[:, 0]]
        collapsed = (mismatches.kinds == KINDS.index("collapsed")).to(device)
        if data.centres is not None and bool(collapsed.any()):
            low, high = COLLAPSE_SHARE
            share = torch.rand(collapsed.shape, generator=generator).to(device) * (high - low) + low
            own = data.source[rows.to(device)].unsqueeze(1)
            moved = own + share.unsqueeze(2) * (data.centres[every[:, 1:, 0].to(device)] - own)
            grid = source.reshape(*every.shape[:2], -1).clone()
            grid[:, 1:][collapsed] = moved[collapsed]
            source = grid.flatten(0, 1)
        references = [values[flat[:, 1 + m]] for m, values in enumerate(data.references)]
        repeated = None
        if keep is not None:
            repeated = keep.to(device).unsqueeze(1).expand(-1, every.shape[1], -1).flatten(0, 1)
        own_row = data.own(flat[:, 1], repeated)
        if own_row is not None:
            # only references of one and the same image have a leave-one-out prediction
            same = (flat[:, 1:] == flat[:, 1:2]).all(dim=1)
            own_row = OwnRow(own_row.source, own_row.leverage * same)
        logits = self.module.logit(source, references, repeated, own_row).reshape(every.shape[:2])
        return logits[:, 0], logits[:, 1:]


class DenoiserObjective:
    """Eq. 14 with log-uniform noise and dropped references.

    Args:
        module: The denoiser head.
        rows: Training tuples.
        held_out: Held-out tuples.
        sigmas: Smallest and largest noise level.
        reference_drop: Probability of zeroing all references of a row.
        subset_drop: Probability of dropping some of them.
    """

    def __init__(
        self,
        module: Denoiser,
        rows: Rows,
        held_out: Rows,
        sigmas: tuple[float, float],
        reference_drop: float,
        subset_drop: float,
    ):
        self.module, self.rows, self.held_out_rows = module, rows, held_out
        self.sigmas, self.reference_drop, self.subset_drop = sigmas, reference_drop, subset_drop
        self.count = len(rows)

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the denoising loss of training ``rows`` ``[B]``."""
        references = len(self.rows.references)
        keep = drop_some(len(rows), references, self.subset_drop, generator)
        kept = torch.ones(len(rows), references, dtype=torch.bool) if keep is None else keep
        kept &= torch.rand(len(rows), 1, generator=generator) >= self.reference_drop
        return self._loss(self.rows, rows, None if bool(kept.all()) else kept, generator)

    @torch.no_grad()
    def held_out(self) -> float:
        """Return the denoising loss of the held-out rows over a fixed draw of noise."""
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        total, data = 0.0, self.held_out_rows
        for rows in torch.arange(len(data)).tensor_split(max(1, len(data) // EVALUATION_BLOCK)):
            total += float(self._loss(data, rows, None, generator)) * len(rows)
        return total / len(data)

    def state(self) -> dict[str, Tensor]:
        """Return nothing: the loss keeps no state."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over :meth:`state`."""

    def _loss(self, data: Rows, rows: Tensor, keep: Tensor | None, generator: torch.Generator) -> Tensor:
        device = data.source.device
        sigma = log_uniform(len(rows), *self.sigmas, generator).to(device)
        noise = torch.randn(len(rows), data.source.shape[1], generator=generator).to(device)
        keep = None if keep is None else keep.to(device)
        rows = rows.to(device)
        clean = data.source[rows]
        condition = self.module.condition([r[rows] for r in data.references], keep, data.own(rows, keep))
        denoised = self.module(clean + sigma.unsqueeze(1) * noise, sigma, condition)
        return denoising_loss(denoised, clean, sigma).mean()


class _Both(nn.Module):
    """Holds two heads so that shared parameters are listed once."""

    def __init__(self, energy: EnergyHead, denoiser: Denoiser):
        super().__init__()
        self.energy, self.denoiser = energy, denoiser


class JointObjective:
    """The sum of both losses over the same rows, for one shared backbone.

    Args:
        energy: The NCE objective.
        denoiser: The DSM objective.
    """

    def __init__(self, energy: EnergyObjective, denoiser: DenoiserObjective):
        self.energy, self.denoiser = energy, denoiser
        self.module = _Both(energy.module, denoiser.module)
        self.count = energy.count

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the sum of the two losses."""
        return self.energy.loss(rows, generator) + self.denoiser.loss(rows, generator)

    def held_out(self) -> float:
        """Return the sum of the two held-out losses."""
        return self.energy.held_out() + self.denoiser.held_out()

    def state(self) -> dict[str, Tensor]:
        """Return the queue of the NCE objective."""
        return self.energy.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over :meth:`state`."""
        self.energy.restore(state)
