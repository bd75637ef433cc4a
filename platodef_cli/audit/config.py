"""What an audit is asked to do."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.errors import UsageError

DEFAULT_DETECTOR = "platonic"
PROBE_IMAGES = 400


@dataclass(frozen=True)
class AuditConfig:
    """Everything that an audit depends on.

    Attributes:
        model: The suspect: folder, ``org/name[@revision]``, ``hf://org/name[@revision]``, ``builtin:NAME``.
        revision: Branch, tag or commit of the suspect.
        references: Trusted encoders; empty takes the defaults (the embedded ones for ``builtin:`` models).
        images: Image source; may be left out for ``builtin:`` models only.
        limit: Use a random part of the images only; the answer is then inconclusive at best.
        seed: Draws splits, negatives, starts.
        head: Folder of fitted heads, or None to fit (or take from the cache).
        cache_dir: Feature cache; None takes the user's.
        use_cache: Read and write the cache.
        offline: Never use the network.
        device: ``cpu``, ``cuda``.
        dtype: ``float32`` or ``bfloat16`` inside the encoders.
        batch_size: Images per call of an encoder.
        memory_limit_gb: Memory of the suspect's child process.
        time_limit_s: Longest time of one call of the suspect.
        false_positive_rate: What the conformal threshold guarantees on clean images.
        detectors: Detectors to report; the deciding one is always among them.
        encoder_detectors: Encoder-level detectors to report, on the suspect and on the references.
        purifier: Purifier of the purification table.
        max_broken_share: Largest share of unusable images.
        battery: ``standard`` or ``quick``.
        probe_images: Test images that every trigger and control is tried on.
        policy: Limits of the verdict.
    """

    model: str
    revision: str | None = None
    references: tuple[str, ...] = ()
    images: str | None = None
    limit: int | None = None
    seed: int = 0
    head: str | None = None
    cache_dir: Path | None = None
    use_cache: bool = True
    offline: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 64
    memory_limit_gb: float = 8.0
    time_limit_s: float | None = None
    false_positive_rate: float = 0.05
    detectors: tuple[str, ...] = ("energy", "ridge", DEFAULT_DETECTOR)
    encoder_detectors: tuple[str, ...] = ()
    purifier: str = "mean"
    max_broken_share: float = 0.05
    battery: str = "standard"
    probe_images: int = PROBE_IMAGES
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        if not 0 < self.false_positive_rate < 1:
            raise UsageError(
                f"the false positive rate is {self.false_positive_rate}; give a number between 0 and 1"
            )
        if self.seed < 0:
            raise UsageError(f"the seed is {self.seed}; give a whole number from 0 on")
        if self.probe_images < 20:
            raise UsageError(f"{self.probe_images} probe images are too few; give at least 20")

    def to_json(self) -> dict[str, float | int | str | bool | None | tuple[str, ...]]:
        """Return what changes the result, for the report (paths of caches do not)."""
        values = asdict(self)
        for name in ("cache_dir", "use_cache", "policy"):
            del values[name]
        return values
