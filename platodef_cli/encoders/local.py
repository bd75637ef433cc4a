"""An encoder in this process: strict loading, normalisation, forward pass, guard against NaN."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from platodef_cli.encoders.backends import internals
from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.computed_by import device_kind
from platodef_cli.encoders.footprint import Footprint, measure
from platodef_cli.encoders.frozen import FrozenNorms
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.encoders.guards import check_features, check_input, check_pixels, memory_guard
from platodef_cli.encoders.interface import HeadTerms
from platodef_cli.encoders.precision import computing_in, tuned_record
from platodef_cli.encoders.strict import load_strictly as load_strictly  # where plug-ins look for it
from platodef_cli.errors import IncompleteError, RefusedError, UsageError
from platodef_cli.records import EncoderRecord

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_META_SLACK = 1_000_000
_MAX_BUFFERS = 64_000_000


@dataclass(frozen=True)
class Tower:
    """A loaded network with its preprocessing; what a backend builds.

    Attributes:
        module: The whole network, frozen, in evaluation mode.
        forward: Normalised pixels ``[B, 3, H, W]`` -> pooled features ``[B, D]``.
        geometry: Resize and crop.
        mean: Per channel, as a share of the pixel range.
        std: Per channel, as a share of the pixel range.
        architecture: Class or registry name.
        pooling: Which output is the feature.
        notes: What differs from the library's own pipeline, for the report.
        channels_last: Whether convolutions should run in that memory layout.
    """

    module: nn.Module
    forward: Callable[[Tensor], Tensor]
    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]
    architecture: str
    pooling: str
    notes: tuple[str, ...] = ()
    channels_last: bool = False


class LocalEncoder:
    """Implements :class:`platodef_cli.encoders.interface.Encoder` over a tower.

    Attributes:
        record: Identity, provenance and preprocessing.
        dim: Length D of a feature.
        geometry: Resize and crop.
        notes: What differs from the library's own pipeline.
        device: Kind of the device that it runs on, as cache keys name it.
    """

    def __init__(self, tower: Tower, record: EncoderRecord, device: torch.device, dtype: torch.dtype):
        self.record = record
        self.dim = record.dim
        self.geometry = tower.geometry
        self.notes = tower.notes
        self._tower: Tower | None = tower
        self.device = device_kind(device)
        self._device, self._dtype = device, dtype
        self._gradient_dtype = self._forward_dtype = "float32"
        self._mean = torch.tensor(tower.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(tower.std, device=device).view(1, 3, 1, 1)

    @property
    def network(self) -> nn.Module:
        """The network; its weights are frozen, and whoever changes them gives them back as they were.

        Raises:
            IncompleteError: The encoder is closed.
        """
        return self._open().module

    def embed(self, pixels: Tensor) -> Tensor:
        """Return features ``[B, D]`` float32 on the CPU of ``pixels`` ``[B, 3, H, W]`` uint8.

        An encoder whose geometry says floats also takes float32, a share of 255.

        Raises:
            RefusedError: A feature is not finite.
            IncompleteError: The encoder is closed, or memory ran out.
        """
        check_input(pixels, self.geometry)
        computing = computing_in(self._forward_dtype, self._device)
        with torch.inference_mode(), memory_guard(self.record.name), computing:
            units = pixels.to(self._device)
            features = self._run(units / 255 if units.dtype == torch.uint8 else units)
        # A copy outside inference mode, so that callers may use it in autograd.
        return check_features(features.cpu().clone(), self.record.name, len(pixels), self.dim)

    def differentiable(self, pixels: Tensor) -> Tensor:
        """Return features ``[B, D]`` of float32 ``pixels`` ``[B, 3, H, W]`` in [0, 1], with gradients.

        Raises:
            RefusedError: A feature is not finite.
            IncompleteError: The encoder is closed, or memory ran out.
        """
        check_pixels(pixels, self.geometry, torch.float32)
        with memory_guard(self.record.name), FrozenNorms(), computing_in(self._gradient_dtype, self._device):
            features = self._run(pixels.to(self._device)).to(pixels.device)
        return check_features(features, self.record.name, len(pixels), self.dim)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Return the last feature map ``[B, C, L]`` float32 of ``pixels`` ``[B, 3, H, W]`` uint8.

        Raises:
            NotApplicable: The network has none.
            RefusedError: It is not finite.
            IncompleteError: The encoder is closed, or memory ran out.
        """
        found: Tensor = self._inside(internals.feature_map, pixels).clone()
        if not torch.isfinite(found).all():
            raise RefusedError(f"encoder {self.record.name!r} has a feature map that is not finite")
        return found

    def head_terms(self, pixels: Tensor) -> HeadTerms:
        """Return the features of ``pixels`` ``[B, 3, H, W]`` uint8 as a sum of terms.

        Raises:
            NotApplicable: The network is no pre-norm ViT with a known layout.
            IncompleteError: The encoder is closed, or memory ran out.
        """
        found = self._inside(internals.head_terms, pixels)
        return HeadTerms(found.terms.clone(), found.layers, found.heads)

    def footprint(self) -> Footprint:
        """Measure how much memory an image takes.

        Raises:
            OutOfMemoryError: Not even one fits.
            IncompleteError: The encoder is closed.
        """
        module = self._open().module
        weights = sum(value.nbytes for value in (*module.parameters(), *module.buffers()))
        return measure(self.differentiable, self.geometry.size, weights)

    def tune(
        self,
        *,
        threads: int | None = None,
        gradient_dtype: str | None = None,
        forward_dtype: str | None = None,
    ) -> None:
        """Set how it computes from now on; see :meth:`Encoder.tune`."""
        if gradient_dtype is not None:
            self._gradient_dtype = gradient_dtype
        if forward_dtype is not None:
            self._forward_dtype = forward_dtype
            self.record = tuned_record(self.record, forward_dtype)

    def close(self) -> None:
        """Free the weights."""
        self._tower = None

    def __enter__(self) -> "LocalEncoder":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self, pixels: Tensor) -> Tensor:
        """Normalise and run the tower: float32 ``[B, 3, H, W]`` in [0, 1] -> float32 ``[B, D]``."""
        tower = self._open()
        return tower.forward(self._inputs(pixels, tower)).float()

    def _inside(
        self, look: Callable[[nn.Module, Callable[[Tensor], Tensor], Tensor], Any], pixels: Tensor
    ) -> Any:
        """Return what ``look`` sees in the network while it runs on uint8 ``pixels``."""
        check_pixels(pixels, self.geometry, torch.uint8)
        tower = self._open()
        with torch.inference_mode(), memory_guard(self.record.name):
            inputs = self._inputs(pixels.to(self._device).to(torch.float32) / 255, tower)
            return look(tower.module, tower.forward, inputs)

    def _open(self) -> Tower:
        if self._tower is None:
            raise IncompleteError(f"encoder {self.record.name!r} is closed")
        return self._tower

    def _inputs(self, pixels: Tensor, tower: Tower) -> Tensor:
        inputs = ((pixels - self._mean) / self._std).to(self._dtype)
        return inputs.contiguous(memory_format=torch.channels_last) if tower.channels_last else inputs


