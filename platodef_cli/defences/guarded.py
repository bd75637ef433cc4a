"""Detectors and purifiers of plug-ins, whose failures name the plug-in."""

from typing import Any

import torch
from torch import Tensor

from platodef_cli.defences.interface import EncoderStatistic
from platodef_cli.features.access import ModelAccess
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.plugins import Plugin, blaming


class _Guarded:
    def __init__(self, wrapped: Any, plugin: Plugin):
        self._wrapped = wrapped
        self._plugin = plugin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class GuardedDetector(_Guarded):
    """Implements :class:`platodef_cli.defences.interface.Detector`."""

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Score as the plug-in does.

        Raises:
            IncompleteError: It fails, or does not give one number per tuple.
        """
        with blaming(self._plugin):
            scores: Tensor = self._wrapped.score(tuples)
            _check(scores, (len(tuples),))
        return scores.double()


class GuardedPurifier(_Guarded):
    """Implements :class:`platodef_cli.defences.interface.Purifier`."""

    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Purify as the plug-in does.

        Raises:
            IncompleteError: It fails, or does not give features of the shape that it got.
        """
        with blaming(self._plugin):
            purified: Tensor = self._wrapped.purify(tuples, generator=generator)
            _check(purified, tuple(tuples.source.shape))
        return purified.float()


class GuardedEncoderDetector(_Guarded):
    """Implements :class:`platodef_cli.defences.interface.EncoderDetector`."""

    def examine(self, model: ModelAccess, images: Tensor) -> EncoderStatistic:
        """Examine as the plug-in does.

        Raises:
            IncompleteError: It fails, or does not give a statistic.
        """
        with blaming(self._plugin):
            statistic: EncoderStatistic = self._wrapped.examine(model, images)
            if not isinstance(statistic, EncoderStatistic):
                raise TypeError(f"it gave {type(statistic).__name__}, not an EncoderStatistic")
        return statistic


def _check(values: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(f"it gave {type(values).__name__}, not a tensor")
    if tuple(values.shape) != shape:
        raise ValueError(f"it gave a tensor {list(values.shape)}, not {list(shape)}")
