"""One loop for the clean encoders: AdamW, one cycle, batches in an order drawn from the seed."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from platodef_cli.bench.zoo.dataset import ZooDataset
from platodef_cli.bench.zoo.objectives import Batch, PretrainingObjective
from platodef_cli.errors import IncompleteError
from platodef_cli.progress import SILENT, Progress

BATCH = 128


def autocast_type(convolutional: bool, device: str = "cpu") -> torch.dtype | None:
    """Return bfloat16 where it is faster, else None.

    With tiles (AMX) it always is; with AVX-512's bfloat16 products alone only convolutions gain (a step of
    the zoo's ResNets takes 0.65 to 0.8 of the time, one of its ViTs 1.5 times as long).

    Args:
        convolutional: Whether the network is made of convolutions.
        device: Type of the device; GPUs that platodef knows multiply bfloat16 several times as fast.
    """
    if device == "cuda":
        return torch.bfloat16
    if device != "cpu":
        return None
    if torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.bfloat16 if convolutional and torch.cpu._is_avx512_bf16_supported() else None


def batches(count: int, steps: int, generator: torch.Generator, size: int = BATCH) -> Iterator[Tensor]:
    """Yield ``steps`` batches of row numbers, pass after pass, each pass in a new order."""
    size = min(size, count)
    waiting = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[:size]
        waiting = waiting[size:]


def train(
    objective: PretrainingObjective,
    dataset: ZooDataset,
    *,
    steps: int,
    lr: float,
    seed: int,
    title: str = "training",
    parameters: list[nn.Parameter] | None = None,
    progress: Progress = SILENT,
) -> None:
    """Train a network in place; leave it in evaluation mode.

    Args:
        objective: Holds the network and its heads.
        dataset: The images.
        steps: Optimiser steps of 128 images.
        lr: Largest learning rate.
        seed: Order of the images and every augmentation.
        title: For the progress.
        parameters: What is trained; None: the network and the heads.
        progress: Receives one advance per 50 steps.

    Raises:
        IncompleteError: The loss is not finite.
    """
    network = objective.network
    device = network.device
    objective.to(device)
    weights = [*network.module.parameters(), *objective.parameters()] if parameters is None else parameters
    optimiser = torch.optim.AdamW(weights, lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps + 1, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    kind = autocast_type(network.architecture.convolutional, device.type)
    network.module.train()
    with progress.step(title, steps) as task:
        for step, rows in enumerate(batches(len(dataset.labels), steps, generator)):
            with torch.autocast(device.type, kind or torch.bfloat16, enabled=kind is not None):
                loss = objective(Batch.of(dataset, rows), generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
            objective.after_step((step + 1) / steps)
            if (step + 1) % 50 == 0 or step + 1 == steps:
                value = float(loss.detach())
                if not value < float("inf"):
                    raise IncompleteError(
                        f"{title}: the loss is {value} after {step + 1} steps; lower the rate"
                    )
                task.advance((step % 50) + 1, note=f"loss {value:.3f}")
    network.module.eval()
