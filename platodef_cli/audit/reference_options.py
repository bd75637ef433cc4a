"""Options of an audit about heads, the suspect's base, and references: sentences, planted backdoors."""

from collections.abc import Sequence
from dataclasses import dataclass

from platodef_cli.audit.option import option
from platodef_cli.defences import DETECTORS, PURIFIERS
from platodef_cli.errors import UsageError
from platodef_cli.heads.presets import A_PRESET, CLOSED, PRESETS, check_preset
from platodef_cli.texts.names import check_captions, check_templates


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions:
    """The part of :class:`~platodef_cli.audit.config.AuditConfig` about heads, base and references."""

    base: str | None = option(
        None,
        "What MODEL was made from: a control that nobody trusts, which shows what drifted.",
        "Models",
        metavar="ID[@SHA]",
        completion="encoders",
    )
    preset: str = option(
        CLOSED,
        lambda: (
            f"How heads are fitted: {CLOSED} (closed forms, no network), or networks of size "
            f"{', '.join(PRESETS[1:])}."
        ),
        "Result",
        check=check_preset,
    )
    captions: str | None = option(
        None,
        "Sentences of text references (-r text:ID): column, templates (of class names), or a .parquet file "
        "of `platodef caption`. Default: a column where there is one.",
        "Images",
        metavar="HOW",
        check=check_captions,
    )
    caption_column: str | None = option(
        None, "Column of the captions in a table. Default: a usual name (caption, text).", "Images"
    )
    templates: str = option(
        "clip-80",
        "Sentences of a class: clip-80 or clip-7 (CLIP's), or photo.",
        "Images",
        check=check_templates,
    )
    captioner: str | None = option(
        None,
        "Model that writes the captions of text references; trusted like a reference.",
        "Models",
        metavar="ID[@SHA]",
    )
    recaption: bool = option(
        False,
        "Make the captions of changed images again from their pixels; else that of the clean image stays.",
        "Images",
        "--recaption",
    )
    positive_controls: bool = option(
        False,
        "Plant backdoors into the references and say which of them the searches find: many more searches.",
        "Result",
        "--positive-controls",
    )


def check_controls(positive_controls: bool, budget: str | None) -> None:
    """Refuse positive controls within a time budget, which would leave out nearly everything for them.

    Raises:
        UsageError: Both are asked for.
    """
    if positive_controls and budget is not None:
        raise UsageError(
            "--positive-controls makes dozens of searches of every kind, which --budget cannot shorten; give "
            "one of them (--plan says how long an audit with positive controls takes)"
        )


def check_networks(detectors: Sequence[str], purifier: str) -> None:
    """Refuse detectors and a purifier that need trained networks, for heads that have none.

    Raises:
        UsageError: The first of them.
    """
    asked = [(DETECTORS, name) for name in detectors if name in DETECTORS]
    for table, name in [*asked, (PURIFIERS, purifier)]:
        if getattr(table.load(name), "networks", False):
            raise UsageError(
                f"{table.kind} {name!r} needs heads with trained networks; add {A_PRESET} "
                "(or --head with such heads)"
            )
