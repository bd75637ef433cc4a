"""Successive halving (Jamieson and Talwalkar 2016): many candidates roughly, few well."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from platodef_cli.search.interface import SearchTarget

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from platodef_cli.progress import Task

_BATCH = 96  # images per pass with gradients, where they fit


@dataclass(frozen=True)
class Stage:
    """One round of successive halving.

    Attributes:
        images: Images per step and candidate.
        steps: Adam steps.
        keep: Candidates that go on to the next round.
    """

    images: int
    steps: int
    keep: int


def halving_cost(candidates: int, stages: Sequence[Stage]) -> int:
    """Return how many images go through the encoder in :func:`halve`."""
    total = 0
    for stage in stages:
        total += candidates * stage.images * stage.steps
        candidates = min(candidates, stage.keep)
    return total


def halve(
    target: SearchTarget,
    start: "Tensor",
    apply: Callable[["Tensor", "Tensor", int], "Tensor"],
    stages: Sequence[Stage],
    *,
    rate: float,
    generator: "torch.Generator",
    task: "Task",
    title: str,
    turn: bool = False,
) -> tuple[int, "Tensor"]:
    """Let candidates compete: Adam on the parameters of every candidate, all candidates in one batch.

    Args:
        target: Encoder whose features shall collapse, and the images.
        start: Parameters of the candidates, ``[C, ...]``.
        apply: (images, parameters of one candidate, its number) -> changed images.
        stages: Rounds.
        rate: Adam's learning rate.
        generator: Draws the images.
        task: Progress.
        title: Name for the progress.
        turn: Candidates compete for how far features turn away from those of the same images, instead of for
            how much they collapse: of a trigger of several parts the parts alone give that no slope.

    Returns:
        Number of the best candidate and its parameters.
    """
    import torch

    from platodef_cli.encoders.bounded import at_once
    from platodef_cli.search.statistics import collapse, turned

    parameters = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([parameters], lr=rate)
    active = list(range(len(start)))
    for stage in stages:
        reached = torch.zeros(len(start))
        # a few candidates at a time: the activations of all would fill the memory
        together = max(1, at_once(target.encoder, _BATCH, gradients=True) // stage.images)
        for step in range(stage.steps):
            optimiser.zero_grad()
            values = []
            for first in range(0, len(active), together):
                part = active[first : first + together]
                rows = [
                    torch.randint(0, len(target.pool), (stage.images,), generator=generator) for _ in part
                ]
                batch = [apply(target.take(r), parameters[n], n) for n, r in zip(part, rows, strict=True)]
                features = target.statistics.standardise(target.encoder.differentiable(torch.cat(batch)))
                features = features.view(len(part), stage.images, -1)
                if turn:
                    clean = target.statistics.standardise(target.features[torch.stack(rows)])
                    value = turned(features, clean)
                else:
                    value = collapse(features)
                (-value.sum()).backward()  # type: ignore[no-untyped-call]
                values.append(value.detach())
                # often: a caller that was interrupted ends the search here
                task.advance(len(part) * stage.images)
            optimiser.step()
            now = torch.cat(values)
            for number, current in zip(active, now.tolist(), strict=True):
                reached[number] = current if step == 0 else 0.6 * reached[number] + 0.4 * current
            task.advance(0, note=f"{title}, {'turned by' if turn else 'collapse'} {float(now.max()):.2f}")
        active = sorted(active, key=lambda number: -float(reached[number]))[: stage.keep]
    return active[0], parameters[active[0]].detach()
