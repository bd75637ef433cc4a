"""The ridge posteriors as a torch module, so that networks can start from them and move with them."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from platodef_cli.heads.ridge import GaussianPosterior, Ridge

Group = tuple[Tensor | None, GaussianPosterior]


class ClosedForm(nn.Module):
    """Gaussian posteriors of every subset of the references that was asked for, as buffers.

    The buffers are not saved with the module: they follow from the ridge head's moments.

    Args:
        ridge: The closed-form head.
        masks: Subsets to prepare; default is none, each single one, all but one, and all.
    """

    def __init__(self, ridge: Ridge, masks: Sequence[tuple[bool, ...]] | None = None):
        super().__init__()
        count = len(ridge.reference_dims)
        chosen = usual_subsets(count) if masks is None else masks
        self.ridge = ridge
        self._index = {mask: number for number, mask in enumerate(chosen)}
        self._penalty = [(ridge.posterior(m).penalty, ridge.posterior(m).degrees) for m in chosen]
        for mask, number in self._index.items():
            posterior = ridge.posterior(mask)
            for part in ("weights", "values", "vectors"):
                self.register_buffer(f"{part}_{number}", getattr(posterior, part), persistent=False)

    def posterior(self, mask: Sequence[bool]) -> GaussianPosterior:
        """Return the posterior for one subset, on the module's device."""
        key = tuple(bool(flag) for flag in mask)
        if key not in self._index:
            device = self.get_buffer("weights_0").device
            return self.ridge.to(device).posterior(key) if device.type == "cpu" else self._moved(key, device)
        number = self._index[key]
        weights, values, vectors = (
            self.get_buffer(f"{p}_{number}") for p in ("weights", "values", "vectors")
        )
        return GaussianPosterior(weights, values, vectors, *self._penalty[number])

    def _moved(self, key: tuple[bool, ...], device: torch.device) -> GaussianPosterior:
        self.ridge.posterior(key)
        return self.ridge.to(device).posterior(key)

    def groups(self, batch: int, keep: Tensor | None) -> list[Group]:
        """Return ``(rows, posterior)`` for every distinct subset in ``keep`` ``[B, M]`` (None keeps all)."""
        count = len(self.ridge.reference_dims)
        if keep is None:
            return [(None, self.posterior((True,) * count))]
        masks, which = torch.unique(keep.bool(), dim=0, return_inverse=True)
        if len(masks) == 1:
            return [(None, self.posterior(masks[0].tolist()))]
        return [
            ((which == number).nonzero().flatten(), self.posterior(mask.tolist()))
            for number, mask in enumerate(masks)
        ]


def usual_subsets(references: int) -> list[tuple[bool, ...]]:
    """Return the subsets to prepare: every one up to 4 references, else none, singles, all but one, all."""
    every = [tuple(flags) for flags in product((False, True), repeat=references)] if references <= 4 else []
    if every:
        return every
    sizes = (0, 1, references - 1, references)
    masks = {tuple(place == m for place in range(references)) for m in range(references)}
    masks |= {tuple(place != m for place in range(references)) for m in range(references)}
    masks |= {(False,) * references, (True,) * references}
    return sorted(mask for mask in masks if sum(mask) in sizes)


def spread(groups: list[Group], values: Sequence[Tensor]) -> Tensor:
    """Put per-group rows back in the order of the batch."""
    if groups[0][0] is None:
        return values[0]
    total = sum(len(part) for part in values)
    result = values[0].new_empty(total, *values[0].shape[1:])
    for (rows, _), part in zip(groups, values, strict=True):
        assert rows is not None
        result = result.index_copy(0, rows, part)
    return result


def pick(rows: Tensor | None, values: Tensor) -> Tensor:
    """Return the group's rows of ``values`` (all of them for ``None``)."""
    return values if rows is None else values[rows]
