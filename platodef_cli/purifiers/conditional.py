"""The head's denoiser as a plain function of (x, sigma), guidance included."""

from collections.abc import Sequence

import torch
from torch import Tensor

from platodef_cli.heads.denoiser import Condition, Denoiser
from platodef_cli.purifiers.samplers import DenoiseFunction


def guided(denoiser: Denoiser, references: Sequence[Tensor], guidance: float) -> DenoiseFunction:
    """Return ``(x, sigma) -> D_0 + w (D_c - D_0)`` for fixed references.

    The references are projected once. With w = 1 the unconditional branch would be multiplied by
    zero, and with w = 0 the conditional one, so only the other is evaluated; else both run as one batch.

    Args:
        denoiser: The denoiser head.
        references: Standardised references ``[B, D_m]`` each.
        guidance: w.
    """
    rows = len(references[0])
    kept = torch.ones(rows, len(references), dtype=torch.bool, device=references[0].device)
    if guidance in (0.0, 1.0):
        single = denoiser.condition(references, None if guidance == 1.0 else ~kept)
        return lambda x, sigma: denoiser(x, sigma, single)
    doubled = [torch.cat([values, values]) for values in references]
    both: Condition = denoiser.condition(doubled, torch.cat([kept, ~kept]))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        conditional, unconditional = denoiser(torch.cat([x, x]), sigma, both).chunk(2)
        mixed: Tensor = unconditional + guidance * (conditional - unconditional)
        return mixed

    return denoise
