"""Everything that decides how heads are fitted, in one frozen record with presets."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.heads.backbone import BackboneConfig
from platodef_cli.heads.mismatch import MismatchConfig
from platodef_cli.heads.presets import A_PRESET, CLOSED, check_preset
from platodef_cli.heads.train import TrainConfig

Mode = Literal[
    "separate",
    "energy-from-denoiser",
    "denoiser-from-energy",
    "energy-on-denoiser",
    "denoiser-on-energy",
    "joint",
]
MODES: tuple[Mode, ...] = (
    "separate",
    "energy-from-denoiser",
    "denoiser-from-energy",
    "energy-on-denoiser",
    "denoiser-on-energy",
    "joint",
)


@dataclass(frozen=True)
class FitConfig:
    """Hyper-parameters of :func:`platodef_cli.heads.fit.fit_heads`.

    Attributes:
        backbone: Size and kind of both networks. None fits no network: the closed form is the head, and that
            is the default, because on none of the tables in ``examples/`` a trained network detects or
            purifies better than the closed form that it starts from.
        gaussian_start: Networks learn what the closed-form Gaussian leaves over. False is the paper.
        mode: How the two heads share weights (the rows of the paper's Table 3): trained separately;
            one initialised from the other's backbone (``x-from-y``); a readout on the other's frozen
            backbone (``x-on-y``); or one backbone with both losses (``joint``).
        mismatch: Negatives of the energy head.
        energy: Training of the energy head.
        denoiser: Training of the denoiser head (and of both in joint mode).
        sigma_min: Smallest noise level.
        sigma_max: Largest noise level; the one-shot purifier evaluates the denoiser there.
        reference_drop: Probability of zeroing all reference tokens of a row in denoiser training.
        subset_drop: Probability of dropping a random proper subset of the references of a row in the
            training of both heads, so that subsets can be dropped at inference.
        lift_features: Random ReLU features per reference in the closed form; 0 makes it linear.
        held_out: Share of the rows kept for early stopping and the reported metrics.
        held_out_most: Largest number of such rows.
    """

    # of the nested configurations too
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    backbone: BackboneConfig | None = None
    gaussian_start: bool = True
    mode: Mode = "separate"
    mismatch: MismatchConfig = field(default_factory=MismatchConfig)
    energy: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=4))
    denoiser: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=4))
    sigma_min: float = 0.02
    sigma_max: float = 80.0
    reference_drop: float = 0.1
    subset_drop: float = 0.1
    lift_features: int = 512
    held_out: float = 0.1
    held_out_most: int = 2000

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.mode not in MODES:
            raise UnknownNameError("training mode", self.mode, MODES)
        if self.backbone is None and self.mode != "separate":
            raise UsageError(f"mode {self.mode!r} shares weights between networks; add {A_PRESET}")
        if not 0 < self.sigma_min < self.sigma_max:
            raise UsageError(f"sigma_min {self.sigma_min} must lie between 0 and sigma_max {self.sigma_max}")
        for name in ("reference_drop", "subset_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        if not 0 <= self.lift_features <= 65536:
            raise UsageError(f"lift_features must lie between 0 and 65536, not {self.lift_features}")
        if not 0 < self.held_out < 0.5 or self.held_out_most < 1:
            raise UsageError("held_out must lie between 0 and 0.5 and held_out_most be at least 1")

    def to_json(self) -> dict[str, Any]:
        """Return JSON values from which :meth:`from_json` rebuilds the configuration."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FitConfig":
        """Build a configuration from :meth:`to_json`'s values.

        Raises:
            UsageError: An unknown key, or a value of the wrong type or range.
        """
        try:
            return TypeAdapter(cls).validate_json(json.dumps(values))
        except ValidationError as error:
            raise _explained(error) from None


def _explained(error: ValidationError) -> UsageError:
    """Return the first problem of a configuration in one line."""
    first = error.errors()[0]
    *outer, name = first["loc"] or ("",)
    kind: Any = FitConfig
    if outer:
        value = getattr(FitConfig(), str(outer[0]))
        kind = BackboneConfig if value is None else type(value)
    if first["type"] == "dataclass_type":
        holder = first["ctx"]["class_name"]
        return UsageError(f"{holder} must be a JSON object, not {type(first['input']).__name__}")
    if first["type"] == "unexpected_keyword_argument":
        names = [entry.name for entry in fields(kind)]
        return UnknownNameError(f"field of {kind.__name__}", str(name), names)
    if first["type"] in ("literal_error", "finite_number"):
        return UsageError(f"{kind.__name__}.{name} is {first['input']!r}: {first['msg']}")
    return UsageError(f"{kind.__name__}.{name} has the wrong type: {first['input']!r}")


_BACKBONES: dict[str, BackboneConfig | None] = {
    CLOSED: None,
    "tiny": BackboneConfig(width=128, depth=3, heads=4),
    "small": BackboneConfig(width=256, depth=4, heads=4),
    "medium": BackboneConfig(width=512, depth=8, heads=8),
    "paper": BackboneConfig(width=1536, depth=12, heads=12),
}


def preset(name: str, **changes: Any) -> FitConfig:
    """Return the default configuration with the networks of preset ``name``, and ``changes`` on top.

    ``closed`` has none; the others train an energy head and a denoiser of that size, as the paper does.

    Raises:
        UnknownNameError: No such preset; the message lists the choices.
    """
    return replace(FitConfig(backbone=_BACKBONES[check_preset(name)]), **changes)


def preset_name(config: FitConfig) -> str:
    """Return the preset whose backbone ``config`` uses, or ``custom``."""
    matches = [name for name, backbone in _BACKBONES.items() if backbone == config.backbone]
    return matches[0] if matches else "custom"
