"""In which precision an encoder computes gradients, and forward passes.

A search needs gradients to choose its next step, thousands of times; what it finds is measured in the
precision of the features. Processors with instructions for bfloat16 run a ConvNet twice and a ViT almost
three times as fast with it, so gradients are computed in it where there is something to win.

Forward passes are what an audit measures, so that bfloat16 is not taken on trust there: it is timed against
float32 and compared with it, on clean images and, for a suspect, on images under every known change. A
network that behaves otherwise in bfloat16 than in float32 is run in float32.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.encoders.geometry import Geometry
from platodef_cli.errors import RefusedError
from platodef_cli.records import EncoderRecord

if TYPE_CHECKING:
    from platodef_cli.encoders.interface import Encoder

AUTOCAST = "bfloat16-autocast"
"""Precision in records: float32 weights whose products are computed in bfloat16."""
LEAST_COSINE = 0.9999
"""Between a feature in bfloat16 and in float32, of every image that is looked at."""
_LEAST_PIXELS = 96 * 96  # below that, conversions take as long as they save
_FASTER = 0.87  # of the time of float32: less is not worth other digits
_PART = 4  # images at once: few, because nobody knows yet how many fit


def gradient_dtype(wanted: str, device: str, dtype: str, geometry: Geometry) -> str:
    """Return the precision of an encoder's gradients, ``float32`` or ``bfloat16``.

    The same machine gives the same answer: nothing is timed.

    Args:
        wanted: ``float32``, ``bfloat16``, or ``auto``, which chooses bfloat16 where the processor has
            instructions for it and images are large.
        device: Torch device.
        dtype: Precision of the network's weights.
        geometry: Of the encoder.
    """
    if wanted != "auto" or dtype != "float32":
        return dtype if wanted == "auto" else wanted
    return "bfloat16" if may_be_faster(device, geometry) else "float32"


def has_bfloat16(device: str) -> bool:
    """Return whether a device has instructions for bfloat16; what emulates it is slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if device != "cpu" or capabilities is None:
        return False
    found = capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def computing_in(dtype: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which a float32 network's products are computed in ``dtype``."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def tuned_record(record: EncoderRecord, forward_dtype: str) -> EncoderRecord:
    """Return a record that says in which precision forward passes are computed."""
    return record.model_copy(update={"dtype": AUTOCAST if forward_dtype == "bfloat16" else "float32"})


def may_be_faster(device: str, geometry: Geometry) -> bool:
    """Return whether bfloat16 is worth trying: the processor is built for it, and images are large."""
    height, width = geometry.size
    return height * width >= _LEAST_PIXELS and has_bfloat16(torch.device(device).type)


@dataclass(frozen=True)
class Comparison:
    """bfloat16 against float32 on the same images.

    Attributes:
        cosine: Smallest cosine between features of an image.
        time: Time of bfloat16 as a share of that of float32, median of interleaved pairs.
    """

    cosine: float
    time: float

    @property
    def same(self) -> bool:
        """Whether features are the same in all that matters."""
        return self.cosine >= LEAST_COSINE

    @property
    def faster(self) -> bool:
        """Whether bfloat16 is worth it."""
        return self.time <= _FASTER


def compare(encoder: "Encoder", pixels: Tensor) -> Comparison:
    """Run an encoder in float32 and bfloat16 in turn; it is left in float32.

    Args:
        encoder: With float32 weights.
        pixels: As it takes them, ``[n, 3, H, W]`` with at least one image.

    Raises:
        IncompleteError: The encoder failed in float32.
        RefusedError: A feature in float32 is not finite.
    """
    parts = torch.split(pixels, _PART)
    for dtype in ("float32", "bfloat16"):  # the first pass of each prepares things
        _embed(encoder, parts[0][:1], dtype)
    cosines, shares = [], []
    for part in parts:
        exact, usual = _embed(encoder, part, "float32")
        rounded, short = _embed(encoder, part, "bfloat16")
        # features that are all zero are the same where both are
        both = (exact == rounded).all(dim=1)
        cosines.append(torch.where(both, 1.0, F.cosine_similarity(exact.double(), rounded.double(), dim=1)))
        shares.append(short / max(usual, 1e-9))
    encoder.tune(forward_dtype="float32")
    return Comparison(float(torch.cat(cosines).min()), median(shares))


def _embed(encoder: "Encoder", pixels: Tensor, dtype: str) -> tuple[Tensor, float]:
    """Return features and the seconds that they took; NaN where bfloat16 overflows."""
    encoder.tune(forward_dtype=dtype)
    start = time.perf_counter()
    try:
        features = encoder.embed(pixels)
    except RefusedError:
        if dtype == "float32":
            raise
        features = torch.full((len(pixels), encoder.dim), torch.nan)
    return features, time.perf_counter() - start
