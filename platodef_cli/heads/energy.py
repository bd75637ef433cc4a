"""The energy head: sigmoid noise-contrastive estimation of the platonic energy (paper, Eq. 12 and 13)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from platodef_cli.heads.backbone import SPACE_STD, Backbone, BackboneConfig, ReferenceTokens, projection
from platodef_cli.heads.closed_form import ClosedForm, pick, spread

WIDEN = 1.25  # variance factor of the marginal in the Gaussian term, see ClosedForm.ratio
TEMPERATURE = 10.0  # exp(t0), as in SigLIP; the paper does not state it


class OwnRow(NamedTuple):
    """What makes the Gaussian term honest for rows that the ridge was fitted on.

    Attributes:
        source: ``[B, D_s]`` the standardised source that belongs to the references' image.
        leverage: ``[B]`` ridge leverage of that image; 0 for rows that were not fitted on.
    """

    source: Tensor
    leverage: Tensor

    def leave_out(self, mean: Tensor, rows: Tensor | None) -> Tensor:
        """Return the leave-one-out prediction for the in-sample prediction ``mean`` of the given rows."""
        leverage = pick(rows, self.leverage).unsqueeze(1)
        return (mean - leverage * pick(rows, self.source)) / (1.0 - leverage)


class EnergyHead(nn.Module):
    """Logit ``exp(t) mean_m cos(h_s, h_rm) + b``; the energy is its negative.

    With a closed form the logit gets the joint-Gaussian log density ratio ``g`` as an additive term
    with a learnable scale, ``+ a g``, and the source token also sees the whitened ridge residual, so
    the network only has to learn what a Gaussian does not explain. Without it the head is the paper's.

    Args:
        source_dim: Length ``D_s``.
        reference_dims: Lengths ``D_m``.
        config: The backbone.
        negatives: K; the bias starts at ``-ln K`` so that the initial odds match the noise ratio.
        closed_form: The Gaussian start, or None for the paper's head.
    """

    def __init__(
        self,
        source_dim: int,
        reference_dims: Sequence[int],
        config: BackboneConfig,
        *,
        negatives: int,
        closed_form: ClosedForm | None = None,
    ):
        super().__init__()
        self.closed_form = closed_form
        inputs = source_dim if closed_form is None else 2 * source_dim
        self.source_projection = projection(inputs, config.width, normalise=True)
        self.source_space = nn.Parameter(torch.randn(config.width) * SPACE_STD)
        self.references = ReferenceTokens(reference_dims, config.width)
        self.backbone = Backbone(config, len(reference_dims))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))
        self.bias = nn.Parameter(torch.tensor(-math.log(negatives)))
        if closed_form is not None:
            self.log_gaussian_scale = nn.Parameter(torch.tensor(0.0))

    def logit(
        self,
        source: Tensor,
        references: Sequence[Tensor],
        keep: Tensor | None = None,
        own: OwnRow | None = None,
    ) -> Tensor:
        """Return the matched-against-mismatched logit ``[B]``.

        Args:
            source: Standardised sources ``[B, D_s]``.
            references: Standardised references ``[B, D_m]`` each.
            keep: ``[B, M]`` of 0 and 1: which references count; None keeps all.
            own: Leave-one-out data for rows that the ridge was fitted on (training only).
        """
        gaussian: Tensor | float = 0.0
        inputs = source
        if self.closed_form is not None:
            whitened, ratio = self._gaussian(source, references, keep, own)
            inputs = torch.cat([source, whitened], dim=1)
            gaussian = self.log_gaussian_scale.exp() * ratio
        token = self.source_projection(inputs) + self.source_space
        memory = self.backbone.remember(self.references(references, keep))
        mixed = self.backbone(token, memory)
        cosines = F.cosine_similarity(mixed[:, :1], mixed[:, 1:], dim=-1)  # [B, M]
        if keep is None:
            agreement = cosines.mean(dim=1)
        else:
            agreement = (cosines * keep).sum(dim=1) / keep.sum(dim=1).clamp_min(1)
        return self.log_temperature.exp() * agreement + self.bias + gaussian

    def energy(self, source: Tensor, references: Sequence[Tensor], keep: Tensor | None = None) -> Tensor:
        """Return the platonic energy ``[B]``, the negative logit; higher is more suspicious."""
        return -self.logit(source, references, keep)

    def _gaussian(
        self, source: Tensor, references: Sequence[Tensor], keep: Tensor | None, own: OwnRow | None
    ) -> tuple[Tensor, Tensor]:
        """Return the whitened residual ``[B, D_s]`` and the Gaussian log density ratio ``[B]``."""
        assert self.closed_form is not None
        lifted = self.closed_form.lift(references)
        groups = self.closed_form.groups(len(source), keep)
        whitened, ratios = [], []
        for rows, posterior in groups:
            values = pick(rows, source)
            mean = posterior.mean(pick(rows, lifted))
            if own is not None:
                mean = own.leave_out(mean, rows)
            residual = values - mean
            # symmetric (ZCA) whitening keeps one coordinate system across the subsets
            whitened.append(posterior.shaped(residual, posterior.values.rsqrt()))
            ratios.append(self.closed_form.ratio(values, residual, posterior, WIDEN))
        return spread(groups, whitened), spread(groups, ratios)


def nce_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Return Eq. 13 averaged over the batch.

    Args:
        positive: Logits of matched tuples ``[B]``.
        negative: Logits of mismatched tuples ``[B, K]``.
    """
    return F.softplus(-positive).mean() + F.softplus(negative).sum(dim=1).mean()
