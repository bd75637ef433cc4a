"""What an audit is asked to do: every option is stated here, for the command line and for the Python API."""

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from platodef_cli.audit.duration import check_duration
from platodef_cli.audit.option import Option, option
from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.reference_options import ReferenceOptions, check_controls, check_networks
from platodef_cli.defences import DEFAULT_DETECTOR, DEFAULT_PURIFIER, DETECTORS, ENCODER_DETECTORS, PURIFIERS
from platodef_cli.encoders.pooling import check_poolings
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.heads.presets import CLOSED
from platodef_cli.registry import check_plugins
from platodef_cli.search import SEARCH_KINDS
from platodef_cli.texts.names import check_references, check_sentences
from platodef_cli.triggers import CONTROLS, TRIGGERS

PROBE_IMAGES = 400
Precision = Literal["auto", "float32", "bfloat16"]
NONE = "none"
"""Stands for no value of an option that takes several between commas."""
DEFAULT_DETECTORS = ("gaussian", "ridge", DEFAULT_DETECTOR)
_LATER = (
    *("plugins", "pooling", "follow_links", "sample", "searches", "budget"),
    *(entry.name for entry in fields(ReferenceOptions)),
)
"""Fields that reports of earlier versions lack, so that they are named only where they are used."""
_UNSAID = ((), False, None, CLOSED, "clip-80")
_DEVICE = re.compile(r"^(cpu|cuda(:\d+)?|mps)$")


def check_device(value: str) -> str:
    """Return the name of a device.

    Raises:
        UsageError: It is none.
    """
    if not _DEVICE.match(value):
        raise UsageError(f"unknown device {value!r}; choose cpu, cuda, cuda:N or mps")
    return value


def check_rate(value: float) -> float:
    """Return a false positive rate.

    Raises:
        UsageError: It is 0, 1 or beyond.
    """
    if not 0 < value < 1:
        raise UsageError(f"a false positive rate lies strictly between 0 and 1, got {value}")
    return value


def _check_detectors(values: Sequence[str]) -> None:
    choices = (*DETECTORS.names(), *ENCODER_DETECTORS.names())
    for name in values:
        if name not in choices:
            raise UnknownNameError(DETECTORS.kind, name, choices)


