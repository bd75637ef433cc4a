"""What the battery could have found: the weakest attack under a known trigger that its rules would accuse.

An encoder that is not accused is only cleared of what would have been seen. For every trigger the attack is
made on the features that were measured: a share of the changed images gets the feature of one other image,
as an all-to-one backdoor with that success rate gives it, and the rest stays what it is. The smallest share
that the rules accuse with a probability of :data:`~platodef_cli.audit.verdict.intervals.POWER` is the power
of the test, as the smallest detectable effect is that of a trial (Cohen 1988).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from platodef_cli.features.interface import FeatureTuples

STEPS = 20  # success rates are tried in steps of 5 %
_SEED = 30_000


def attacked(clean: Tensor, changed: FeatureTuples, share: float) -> tuple[FeatureTuples, Tensor]:
    """Return what an attack under a change that sends a share of the images to one place would give.

    The second value says which images those are, boolean ``[n]``.

    Args:
        clean: The suspect's features ``[n, D]`` of the images without the change.
        changed: Features of the same images with the change.
        share: Success rate. The images of a smaller one are among those of a larger one.
    """
    order = torch.randperm(len(clean), generator=torch.Generator().manual_seed(_SEED))
    # the first in the order is the target, and the last that is sent to it
    hit = torch.zeros(len(clean), dtype=torch.bool)
    hit[order.flip(0)[: round(share * len(clean))]] = True
    source = torch.where(hit[:, None], clean[order[0]], changed.source)
    return FeatureTuples(source, changed.references), hit


def smallest_share(found: Callable[[float], bool]) -> float | None:
    """Return the smallest success rate that is found, a multiple of 0.05, or None where not even 1 is.

    Args:
        found: Share -> whether the attack would be accused; larger ones are where smaller ones are.
    """
    if not found(1.0):
        return None
    low, high = 0, STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle / STEPS) else (middle, high)
    return high / STEPS
