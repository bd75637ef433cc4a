"""What a method may look at: kinds of access, and a model that gives its internals or says why not."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, Protocol

import torch
from torch import Tensor

from platodef_cli.encoders.interface import Encoder, HeadTerms
from platodef_cli.errors import NotApplicable
from platodef_cli.features.interface import FeatureTuples, Samples

INTERNALS_BATCH = 32
"""Images per call for internals, which are up to a hundred times as large as features."""
TEXT = "text"
"""Name of the reference that holds text features in the source's own space."""


class Access(StrEnum):
    """What a detector or purifier needs to look at."""

    features = "features"
    """Source features ``[N, D]``."""
    references = "references"
    """Features of the same images by trusted encoders."""
    images = "images"
    """The images themselves, as the suspect sees them."""
    internals = "internals"
    """Feature maps or attention heads of the suspect."""
    gradients = "gradients"
    """Gradients of the suspect's features with respect to pixels."""
    labels = "labels"
    """Class labels of clean images."""
    text = "text"
    """Text features of the same samples, in the source's own space."""


class ModelAccess(Protocol):
    """A suspect that methods may question; every answer may be :class:`NotApplicable`.

    Attributes:
        name: Short name, for messages.
        dim: Length D of a feature.
        size: Height and width of its images.
    """

    name: str
    dim: int
    size: tuple[int, int]

    def features(self, images: Tensor) -> Tensor:
        """Return features ``[N, D]`` float32 of uint8 ``[N, 3, H, W]``."""

    def feature_map(self, images: Tensor) -> Tensor:
        """Return the last feature map ``[N, C, L]`` float32: C channels at L tokens or places."""

    def head_terms(self, images: Tensor) -> HeadTerms:
        """Return the additive terms of the features, per attention head."""

    def differentiable(self, images: Tensor) -> Tensor:
        """Return features ``[N, D]`` of float32 ``[N, 3, H, W]`` in [0, 1], with gradients."""


class EncoderAccess:
    """Implements :class:`ModelAccess` over any encoder, in this process or in a child.

    Args:
        encoder: The encoder.
        batch_size: Images per call for features.
    """

    def __init__(self, encoder: Encoder, batch_size: int = 64):
        self.name, self.dim, self.size = encoder.record.name, encoder.dim, encoder.geometry.size
        self._encoder, self._batch = encoder, batch_size

    def features(self, images: Tensor) -> Tensor:
        """Return features ``[N, D]`` float32 of uint8 ``[N, 3, H, W]``."""
        if not len(images):
            return torch.zeros(0, self.dim)
        return torch.cat([self._encoder.embed(part) for part in torch.split(images, self._batch)])

    def feature_map(self, images: Tensor) -> Tensor:
        """Return the last feature map ``[N, C, L]`` float32.

        Raises:
            NotApplicable: The encoder has none.
        """
        ask: Callable[[Tensor], Tensor] = self._ability("feature_map", "feature map")
        return torch.cat([ask(part) for part in torch.split(images, INTERNALS_BATCH)])

    def head_terms(self, images: Tensor) -> HeadTerms:
        """Return the additive terms of the features of at most :data:`INTERNALS_BATCH` images at a time.

        Raises:
            NotApplicable: The encoder is no Vision Transformer whose terms add up.
        """
        ask: Callable[[Tensor], HeadTerms] = self._ability("head_terms", "attention heads")
        parts = [ask(part) for part in torch.split(images, INTERNALS_BATCH)]
        return HeadTerms(torch.cat([part.terms for part in parts]), parts[0].layers, parts[0].heads)

    def differentiable(self, images: Tensor) -> Tensor:
        """Return features ``[N, D]`` of float32 ``[N, 3, H, W]`` in [0, 1], with gradients."""
        return self._encoder.differentiable(images)

    def _ability(self, name: str, what: str) -> Any:
        ability = getattr(self._encoder, name, None)
        if ability is None:
            raise NotApplicable(f"encoder {self.name!r} does not give its {what}")
        return ability


def check_access(kind: Any, granted: Iterable[Access]) -> None:
    """Raise unless everything that ``kind.needs`` names is granted.

    Raises:
        NotApplicable: Something is missing; the message names it.
    """
    granted = set(granted)
    missing = [access.value for access in Access if access in kind.needs and access not in granted]
    if missing:
        raise NotApplicable(f"needs {' and '.join(missing)}")


def granted_by(tuples: FeatureTuples | None, model: ModelAccess | None) -> frozenset[Access]:
    """Return the access that clean samples (None: unknown yet) and a model give.

    Internals and gradients are granted with a model; the model itself says where it has none.
    """
    granted = {Access.features, Access.references, Access.text}
    if tuples is not None and tuples.labels is not None:
        granted.add(Access.labels)
    if model is not None:
        granted |= {Access.internals, Access.gradients}
        if isinstance(tuples, Samples) and tuples.images is not None:
            granted.add(Access.images)
    return frozenset(granted)


def pixels_of(tuples: FeatureTuples) -> Tensor:
    """Return the images uint8 ``[N, 3, H, W]`` of samples.

    Raises:
        NotApplicable: There are features only.
    """
    if not isinstance(tuples, Samples) or tuples.images is None:
        raise NotApplicable("needs images")
    return tuples.images
