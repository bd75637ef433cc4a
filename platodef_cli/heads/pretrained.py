"""Heads on disk: head.safetensors, head.json and CARD.md; strict, without pickle, hashed."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from platodef_cli.disk import explaining, write_atomically
from platodef_cli.errors import IncompleteError, RefusedError, UsageError
from platodef_cli.heads.card import CARD, WEIGHTS, HeadCard, HeadDescription, card_text
from platodef_cli.heads.closed_form import restore_closed_form
from platodef_cli.heads.config import FitConfig
from platodef_cli.heads.find import DESCRIPTION
from platodef_cli.heads.fit import new_heads
from platodef_cli.heads.heads import Heads, Standardiser
from platodef_cli.heads.ridge import Ridge
from platodef_cli.records import EncoderRecord

__all__ = [
    "Check",
    "HeadCard",
    "HeadDescription",
    "check_match",
    "load_heads",
    "read_description",
    "save_heads",
    "verify_heads",
]

LARGEST_FILE = 8 * 2**30  # bytes; the paper's preset with three references is 3.2 GB
LARGEST_DESCRIPTION = 4 * 2**20


@dataclass(frozen=True)
class Check:
    """One check of :func:`verify_heads`.

    Attributes:
        name: What was checked.
        passed: Whether it held.
        detail: One line for the user.
    """

    name: str
    passed: bool
    detail: str


def save_heads(directory: Path, heads: Heads, *, card: HeadCard) -> None:
    """Write ``heads`` into ``directory``; the same heads and card give the same bytes.

    Raises:
        UsageError: The card describes other encoders than the heads were fitted on.
        IncompleteError: The folder cannot be written.
    """
    _check_dims(heads, card.source, card.references)
    if heads.reference_names != tuple(record.name for record in card.references):
        raise UsageError("the card must list the references under the heads' names and in their order")
    payload = save(_tensors(heads))
    description = HeadDescription(
        sha256=hashlib.sha256(payload).hexdigest(),
        card=card,
        config=heads.config.to_json(),
        seed=heads.seed,
        reference_names=heads.reference_names,
        source_dim=heads.source_dim,
        reference_dims=heads.reference_dims,
        ridge_count=heads.ridge.count,
        rows=heads.rows,
        metrics=dict(heads.metrics),
        clean_scores=tuple(sorted(heads.clean_scores)),
    )
    text = json.dumps(description.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    with explaining(f"cannot write the heads to {directory}", IncompleteError):
        directory.mkdir(parents=True, exist_ok=True)
        # the description goes last: a folder without it is not a head
        for name, content in (
            (WEIGHTS, payload),
            (CARD, card_text(description).encode()),
            (DESCRIPTION, text.encode()),
        ):
            write_atomically(directory / name, content)


def read_description(directory: Path) -> HeadDescription:
    """Return the validated head.json of ``directory``.

    Raises:
        UsageError: There is no head, or the description is damaged.
    """
    path = directory / DESCRIPTION
    if not path.is_file():
        raise UsageError(
            f"{directory} holds no head ({DESCRIPTION} is missing); make one with 'platodef fit'"
        )
    if path.stat().st_size > LARGEST_DESCRIPTION:
        raise RefusedError(
            f"{path} is larger than {LARGEST_DESCRIPTION} bytes; this is not a head description"
        )
    try:
        return HeadDescription.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise UsageError(f"{path} is damaged: {where}: {first['msg']}; fetch or fit the head again") from None


def load_heads(directory: Path, *, device: str | torch.device = "cpu") -> Heads:
    """Read heads from ``directory``; every tensor must be there with its shape, finite, and nothing else.

    Raises:
        UsageError: There is no head, or one of its files is damaged.
        RefusedError: The weights are not the ones that head.json names, or contain NaN or infinity.
    """
    description = read_description(directory)
    path = directory / WEIGHTS
    if not path.is_file():
        raise UsageError(f"{path} is missing; fetch or fit the head again")
    if path.stat().st_size > LARGEST_FILE:
        raise RefusedError(f"{path} is larger than {LARGEST_FILE} bytes")
    payload = path.read_bytes()
    if hashlib.sha256(payload).hexdigest() != description.sha256:
        raise RefusedError(f"{path} is not the file that {DESCRIPTION} describes (SHA-256 differs)")
    try:
        tensors = load(payload)
    except SafetensorError as error:
        raise UsageError(f"{path} is damaged: {error}; fetch or fit the head again") from None
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise RefusedError(f"{path}: tensor {name!r} contains NaN or infinity")
    return _build(description, tensors, path, torch.device(device))


def verify_heads(directory: Path) -> list[Check]:
    """Check a head folder without trusting it: files, hashes, structure, and the recomputable metrics."""
    checks = []
    try:
        description = read_description(directory)
        checks.append(Check("description", True, f"{DESCRIPTION} is valid, format {description.format}"))
        expected = card_text(description)
        card = directory / CARD
        same = card.is_file() and card.read_text(encoding="utf-8", errors="replace") == expected
        detail = (
            f"{CARD} matches {DESCRIPTION}" if same else f"{CARD} is missing or differs from {DESCRIPTION}"
        )
        checks.append(Check("card", same, detail))
        heads = load_heads(directory)
        checks.append(Check("weights", True, f"SHA-256 {description.sha256[:12]}, every tensor in place"))
        checks.append(_recompute(heads))
    except (UsageError, RefusedError) as error:
        checks.append(Check("weights" if checks else "description", False, str(error)))
    return checks


def check_match(heads: Heads, source: EncoderRecord, references: Sequence[EncoderRecord]) -> None:
    """Refuse heads that were fitted for other encoders.

    Args:
        heads: The heads; without a card (never saved) only names and dimensions are known.
        source: The suspect at hand.
        references: The references at hand, in any order.

    Raises:
        UsageError: A name, digest, dimension or preprocessing differs; the message names the difference.
    """
    at_hand = {record.name: record for record in references}
    missing = [name for name in heads.reference_names if name not in at_hand]
    if missing:
        have = ", ".join(at_hand) or "none"
        raise UsageError(
            f"the head was fitted with reference {missing[0]!r}; the references here are: {have}"
        )
    expected = heads.card
    if expected is None:
        _check_dims(heads, source, [at_hand[name] for name in heads.reference_names])
        return
    _check_encoder("suspect", expected.source, source)
    for name, record in zip(heads.reference_names, expected.references, strict=True):
        _check_encoder(f"reference {name!r}", record, at_hand[name])


def _check_encoder(role: str, expected: EncoderRecord, found: EncoderRecord) -> None:
    pairs = (
        ("dimension", expected.dim, found.dim),
        ("weights digest", expected.digest, found.digest),
        ("preprocessing", expected.transform.model_dump(), found.transform.model_dump()),
        ("pooling", expected.pooling, found.pooling),
    )
    for what, wanted, have in pairs:
        if wanted != have:
            raise UsageError(
                f"the head was fitted for another {role}: its {what} is {wanted}, here it is {have}; "
                "fit a new head"
            )


def _check_dims(heads: Heads, source: EncoderRecord, references: Sequence[EncoderRecord]) -> None:
    expected = [heads.source_dim, *heads.reference_dims]
    found = [source.dim, *(record.dim for record in references)]
    if expected != found:
        raise UsageError(f"these encoders have dimensions {found}, the heads were fitted on {expected}")


def _tensors(heads: Heads) -> dict[str, Tensor]:
    """Return everything that is stored, by name; shared tensors are stored twice."""
    tensors = {
        "source.mean": heads.source_standardiser.mean,
        "source.std": heads.source_standardiser.std,
        "ridge.reference_moment": heads.ridge.reference_moment,
        "ridge.cross_moment": heads.ridge.cross_moment,
        "ridge.source_moment": heads.ridge.source_moment,
    }
    for number, entry in enumerate(heads.reference_standardisers):
        tensors |= {f"reference.{number}.mean": entry.mean, f"reference.{number}.std": entry.std}
    tensors |= {f"closed_form.{name}": value for name, value in heads.closed_form.tensors().items()}
    for part, module in _networks(heads):
        tensors |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"clean_scores.{name}": values for name, values in heads.clean_scores.items()}
    return {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}


def _networks(heads: Heads) -> list[tuple[str, nn.Module]]:
    """Return the networks of heads by the prefix of their stored tensors; none of closed forms."""
    pairs = (("energy", heads.energy), ("denoiser", heads.denoiser))
    return [(part, module) for part, module in pairs if module is not None]


def _build(
    description: HeadDescription, tensors: dict[str, Tensor], path: Path, device: torch.device
) -> Heads:
    config = FitConfig.from_json(description.config)
    names, dims = description.reference_names, description.reference_dims
    size, total = description.source_dim, sum(dims)

    def take(name: str, *shape: int) -> Tensor:
        value = tensors.pop(name, None)
        if value is None or (shape and tuple(value.shape) != shape) or not value.is_floating_point():
            state = "missing" if value is None else f"of shape {tuple(value.shape)}, expected {shape}"
            raise UsageError(f"{path}: tensor {name!r} is {state}; fetch or fit the head again")
        return value

    source = Standardiser(take("source.mean", size), take("source.std", size))
    references = tuple(
        Standardiser(take(f"reference.{n}.mean", dim), take(f"reference.{n}.std", dim))
        for n, dim in enumerate(dims)
    )
    ridge = Ridge(
        tuple(dims),
        take("ridge.reference_moment", total, total),
        take("ridge.cross_moment", total, size),
        take("ridge.source_moment", size, size),
        description.ridge_count,
    )
    prefix = "closed_form."
    stored = {
        name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)
    }
    try:
        closed_form = restore_closed_form(stored, dims, size, config.lift_features)
    except UsageError as error:
        raise UsageError(f"{path}: {error}; fetch or fit the head again") from None
    # a stored head has two full sets of weights, also where training shared them
    separate = replace(config, mode="separate")
    heads = new_heads(separate, description.seed, names, source, references, ridge, closed_form, device)
    for part, module in _networks(heads):
        own = {name: take(f"{part}.{name}", *value.shape) for name, value in module.state_dict().items()}
        module.load_state_dict(own)
    scores = {name: take(f"clean_scores.{name}").double() for name in description.clean_scores}
    if tensors:
        raise UsageError(f"{path}: unexpected tensor {min(tensors)!r}; fetch or fit the head again")
    return replace(
        heads,
        config=config,
        metrics=description.metrics,
        clean_scores=scores,
        rows=description.rows,
        card=description.card,
    )


def _recompute(heads: Heads) -> Check:
    """Recompute the metric that the stored statistics determine: the Gaussian mutual information."""
    stored = heads.metrics.get("gaussian_mutual_information")
    found = heads.ridge.mutual_information()
    passed = stored is not None and abs(found - stored) <= 1e-3 * max(1.0, abs(found))
    return Check("metric", passed, f"Gaussian mutual information {found:.4f} nats, stored {stored}")
