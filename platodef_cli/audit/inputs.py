"""Opens what an audit works on: the suspect in its child process, the references, the images, the heads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from platodef_cli.attestation.publisher import check_signature, refuse_unsigned
from platodef_cli.audit.base import confined, open_base
from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.enough import check_count
from platodef_cli.audit.free_memory import check_room
from platodef_cli.audit.precision import choose_precision
from platodef_cli.encoders.bounded import bounded
from platodef_cli.encoders.checks.card import read_card
from platodef_cli.encoders.checks.preflight import Preflight
from platodef_cli.encoders.interface import Encoder
from platodef_cli.encoders.load import open_encoder
from platodef_cli.encoders.pooling import poolings_of
from platodef_cli.encoders.precision import gradient_dtype
from platodef_cli.encoders.reference import DEFAULT_REFERENCES, parse
from platodef_cli.encoders.resolve import examine, resolve
from platodef_cli.errors import UsageError
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.text_references import TextOptions, TextReferences, open_text_references
from platodef_cli.heads.find import find_heads
from platodef_cli.images.columns import Columns
from platodef_cli.images.interface import ImageSource
from platodef_cli.images.open import open_source
from platodef_cli.progress import Progress
from platodef_cli.records import CardRecord, EncoderRecord, SignatureRecord
from platodef_cli.resources import data_dir
from platodef_cli.texts.names import PREFIX, is_text
from platodef_cli.triggers.battery import battery

BUILTIN = "builtin:"
BUILTIN_REFERENCES = ("builtin:reference-vit", "builtin:reference-cnx")
BUILTIN_IMAGES = "builtin:shapes?seed=1&count=3000"
_SPLIT = {"fit": 0.5, "calibration": 0.2}  # the rest tests


@dataclass(frozen=True)
class Inputs:
    """What an audit works on.

    Attributes:
        suspect: The audited encoder.
        checked: What the static checks said about it.
        references: Name -> trusted encoder.
        images: The clean images.
        head: Folder of ready heads, or None.
        signature: What the publisher signed.
        card: What the model card says.
        precisions: Encoder -> why it is not run in bfloat16 where the processor is built for that.
        texts: The text references, or None; they are no part of ``references``.
        base: What the suspect was made from, as the user says, or None; it judges nothing.
    """

    suspect: Encoder
    checked: Preflight
    references: dict[str, Encoder]
    images: ImageSource
    head: Path | None
    signature: SignatureRecord
    precisions: Mapping[str, str] = field(default_factory=dict)
    card: CardRecord | None = None
    texts: TextReferences | None = None
    base: Encoder | None = None

    @property
    def reference_records(self) -> dict[str, EncoderRecord]:
        """Name -> record of all references, visual ones first."""
        towers = {} if self.texts is None else self.texts.towers
        return {name: encoder.record for name, encoder in (self.references | dict(towers)).items()}

    @property
    def encoders(self) -> dict[str, Encoder]:
        """The suspect and the references by name."""
        return {self.suspect.record.name: self.suspect, **self.references}

    @property
    def planned(self) -> dict[str, Encoder]:
        """All that images go through: the encoders, and the base that was given, under names of their own."""
        if self.base is None:
            return self.encoders
        return {**self.encoders, _free_name(self.base.record.name, self.encoders, "2"): self.base}


@dataclass(frozen=True)
class Split:
    """Rows of the source that fit, calibrate and test; a row has one role only."""

    fit: tuple[int, ...]
    calibration: tuple[int, ...]
    test: tuple[int, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """All of them, ascending."""
        return tuple(sorted((*self.fit, *self.calibration, *self.test)))


@contextmanager
def open_inputs(
    config: AuditConfig,
    progress: Progress,
    listed: Callable[[ImageSource], None] = lambda images: None,
    cache: FeatureCache | None = None,
) -> Iterator[Inputs]:
    """Open everything, cheapest refusals first: nothing is loaded before the suspect's files are checked.

    Encoders take no more images at once than ``--batch-size`` and ``--memory-limit`` allow.

    Args:
        config: What to open.
        progress: Receives steps and warnings.
        listed: Told of the images before anything is loaded.
        cache: Keeps captions and which precision was chosen, or None.

    Raises:
        InconclusiveError: There are too few images.
        OutOfMemoryError: An encoder does not fit into the memory limit with one image.
        PlatodefError: Any of the inputs is wrong, unsafe or out of reach.
    """
    model = str(config.model)
    target = parse(model, config.revision)
    embedded = model.startswith(BUILTIN)
    references = tuple(map(str, config.references)) or (
        BUILTIN_REFERENCES if embedded else DEFAULT_REFERENCES
    )
    written = [uri for uri in references if is_text(uri)]
    references = tuple(uri for uri in references if not is_text(uri))
    images = BUILTIN_IMAGES if config.images is None and embedded else config.images
    poolings = poolings_of(config.pooling, model, references)
    if images is None:
        raise UsageError(
            "no images: give --images FOLDER, FILE.parquet or hf://datasets/org/name; a few thousand "
            "unlabelled images of the kind that the encoder will see are enough"
        )
    source = open_source(
        str(images),
        limit=config.limit,
        seed=config.seed,
        offline=config.offline,
        columns=Columns(
            config.image_column, config.label_column, config.use_labels, config.caption_column, bool(written)
        ),
        warn=progress.warn,
    )
    listed(source)
    head = _head(config, embedded, target.short_name)
    roles = split(len(source.refs), config.seed, config.sample)
    counts = [len(roles.fit), len(roles.calibration), len(roles.test)]
    if target.directory is None:
        check_count(counts, config, ready_heads=head is not None)  # before minutes of downloading
    resolved = resolve(target, offline=config.offline, progress=progress)
    checked = examine(resolved, follow_links=config.follow_links)
    signature = check_signature(
        resolved.directory,
        checked.files,
        config.limits.trusted_signers,
        follow_links=config.follow_links and resolved.commit is None,
        listing=resolved.listing,
    )
    refuse_unsigned(
        signature, required=config.limits.require_signature, trusted=config.limits.trusted_signers
    )
    check_count(counts, config, ready_heads=head is not None)
    with ExitStack() as stack:
        opened: dict[str, Encoder] = {}
        with progress.step("opening encoders", len(references) + 1) as task:
            for uri in references:
                name = _free_name(parse(uri).short_name, opened, "2")
                encoder = open_encoder(
                    uri,
                    name=name,
                    offline=config.offline,
                    device=config.device,
                    dtype=config.dtype,
                    pooling=poolings[uri],
                    follow_links=config.follow_links,
                    progress=progress,
                )
                stack.callback(encoder.close)
                twin = _same(encoder, opened)
                if twin:
                    raise UsageError(
                        f"reference {uri} is the same encoder as reference {twin!r}; "
                        "give different references"
                    )
                opened[name] = encoder
                check_room(len(opened), len(references) + 1)
                task.advance()
            suspect = open_encoder(
                # the commit that was checked, whatever the branch says by now
                target.at(resolved.commit) if resolved.commit else resolved.uri if target.store else model,
                name=_free_name(target.short_name, opened, "suspect"),
                **confined(config),
                pooling=poolings[model],
                examined=(resolved, checked),
                progress=progress,
            )
            task.advance()
        stack.callback(suspect.close)
        twin = _same(suspect, opened)
        if twin:
            raise UsageError(f"the suspect is the same encoder as reference {twin!r}; it cannot judge itself")
        base = open_base(config, suspect, stack, progress)
        precisions: dict[str, str] = {}
        with progress.step("choosing precision", len(opened) + 1) as task:
            for encoder in (suspect, *opened.values()):
                encoder.tune(gradient_dtype=gradient_precision(config, encoder))
                changes = battery(config.battery, config.plugins) if encoder is suspect else ()
                precisions[encoder.record.name] = choose_precision(
                    encoder,
                    config.precision,
                    device=config.device,
                    dtype=config.dtype,
                    source=source,
                    rows=roles.fit,
                    variants=[item.variant for item in changes],
                    cache=cache,
                    warn=progress.warn,
                )
                task.advance()
        with progress.step("measuring memory per image", len(opened) + 1) as task:
            bounds: dict[str, Any] = {
                "limit_gb": config.memory_limit_gb,
                "most": config.batch_size,
                "warn": progress.warn,
            }
            judged = bounded(suspect, **bounds)
            task.advance()
            trusted: dict[str, Encoder] = {}
            for name, encoder in opened.items():
                trusted[name] = bounded(encoder, **bounds)
                task.advance()
        card = read_card(resolved.directory, follow_links=config.follow_links and resolved.commit is None)
        texts = _texts(config, written, trusted, source, cache, progress)
        if texts is not None:
            progress.warn(texts.trust)
        yield Inputs(judged, checked, trusted, source, head, signature, precisions, card, texts, base)


def _texts(
    config: AuditConfig,
    uris: Sequence[str],
    others: Mapping[str, Encoder],
    source: ImageSource,
    cache: FeatureCache | None,
    progress: Progress,
) -> TextReferences | None:
    """Open the text references, under names of their own."""
    names: dict[str, str] = {}
    for uri in uris:
        name = parse(uri.removeprefix(PREFIX)).short_name + "-text"
        names[_free_name(name, {**others, **names}, "2")] = uri
    options = TextOptions(config.captions, config.templates, config.captioner, config.recaption)
    return open_text_references(
        names,
        source,
        options,
        offline=config.offline,
        device=config.device,
        dtype=config.dtype,
        cache=cache,
        progress=progress,
    )


def gradient_precision(config: AuditConfig, encoder: Encoder) -> str:
    """Return the precision of an encoder's gradients: ``float32`` or ``bfloat16``."""
    return gradient_dtype(config.search_precision, config.device, config.dtype, encoder.geometry)


def split(count: int, seed: int, sample: int | None = None) -> Split:
    """Draw the roles of ``count`` images: half fit, a fifth calibrate, the rest test.

    Args:
        count: Images of the source.
        seed: Of the order.
        sample: Take so many of them, at most.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()[:sample]
    first = int(len(order) * _SPLIT["fit"])
    second = first + int(len(order) * _SPLIT["calibration"])
    return Split(tuple(order[:first]), tuple(order[first:second]), tuple(order[second:]))


def _free_name(name: str, taken: Mapping[str, object], suffix: str) -> str:
    """Return a name of its own for an encoder: two publishers may call theirs the same."""
    while name in taken:
        name = f"{name}-{suffix}"
    return name


def _same(encoder: Encoder, others: dict[str, Encoder]) -> str | None:
    """Return the name of an encoder with the same files."""
    return next((name for name, o in others.items() if o.record.digest == encoder.record.digest), None)


def _head(config: AuditConfig, embedded: bool, name: str) -> Path | None:
    if config.head is not None:
        return find_heads(str(config.head))
    if embedded and not config.references and config.images is None:
        ready = data_dir("pretrained_heads") / f"builtin-{name}"
        return ready if ready.is_dir() else None
    return None
