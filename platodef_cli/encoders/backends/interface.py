"""The contract of an encoder backend, beside its implementations; no torch."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from platodef_cli.encoders.checks.weights import Bundle
    from platodef_cli.encoders.local import Tower

Builder = Callable[["Bundle", "torch.device", "torch.dtype"], "Tower"]
"""Builds a network from an examined folder, loads it strictly, and freezes it.

Raises UsageError where the preprocessing cannot be reproduced, and RefusedError where the files do not fit.
"""


@dataclass(frozen=True)
class RepositoryLayout:
    """The files that a load reads; no others of the folder are opened, and each is examined before.

    Attributes:
        configurations: ``*.json`` files, the main one first.
        weights: The weight file (``*.safetensors``), or the index that names its shards (``*.index.json``).
    """

    configurations: tuple[str, ...]
    weights: str


class Backend(Protocol):
    """A library that builds encoders; a row of ``platodef_cli.encoders.BACKENDS`` is a class of this kind.

    The module of the class is imported to look at a folder, so it leaves the library to :meth:`builder`.
    """

    def layouts(self, config: Mapping[str, Any], names: Collection[str]) -> Iterable[RepositoryLayout]:
        """Return the ways in which this library could read a folder, the best first; none if it is another's.

        Args:
            config: Content of ``config.json``, not yet checked, or empty.
            names: Files at the top of the folder.
        """

    def architecture(self, configuration: Mapping[str, Any]) -> str:
        """Return the name that the main configuration, which was checked, gives the model."""

    def builder(self) -> Builder:
        """Import the library and return what builds an encoder with it."""