def build_on_meta(build: Callable[[], nn.Module], bundle: Bundle, what: str) -> nn.Module:
    """Build a network without memory and check its size against the header of the weight files.

    Args:
        build: Constructs the network from the configuration.
        bundle: Says how many parameters the files hold, and the bounds.
        what: Architecture, for messages.

    Raises:
        RefusedError: It has more than 1.02 times the parameters of the files plus a million, giant
            buffers, or a stack of more layers than allowed; or the configuration does not fit.
    """
    try:
        with torch.device("meta"), _NothingComputed():
            network = build()
    except (RefusedError, UsageError):
        raise
    except Exception as error:
        raise RefusedError(
            f"{bundle.directory}: {what} cannot be built from its configuration "
            f"({type(error).__name__}: {one_line(error)}); do not use this model"
        ) from error
    parameters = sum(p.numel() for p in network.parameters())
    if parameters > 1.02 * bundle.parameters + _META_SLACK:
        raise RefusedError(
            f"{bundle.directory}: its configuration asks for {parameters} parameters but its files hold "
            f"{bundle.parameters}; do not use this model"
        )
    if sum(b.numel() for b in network.buffers()) > 1.02 * bundle.parameters + _MAX_BUFFERS:
        raise RefusedError(
            f"{bundle.directory}: its configuration asks for giant buffers; do not use this model"
        )
    check_depth(network, bundle.limits, str(bundle.directory))
    return network


_FILLING = (Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.clamp_, Tensor.mul_, Tensor.add_)
_SCALING = ("mul", "__mul__", "__rmul__")


class _NothingComputed(TorchFunctionMode):
    """Leaves the numbers alone that networks start with: there is no memory for them.

    torch would go through its compiler to find that out, which takes two seconds to load.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = args[0] if args else (kwargs or {}).get("tensor")
        if isinstance(given, Tensor) and given.is_meta:
            if func in _FILLING or getattr(func, "__module__", None) == nn.init.__name__:
                return given
            scales = getattr(func, "__name__", "") in _SCALING and given.is_floating_point()
            if scales and isinstance(args[1], int | float):
                return given
        return func(*args, **(kwargs or {}))


def check_depth(network: nn.Module, limits: Limits, where: str) -> None:
    """Refuse a network with a stack of more layers than allowed."""
    longest = max(
        (len(m) for m in network.modules() if isinstance(m, nn.Sequential | nn.ModuleList)), default=0
    )
    if longest > limits.layers:
        raise RefusedError(
            f"{where}: has a stack of {longest} layers, more than {limits.layers}; do not use it"
        )


def freeze(network: nn.Module, device: torch.device, dtype: torch.dtype, channels_last: bool) -> nn.Module:
    """Put a network into evaluation mode, without gradients, on its device and in its dtype."""
    network = network.eval().requires_grad_(False).to(device=device, dtype=dtype)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    return network


def is_convolutional(network: nn.Module) -> bool:
    """Tell a ConvNet, which runs 1.3 to 1.8 times as fast channels-last, from a patch embedding."""
    return sum(isinstance(module, nn.Conv2d) for module in network.modules()) > 3


def one_line(error: Any, length: int = 200) -> str:
    """Return the first words of an error on one line, without control characters."""
    text = " ".join(str(error).split())
    return "".join(c for c in text if c.isprintable())[:length]