@dataclass(frozen=True)
class AuditConfig(ReferenceOptions):
    """Everything that an audit depends on.

    Every field with an :class:`Option` is an option of ``platodef audit`` and a keyword of
    :func:`platodef_cli.audit`; the help of the option says what it means. Paths are kept as text.

    Attributes:
        policy: Limits of the verdict, or a TOML file of them; on the command line ``--policy``, ``--set`` and
            ``--fail-if``.

    Raises:
        UsageError: A value is out of range, or the policy cannot be read.
        UnknownNameError: There is no such detector, purifier, plug-in, battery or precision.
    """

    model: str | Path = field(
        metadata={
            "option": Option(
                "Folder, org/name[@revision], s3://, gs://, models:/name/version or builtin:NAME.",
                metavar="MODEL",
                completion="encoders",
                argument=True,
            )
        }
    )
    _: KW_ONLY
    revision: str | None = option(
        None,
        "Commit, branch or tag of MODEL; resolved once to a commit. Not together with MODEL@REVISION.",
        "Models",
    )
    references: Sequence[str | Path] = option(
        (),
        "A trusted encoder; repeat it. Default: DINOv2 and SigLIP2, pinned.",
        "Models",
        "--reference",
        "-r",
        metavar="ID[@SHA]",
        completion="encoders",
        several=True,
    )
    pooling: Sequence[str] = option(
        (),
        "How MODEL's tokens become one feature, where it does not say: auto, mean, class, or last (of a "
        "Qwen-VL as VLM2Vec uses it); ID=mean for a reference.",
        "Models",
        "--pooling",
        metavar="[ID=]HOW",
        check=check_poolings,
        several=True,
    )
    follow_links: bool = option(
        False,
        "Follow links of model folders to files elsewhere (DVC, Nix); their bytes are checked as any.",
        "Models",
        "--follow-links",
    )
    images: str | Path | None = option(
        None,
        "Folder, FILE.parquet, hf://datasets/NAME@REVISION or builtin:shapes.",
        "Images",
        "--images",
        "-i",
        metavar="SOURCE",
        completion="images",
    )
    image_column: str | None = option(
        None, "Column of the images in a table. Default: a usual name (image, img, jpg).", "Images"
    )
    label_column: str | None = option(
        None, "Column of the labels in a table. Default: a usual name (label, fine_label, cls).", "Images"
    )
    use_labels: bool = option(
        True, "Take the images without labels.", "Images", "--no-labels", switches_off=True
    )
    limit: int | None = option(None, "Use at most this many images, drawn with --seed.", "Images", low=1)
    sample: int | None = option(
        None, "Audit with this many images, drawn with --seed; not a trial run as --limit.", "Images", low=1
    )
    seed: int = option(0, "Seed of every random choice.", low=0, high=2**31 - 1)
    head: str | Path | None = option(
        None,
        "Heads to use instead of fitting new ones.",
        "Models",
        metavar="NAME|DIR",
        completion="heads",
    )
    cache_dir: Path | None = option(
        None,
        "Feature and model cache. Default: the user's cache folder.",
        variable="PLATODEF_CACHE_DIR",
        folder=True,
    )
    use_cache: bool = option(
        True, "Neither read nor write cached features.", "Running", "--no-cache", switches_off=True
    )
    offline: bool = option(False, "Never use the network (also: HF_HUB_OFFLINE).", "Running", "--offline")
    device: str = option("cpu", "cpu, cuda, cuda:N or mps.", check=check_device)
    dtype: Literal["float32", "bfloat16"] = option("float32", "Precision of the encoders.")
    precision: Precision = option(
        "auto",
        "Precision of forward passes; auto: bfloat16 where it is measured to be faster and to give the same.",
    )
    search_precision: Precision = option(
        "auto",
        "Precision of the search's gradients; auto: bfloat16 where the processor is built for it.",
        "Running",
    )
    search_controls: Literal["needed", "all"] = option(
        "needed",
        "Search the references too where the suspect gives cause for it, or always.",
        "Result",
    )
    searches: Sequence[str] = option(
        (),
        "Kinds of search, between commas or repeated; others are not examined. Default: all but pairs.",
        "Result",
        "--search",
        "--searches",
        metavar="A,B",
        check=lambda names: [SEARCH_KINDS.check(name) for name in names],
        several=True,
        commas=True,
    )
    budget: str | None = option(
        None,
        "Time to fit into (45s, 30m, 2h): chooses images, battery and searches, and says what is left out.",
        metavar="TIME",
        check=check_duration,
    )
    batch_size: int = option(
        64, "Most images at once, in forward passes and in the search.", low=1, high=65536
    )
    memory_limit_gb: float = option(
        8.0,
        "Memory for each encoder; images at once follow from it, and the suspect's process is held to it.",
        "Running",
        "--memory-limit",
        metavar="GB",
        low=0.5,
    )
    time_limit_s: float | None = option(
        None, "Limit for the suspect's process.", "Running", "--time-limit", metavar="SECONDS", low=1.0
    )
    require_isolation: bool = option(
        False,
        "Load nothing of the suspect where its process cannot be isolated completely (then 3).",
        "Running",
        "--require-isolation",
    )
    false_positive_rate: float = option(
        0.05,
        "False alarms that the thresholds are calibrated to.",
        "Result",
        "--fpr",
        metavar="RATE",
        check=check_rate,
    )
    detectors: Sequence[str] = option(
        (),
        lambda: (
            "Detectors to compare, between commas or repeated: "
            f"{', '.join((*DETECTORS.names(), *ENCODER_DETECTORS.names()))}."
        ),
        "Result",
        "--detector",
        "--detectors",
        metavar="A,B",
        check=_check_detectors,
        completion="detectors",
        several=True,
        commas=True,
    )
    purifier: str = option(
        DEFAULT_PURIFIER,
        lambda: f"One of {', '.join(PURIFIERS.names())}.",
        "Result",
        check=PURIFIERS.check,
        completion="purifiers",
    )
    max_broken_share: float = option(
        0.05,
        "Tolerated share of unusable images.",
        "Images",
        "--max-broken",
        metavar="SHARE",
        low=0.0,
        high=1.0,
    )
    battery: Literal["standard", "quick"] = option("standard", "Triggers and controls to try.", "Result")
    probe_images: int = option(PROBE_IMAGES, "Test images for every trigger.", "Result", metavar="N", low=20)
    plugins: Sequence[str] = option(
        (),
        "Triggers, controls and kinds of search of installed plug-ins to use as well.",
        "Result",
        "--plugin",
        metavar="NAME",
        check=lambda names: check_plugins(names, TRIGGERS, CONTROLS, SEARCH_KINDS),
        several=True,
        commas=True,
    )
    policy: Policy | str | Path | None = None

    def __post_init__(self) -> None:
        _normalise(self)
        types = get_type_hints(AuditConfig)
        for entry in fields(AuditConfig):
            if entry.metadata:
                _check(entry.name, getattr(self, entry.name), types[entry.name], entry.metadata["option"])
        references = [str(reference) for reference in self.references]
        check_references(references)
        check_controls(self.positive_controls, self.budget)
        check_sentences(references, self.captions, self.captioner, self.recaption)
        if self.head is None and self.preset == CLOSED:
            check_networks(self.detectors, self.purifier)
        elif self.head is not None and self.preset != CLOSED:
            raise UsageError("--preset says how heads are fitted, --head gives fitted ones; give one of them")
        # the limits of kinds of search that plug-ins add come with the kinds
        kinds = [name for name in self.plugins if name in SEARCH_KINDS.plugins()]
        object.__setattr__(self, "policy", self.limits.with_kinds(kinds))

    @property
    def limits(self) -> Policy:
        """The policy."""
        assert isinstance(self.policy, Policy)
        return self.policy

    @property
    def sample_detectors(self) -> tuple[str, ...]:
        """Per-sample detectors to report; the deciding one is reported always."""
        return tuple(name for name in self.detectors if name in DETECTORS) or DEFAULT_DETECTORS

    @property
    def encoder_detectors(self) -> tuple[str, ...]:
        """Encoder-level detectors to report, on the suspect and on the references."""
        return tuple(name for name in self.detectors if name in ENCODER_DETECTORS)

    def to_json(self) -> dict[str, float | int | str | bool | None | tuple[str, ...]]:
        """Return what changes the result, for the report (paths of caches do not)."""
        values: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if name in ("cache_dir", "use_cache", "policy") or (name in _LATER and value in _UNSAID):
                continue
            if name == "detectors":
                values |= {"detectors": self.sample_detectors, "encoder_detectors": self.encoder_detectors}
            else:
                values[name] = value
        return values


