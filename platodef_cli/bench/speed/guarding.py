"""Contests of the guard: its whole answer against the features of its encoders alone."""

from contextlib import closing
from functools import partial
from typing import NamedTuple

import torch

from platodef_cli.bench.speed.contest import Contest
from platodef_cli.bench.speed.features import random_tuples
from platodef_cli.bench.speed.networks_of_timm import as_encoder, random_network
from platodef_cli.defences import DEFAULT_DETECTOR, DEFAULT_PURIFIER, make_purifier
from platodef_cli.defences.alarm import calibrated
from platodef_cli.guard.encoders import GuardEncoders
from platodef_cli.guard.guard import Guard
from platodef_cli.heads.config import FitConfig
from platodef_cli.heads.fit import fit_heads

_RATE = 0.05  # share of clean images that may be flagged


class _Size(NamedTuple):
    network: str
    depth: int
    rows: int  # that the heads are fitted on
    lifted: int  # random features of a closed form
    batches: tuple[int, int]  # how often a batch of 1 and one of 64 are run


_SIZES = {
    "small": _Size("vit_tiny_patch16_224", 1, 200, 8, (2, 1)),
    "usual": _Size("vit_small_patch16_224", 12, 2000, FitConfig().lift_features, (8, 1)),
    "real": _Size("vit_base_patch16_224", 12, 4000, FitConfig().lift_features, (8, 1)),
}


def one_image(size: str) -> Contest:
    """The guard, an image at a time: latency."""
    return _guarding(size, batch=1, calls=_SIZES[size].batches[0])


def many_images(size: str) -> Contest:
    """The guard, 64 images at a time: throughput."""
    return _guarding(size, batch=64, calls=_SIZES[size].batches[1])


def _guarding(size: str, *, batch: int, calls: int) -> Contest:
    chosen = _SIZES[size]
    guard = _guard(chosen)
    encoders = guard.open()
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, generator=generator)

    def ours() -> float:
        return sum(float(guard(pictures).flagged.float().mean()) for _ in range(calls)) / calls

    def theirs() -> None:
        for _ in range(calls):
            encoders.features(pictures)

    return Contest(
        work=f"guard: {calls} x {batch} images, three {chosen.network} ({chosen.depth} layers)",
        peer="preprocessing and the encoders alone: the share of time that is theirs",
        goal=1 / 1.03,
        ours=ours,
        theirs=theirs,
        # random networks give features unlike those that the heads were fitted on: the dearest case
        quality=lambda flagged, _: f"{flagged:.0%} of the images flagged and replaced",
        kept=closing(guard),
        profiled=partial(guard.clean, encoders.features(pictures)),
    )


def _guard(chosen: _Size) -> Guard:
    """Return a guard with default heads, fitted on random features of the right width."""
    encoders = [
        as_encoder(random_network(chosen.network, seed, chosen.depth), f"network-{seed}", chosen.network)
        for seed in range(3)
    ]
    names = [encoder.record.name for encoder in encoders[1:]]
    tuples = random_tuples(chosen.rows, [encoder.dim for encoder in encoders], names)
    heads = fit_heads(tuples, FitConfig(lift_features=chosen.lifted))
    return Guard(
        heads,
        calibrated(DEFAULT_DETECTOR, heads, None, _RATE, 0),
        make_purifier(DEFAULT_PURIFIER, heads, None),
        random=False,
        encoders=GuardEncoders(encoders[0], dict(zip(names, encoders[1:], strict=True))),
    )
