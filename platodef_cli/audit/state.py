"""What the steps of one audit know of each other."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from platodef_cli.audit.clock import Clock
from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.inputs import Inputs, Split
from platodef_cli.audit.plan.speed import cores
from platodef_cli.audit.steps.samples import Features, Labelled
from platodef_cli.audit.steps.scoring import CalibratedDefences
from platodef_cli.audit.utilisation import Watching
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads
from platodef_cli.progress import Progress, TaskContext
from platodef_cli.records import HeadRecord
from platodef_cli.search.statistics import CleanStatistics


@dataclass(frozen=True)
class _WithoutWarnings:
    """Shows the steps of another progress only."""

    step: Callable[..., TaskContext]

    def warn(self, message: str) -> None:
        """Do nothing."""


class ProgressRecorder:
    """Passes progress on, and keeps what a report says of it.

    Attributes:
        messages: Warnings.
        seconds: Step -> wall seconds.
        processor_seconds: Step -> processor seconds of the audit's processes.
        ready: Step -> share of the processors that its threads used or waited for.
        hits: Entries of the feature cache that were used.
        misses: Entries that were computed.
        clock: Started with the audit.
    """

    def __init__(self, progress: Progress):
        self._progress = progress
        self.messages: list[str] = []
        self.seconds: dict[str, float] = {}
        self.processor_seconds: dict[str, float] = {}
        self.ready: dict[str, float] = {}
        self.hits = self.misses = 0  # entries of the feature cache
        self.clock = Clock()
        self.step: Callable[..., TaskContext] = progress.step
        self._entered: Callable[[str], None] = lambda name: None

    def warn(self, message: str) -> None:
        """Keep and forward, each once: what holds for the suspect holds for its base as well."""
        if message in self.messages:
            return
        self.messages.append(message)
        self._progress.warn(message)

    def silent_warnings(self) -> Progress:
        """Return a progress with the same steps without warnings, for work that repeats earlier work."""
        return _WithoutWarnings(self._progress.step)

    def count_down(self, entered: Callable[[str], None], step: Callable[..., TaskContext]) -> None:
        """Let somebody know which step runs, and open the steps inside it from now on.

        Args:
            entered: Told the name of every step of the audit that begins.
            step: Opens a step of the progress.
        """
        self._entered, self.step = entered, step

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure the wall time of a step, and how much of the machine it uses."""
        self._entered(name)
        start = time.perf_counter()
        with Watching(cores()) as use:
            yield
        seconds, before = time.perf_counter() - start, self.seconds.get(name, 0.0)
        self.seconds[name] = round(before + seconds, 3)
        self.processor_seconds[name] = round(self.processor_seconds.get(name, 0.0) + use.processor_seconds, 3)
        if use.ready is not None:
            ready = (self.ready.get(name, use.ready) * before + use.ready * seconds) / (before + seconds)
            self.ready[name] = round(ready, 3)


@dataclass(frozen=True)
class AuditState:
    """One audit after extraction and calibration.

    Attributes:
        config: What was asked.
        inputs: Suspect, references, images.
        parts: Roles of the images.
        features: Features of the clean images and of the battery.
        heads: The heads.
        head: Their identity.
        defences: Calibrated detectors and the purifier.
        test: Clean test tuples.
        rows: Their rows of the source.
        labelled: A linear probe, where there are labels.
        statistics: Encoder -> statistics of its clean features.
        cache: The feature cache, or None.
        recorder: Progress, warnings, times.
    """

    config: AuditConfig
    inputs: Inputs
    parts: Split
    features: Features
    heads: Heads
    head: HeadRecord
    defences: CalibratedDefences
    test: FeatureTuples
    rows: Tensor
    labelled: Labelled | None
    statistics: dict[str, CleanStatistics]
    cache: FeatureCache | None
    recorder: ProgressRecorder