def _normalise(config: AuditConfig) -> None:
    """Turn paths into text, what may be given several times into tuples, and a policy file into a policy."""
    for entry in fields(AuditConfig):
        value = getattr(config, entry.name)
        option: Option | None = entry.metadata.get("option")
        if option is None or option.folder:
            continue
        if option.several:
            words = [str(word) for word in ([value] if isinstance(value, str | Path) else value)]
            if option.commas:
                parts = (part.strip() for word in words for part in word.split(","))
                words = list(dict.fromkeys(part for part in parts if part))
                words = [] if words == [NONE] else words
            object.__setattr__(config, entry.name, tuple(words))
        elif isinstance(value, Path):
            object.__setattr__(config, entry.name, str(value))
    policy = config.policy or Policy()
    if not isinstance(policy, Policy):
        from platodef_cli.audit.policy.sources import policy_of

        policy = policy_of(Path(policy))
    object.__setattr__(config, "policy", policy)


def _check(name: str, value: Any, kind: Any, option: Option) -> None:
    """Raise unless a value is one that the command line would take."""
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise UnknownNameError(name, str(value), get_args(kind))
    # "not at least", so that NaN is refused
    if value is not None and option.low is not None and not value >= option.low:
        raise UsageError(f"{name} is {value}; give a number of at least {option.low:g}")
    if value is not None and option.high is not None and not value <= option.high:
        raise UsageError(f"{name} is {value}; give a number of at most {option.high:g}")
    if option.check is not None:
        option.check(value)
