"""What a reader of published heads needs to know about them: head.json and CARD.md."""

from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from platodef_cli.heads.config import FitConfig, preset_name
from platodef_cli.records import EncoderRecord, Record

WEIGHTS, CARD = "head.safetensors", "CARD.md"
FORMAT: Literal["platodef-head/1"] = "platodef-head/1"


class HeadCard(Record):
    """What a reader of a published head needs to know.

    Attributes:
        name: Name of the head.
        source: The suspect that the heads judge.
        references: The references, in the order of the heads.
        trained_on: The images, in words, with a digest where there is one.
        licence: SPDX identifier of the head's licence.
        notes: Anything else: intended use, limits, the command that made it.
    """

    name: str
    source: EncoderRecord
    references: tuple[EncoderRecord, ...]
    trained_on: str
    licence: str = "Apache-2.0"
    notes: str = ""


class HeadDescription(Record):
    """The content of head.json."""

    format: Literal["platodef-head/1"] = FORMAT
    sha256: str = Field(description="SHA-256 of head.safetensors")
    card: HeadCard
    config: dict[str, Any]
    seed: int
    reference_names: tuple[str, ...] = Field(min_length=1)
    source_dim: int = Field(gt=0, le=65536)
    reference_dims: tuple[PositiveInt, ...]
    ridge_count: int = Field(gt=0)
    rows: int = Field(ge=0)
    metrics: dict[str, float]
    clean_scores: tuple[str, ...]

    @model_validator(mode="after")
    def _one_dimension_per_name(self) -> Self:
        names = self.reference_names
        if len(names) != len(self.reference_dims) or len(set(names)) != len(names):
            raise ValueError("reference names and dimensions disagree")
        return self


def card_text(description: HeadDescription) -> str:
    """Return CARD.md of a head."""
    card, config = description.card, FitConfig.from_json(description.config)
    lines = [
        f"# {card.name}",
        "",
        "Platonic heads: they judge, and regenerate, the features of one encoder given trusted references.",
        "",
        "| role | encoder | architecture | dim | commit | digest |",
        "|---|---|---|---|---|---|",
    ]
    for role, record in [("suspect", card.source), *(("reference", entry) for entry in card.references)]:
        lines.append(
            f"| {role} | {record.uri} | {record.architecture} | {record.dim} "
            f"| {record.commit or 'local'} | {record.digest[:16]} |"
        )
    lines += [
        "",
        f"- trained on: {card.trained_on} ({description.rows} tuples, labels not used)",
        f"- preset: {preset_name(config)}, Gaussian start: {config.gaussian_start}, mode: {config.mode}, "
        f"seed {description.seed}",
        f"- weights: {WEIGHTS}, SHA-256 `{description.sha256}`",
        f"- licence: {card.licence}",
        "",
        "| held-out metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.4f} |" for name, value in sorted(description.metrics.items())),
        "",
    ]
    if card.notes:
        lines += [card.notes, ""]
    return "\n".join(lines)
