"""Trigger search: look for a small universal change that makes an encoder forget the image.

A backdoored encoder maps every triggered image to one feature, so a search over its weights finds a
cheap change that collapses its features. The same search runs on the references: what it reaches there
is what an adversary without a backdoor reaches, and the verdict compares the two.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from platodef_cli.encoders.interface import Encoder
from platodef_cli.progress import Task
from platodef_cli.search.interface import SearchConfig, Stage
from platodef_cli.search.statistics import CleanStatistics, collapse

_BATCH = 96  # images per pass with gradients


def _halving(
    encoder: Encoder,
    statistics: CleanStatistics,
    pool: Tensor,
    start: Tensor,
    apply: Callable[[Tensor, Tensor, int], Tensor],
    stages: Sequence[Stage],
    config: SearchConfig,
    generator: torch.Generator,
    task: Task,
    what: str,
) -> tuple[int, Tensor]:
    """Successive halving: Adam on the parameters of every candidate, all candidates in one batch.

    Args:
        encoder: Whose features shall collapse.
        statistics: Of its clean features.
        pool: Images in [0, 1], ``[N, 3, H, W]``.
        start: Parameters of the candidates, ``[C, ...]``.
        apply: (images, parameters of one candidate, its number) -> changed images.
        stages: Rounds.
        config: Learning rate.
        generator: Draws the images.
        task: Progress.
        what: Name for the progress.

    Returns:
        Number of the best candidate and its parameters.
    """
    parameters = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([parameters], lr=config.rate)
    active = list(range(len(start)))
    for stage in stages:
        reached = torch.zeros(len(start))
        for step in range(stage.steps):
            optimiser.zero_grad()
            values = []
            # a few candidates at a time: the activations of all would fill the memory
            together = max(1, _BATCH // stage.images)
            for first in range(0, len(active), together):
                part = active[first : first + together]
                batch = []
                for number in part:
                    images = pool[torch.randint(0, len(pool), (stage.images,), generator=generator)]
                    batch.append(apply(images, parameters[number], number))
                features = statistics.standardise(encoder.differentiable(torch.cat(batch)))
                value = collapse(features.view(len(part), stage.images, -1))
                (-value.sum()).backward()  # type: ignore[no-untyped-call]
                values.append(value.detach())
                # often: a caller that was interrupted ends the search here
                task.advance(len(part) * stage.images)
            optimiser.step()
            now = torch.cat(values)
            for number, current in zip(active, now.tolist(), strict=True):
                reached[number] = current if step == 0 else 0.6 * reached[number] + 0.4 * current
            task.advance(0, note=f"{what}, collapse {float(now.max()):.2f}")
        active = sorted(active, key=lambda number: -float(reached[number]))[: stage.keep]
    return active[0], parameters[active[0]].detach()
