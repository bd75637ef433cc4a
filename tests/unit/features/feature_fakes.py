"""A small real encoder, an in-memory source and variants, for the tests of features."""

import hashlib
import io
import threading

import numpy as np
import torch
from PIL import Image

from platodef_cli.encoders.interface import Geometry
from platodef_cli.images.decode import decode
from platodef_cli.images.interface import ImageRef
from platodef_cli.progress import SilentProgress
from platodef_cli.records import EncoderRecord, TransformRecord


class ProjectionEncoder:
    """A random projection of the pixels; counts the images that it embeds."""

    def __init__(self, dim=5, seed=0, size=8, resize=8, dtype="float32", digest=None):
        self.geometry = Geometry((size, size), resize, "bilinear")
        self.dim = dim
        generator = torch.Generator().manual_seed(seed)
        self._weight = torch.randn(3 * size * size, dim, generator=generator) / size
        self.embedded = 0
        self.batches = []
        self.record = EncoderRecord(
            name=f"projection-{seed}",
            uri="memory",
            backend="timm",
            architecture="projection",
            commit=None,
            dim=dim,
            parameters=self._weight.numel(),
            pooling="none",
            dtype=dtype,
            transform=TransformRecord(
                size=(size, size), resize=resize, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)
            ),
            files=(),
            digest=digest or f"{seed:064x}",
            isolated=False,
        )

    def embed(self, pixels):
        assert pixels.dtype == torch.uint8
        self.embedded += len(pixels)
        self.batches.append(len(pixels))
        with torch.inference_mode():
            return (pixels.flatten(1).float() / 255) @ self._weight

    def differentiable(self, pixels):
        return pixels.flatten(1) @ self._weight

    def close(self):
        pass


class MemorySource:
    """Encoded images in memory; counts how often each is decoded."""

    def __init__(self, blobs, labels=None):
        self.uri = "memory"
        self.classes = None if labels is None else tuple(str(i) for i in range(max(labels) + 1))
        self._blobs = list(blobs)
        self.refs = [
            ImageRef(f"image-{i}", hashlib.sha256(blob).hexdigest(), None if labels is None else labels[i])
            for i, blob in enumerate(self._blobs)
        ]
        self.skipped = []
        self.opened = [0] * len(self._blobs)
        self._lock = threading.Lock()

    def open(self, index):
        with self._lock:
            self.opened[index] += 1
        return decode(self._blobs[index], self.refs[index].id)


class Noise:
    """Adds noise that depends on the seed of each image."""

    def __init__(self, strength=20):
        self.name = f"noise-{strength}"
        self._strength = strength

    def __call__(self, pixels, seeds):
        changed = []
        for image, seed in zip(pixels, seeds, strict=True):
            generator = torch.Generator().manual_seed(int(seed))
            noise = self._strength * torch.randn(image.shape, generator=generator)
            changed.append((image.float() + noise).clamp(0, 255).round().to(torch.uint8))
        return torch.stack(changed)


class Recorder(SilentProgress):
    """Keeps the warnings."""

    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


def png(seed, size=12):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
