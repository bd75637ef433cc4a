"""The guard: features or images in; cleaned features, p-values and flags out."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from platodef_cli.defences import DEFAULT_DETECTOR, DEFAULT_PURIFIER, make_purifier, purify_flagged
from platodef_cli.defences.alarm import Alarm, calibrated
from platodef_cli.defences.calibrate import conformal_pvalues
from platodef_cli.defences.interface import Purifier, PurifyOptions
from platodef_cli.errors import UsageError
from platodef_cli.features.file import load_features
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.features.shard import tensor_bytes
from platodef_cli.guard.encoders import GuardEncoders, Picture
from platodef_cli.guard.monitor import Drift, DriftMonitor
from platodef_cli.heads.find import find_heads
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.pretrained import load_heads

NOT_RANDOM = ("mean", "gaussian", "ridge")
"""Purifiers without random choices, which take all flagged rows at once."""
SOURCE = "source"


class Guarded(NamedTuple):
    """What a guard gives for B images.

    Attributes:
        features: float32 ``[B, D_s]``: the suspect's features, flagged rows replaced by what the references
            say.
        p_values: float64 ``[B]``, conformal: at most the stated rate where flagged.
        flagged: bool ``[B]``.
    """

    features: Tensor
    p_values: Tensor
    flagged: Tensor


class Guard(nn.Module):
    """Wraps a suspect and its references: every feature is scored, and replaced where it is suspicious.

    It may be called from several threads. What is computed for a row does not depend on the rows beside it
    (but for rounding). A guard never trains, and stays on the device and in the precision in which its
    threshold was calibrated, whatever a module around it does. Use :meth:`load`.

    Args:
        heads: Fitted heads.
        alarm: Detector and threshold.
        purifier: Replaces flagged rows.
        random: The purifier draws random numbers.
        seed: Of the purifier.
        error: Probability that the monitor raises an alarm, ever, while only clean images come.
        encoders: Opened encoders; None opens those on the card of the heads when the first image comes.
        opening: Options for that, see :meth:`GuardEncoders.open`.
    """

    def __init__(
        self,
        heads: Heads,
        alarm: Alarm,
        purifier: Purifier,
        *,
        random: bool,
        seed: int = 0,
        error: float = 0.01,
        encoders: GuardEncoders | None = None,
        opening: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.energy, self.denoiser = heads.energy, heads.denoiser
        self.requires_grad_(False)
        self._heads, self._alarm, self._purifier = heads, alarm, purifier
        self._random, self._seed = random, seed
        self._encoders, self._opening = encoders, dict(opening or {})
        self._lock = threading.Lock()
        self.monitor = DriftMonitor(alarm.rate, len(alarm.clean), error)
        self.eval()

    @classmethod
    def load(
        cls,
        head: str | Path | Heads,
        *,
        detector: str = DEFAULT_DETECTOR,
        purifier: str = DEFAULT_PURIFIER,
        options: PurifyOptions | None = None,
        rate: float = 0.05,
        calibrate: FeatureTuples | str | Path | None = None,
        error: float = 0.01,
        seed: int = 0,
        device: str = "cpu",
        state: str | Path | None = None,
        **opening: Any,
    ) -> "Guard":
        """Load a guard.

        Args:
            head: Heads from ``platodef fit``, their folder, the name of shipped ones, or a pulled Hub id.
            detector: One of ``platodef defences``; of those that need no images.
            purifier: As above.
            options: Of the purifier.
            rate: Share of clean images that may be flagged.
            calibrate: Clean features that nothing was fitted on, or a file of them; None takes the clean
                scores in the heads.
            error: Probability of a false alarm of the monitor, ever.
            seed: Of a purifier that draws, and of detectors that do.
            device: Where heads and encoders are.
            state: File of :meth:`save_state` to go on from, if it exists.
            opening: Where the encoders are, for images: see :meth:`GuardEncoders.open`.

        Raises:
            UsageError: A name, file or value is wrong, or the heads cannot calibrate this detector.
            NotApplicable: The detector or purifier needs more than features.
        """
        heads = head if isinstance(head, Heads) else load_heads(find_heads(str(head)), device=device)
        clean = load_features(calibrate) if isinstance(calibrate, str | Path) else calibrate
        if clean is not None and clean.variants is not None:
            clean = clean.select(clean.variants == 0)
        guard = cls(
            heads,
            calibrated(detector, heads, clean, rate, seed),
            make_purifier(purifier, heads, options),
            random=purifier not in NOT_RANDOM,
            seed=seed,
            error=error,
            opening={"device": device, **opening},
        )
        if state is not None and Path(state).exists():
            guard.monitor.load(Path(state))
        return guard

    @property
    def heads(self) -> Heads:
        """The heads."""
        return self._heads

    @property
    def threshold(self) -> float:
        """Scores above it are flagged."""
        return self._alarm.threshold

    @property
    def drift(self) -> Drift:
        """The share flagged so far against the promised one, and whether that is too much."""
        return self.monitor.drift

    def forward(self, inputs: FeatureTuples | Mapping[str, Tensor] | Sequence[Picture] | Picture) -> Guarded:
        """Clean a batch, and count its flags for the monitor.

        Args:
            inputs: Feature tuples; or name -> float ``[B, D]`` with ``source`` and the references; or images:
                uint8 ``[B, 3, H, W]``, or a list of pictures of Pillow, tensors, bytes or paths, or one.

        Raises:
            UsageError: The inputs are none of these, or do not fit the heads.
            ImageError: A picture cannot be used.
            IncompleteError: An encoder failed.
        """
        result = self.clean(self.tuples(inputs))
        self.monitor.update(result.flagged.tolist())
        return result

    def tuples(
        self, inputs: FeatureTuples | Mapping[str, Tensor] | Sequence[Picture] | Picture
    ) -> FeatureTuples:
        """Return the features of any of the inputs of :meth:`forward`."""
        if isinstance(inputs, FeatureTuples):
            return inputs
        if isinstance(inputs, Mapping):
            if SOURCE not in inputs:
                raise UsageError(
                    f"the features lack {SOURCE!r}; they are of {', '.join(map(str, inputs)) or 'none'}"
                )
            return FeatureTuples(
                inputs[SOURCE].float(), {name: v.float() for name, v in inputs.items() if name != SOURCE}
            )
        several = isinstance(inputs, list | tuple) or (isinstance(inputs, Tensor) and inputs.ndim == 4)
        pictures: Any = inputs if several else [inputs]
        return self.open().features(pictures)

    @torch.no_grad()
    def clean(self, tuples: FeatureTuples) -> Guarded:
        """Clean features without counting them.

        A row whose source is not finite is flagged. One whose reference is not finite cannot be judged.

        Raises:
            UsageError: A reference is not finite or missing, or a shape is not that of the heads.
        """
        wanted = [tuples.references[n] for n in self._heads.reference_names if n in tuples.references]
        for values in (tuples.source, *wanted):
            if values.ndim != 2 or len(values) != len(tuples):
                raise UsageError(f"features are {list(values.shape)}, expected [{len(tuples)}, D]")
        if not all(bool(torch.isfinite(values).all()) for values in wanted):
            raise UsageError("features of a reference are not finite; nothing can be said of these rows")
        finite = torch.isfinite(tuples.source).all(dim=1)
        # what is no number would pass every threshold; the clean mean stands in for it until it is replaced
        mean = self._heads.source_standardiser.mean
        if tuples.source.shape[1] == len(mean):
            tuples = tuples.with_source(torch.where(finite[:, None], tuples.source.float(), mean))
        if not len(tuples):
            self._heads.standardise(tuples)
            return Guarded(
                tuples.source, torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.bool)
            )
        scores = self._alarm.detector.score(tuples)
        scores = torch.where(finite, scores, torch.full_like(scores, torch.inf))
        flagged = scores > self._alarm.threshold
        return Guarded(self._purified(tuples, flagged), conformal_pvalues(self._alarm.clean, scores), flagged)

    def _purified(self, tuples: FeatureTuples, flagged: Tensor) -> Tensor:
        if not self._random:
            return purify_flagged(self._purifier, tuples, flagged, generator=torch.Generator())
        result = tuples.source.float().clone()
        for row in flagged.nonzero()[:, 0].tolist():
            one = tuples.select(torch.tensor([row]))
            # the noise follows from the row, so that neither order nor batch changes what becomes of it
            digest = hashlib.sha256(str(self._seed).encode())
            for name in self._heads.reference_names:
                digest.update(tensor_bytes(one.references[name].float()))
            digest.update(tensor_bytes(one.source.float()))
            generator = torch.Generator().manual_seed(int.from_bytes(digest.digest()[:8], "little") >> 1)
            result[row] = self._purifier.purify(one, generator=generator)[0]
        return result

    def open(self) -> GuardEncoders:
        """Return the encoders, opened by the first call.

        Raises:
            PlatodefError: One of them cannot be opened, or is not the one of the heads.
        """
        with self._lock:
            if self._encoders is None:
                self._encoders = GuardEncoders.open(self._heads, **self._opening)
            return self._encoders

    def close(self) -> None:
        """Free the encoders; the next image opens them again."""
        with self._lock:
            if self._encoders is not None:
                self._encoders.close()
                self._encoders = None

    def save_state(self, path: str | Path) -> None:
        """Write what the monitor has seen, so that it goes on in the next process.

        Raises:
            UsageError: It cannot be written.
        """
        self.monitor.save(Path(path))

    def get_extra_state(self) -> dict[str, Any]:
        """Return the monitor's part of ``state_dict()``."""
        return self.monitor.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the monitor's part of ``load_state_dict()``."""
        self.monitor.restore(state)

    def train(self, mode: bool = True) -> "Guard":
        """Stay in evaluation mode: the threshold was calibrated in it."""
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> "Guard":
        """Stay on the device and in the precision of the calibration; choose the device in :meth:`load`."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave running encoders behind; where the guard arrives they are opened again."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_encoders", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._encoders, self._lock = None, threading.Lock()
