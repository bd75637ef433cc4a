"""In which precision an encoder computes gradients.

A search needs gradients to choose its next step, thousands of times; what it finds is measured in the
precision of the features. Processors with instructions for bfloat16 run a ConvNet twice and a ViT almost
three times as fast with it, so gradients are computed in it where there is something to win.
"""

from contextlib import AbstractContextManager, nullcontext

import torch

from platodef_cli.encoders.geometry import Geometry

_LEAST_PIXELS = 96 * 96  # below that, conversions take as long as they save


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
    height, width = geometry.size
    large = height * width >= _LEAST_PIXELS
    return "bfloat16" if large and _has_bfloat16(torch.device(device).type) else "float32"


def _has_bfloat16(device: str) -> bool:
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
