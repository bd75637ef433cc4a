"""Downloading a model from the Hub: one commit, only the files that a load reads, every byte checked."""

import os
import re
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, constants, snapshot_download

from platodef_cli.attestation.oms import SIGNATURE
from platodef_cli.encoders.checks.configuration import check_configuration, parse_json
from platodef_cli.encoders.checks.layout import CONFIGURATIONS, choose, shards
from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.loaders import refuse_adapters
from platodef_cli.encoders.hub import hub_cache
from platodef_cli.encoders.hub.hub_errors import explain, may_recover, not_cached
from platodef_cli.encoders.hub.hub_guard import guarded, meter
from platodef_cli.encoders.hub.hub_locks import wait_for_others
from platodef_cli.encoders.reference import ModelReference
from platodef_cli.errors import HubError, PlatodefError, RefusedError, UsageError
from platodef_cli.progress import Progress, Task

_ATTEMPTS = 5
_FIRST_DELAY_S = 0.5
_NAME = re.compile(r"^[\w-][\w.-]*$", re.ASCII)
_LARGEST = 2**53  # bytes of one file
_INDEX = "model.safetensors.index.json"
_TOKENIZER = "tokenizer.json"

Sleep = Callable[[float], None]
Kind = Literal["model", "dataset"]


def download(
    reference: ModelReference,
    *,
    cache_dir: Path | str | None = None,
    offline: bool = False,
    progress: Progress,
    limits: Limits | None = None,
    files: tuple[str, ...] | None = None,
    kind: Kind = "model",
    sleep: Sleep = time.sleep,
) -> tuple[Path, str]:
    """Return the snapshot folder of a Hub repository and its commit.

    The revision is turned into a commit once. A commit that is completely in the cache needs no request.
    Honours ``HF_ENDPOINT``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE`` and ``HF_TOKEN``.

    Args:
        reference: A parsed Hub id.
        cache_dir: Cache folder; by default that of huggingface_hub.
        offline: Use only what the cache holds.
        progress: Receives the bytes.
        limits: Bounds; nothing is downloaded past ``total_bytes``.
        files: Exactly these files, which may lie in folders; None takes those that a load of the encoder
            reads.
        kind: Of the repository; a data set needs ``files``.
        sleep: Waits between attempts.

    Raises:
        HubError: The Hub does not give the model, or gave other bytes than it announced.
        RefusedError: The model is too large, or its weights are only in unsafe formats.
        UsageError: The repository holds no model, or not these files.
    """
    assert reference.repository is not None
    limits = limits or Limits()
    cache = (
        Path(cache_dir or os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE).expanduser().absolute()
    )
    folder = hub_cache.repository_folder(cache, reference.repository, kind)
    offline = offline or constants.is_offline_mode() or _true(os.environ.get("HF_HUB_OFFLINE", ""))
    pinned = reference.revision is not None and hub_cache.COMMIT.match(reference.revision) is not None
    found = _from_cache(folder, reference, limits, files) if offline or pinned else None
    # what another tool fetched says nothing of an adapter that lies beside it in the repository
    if found and (offline or files is not None or hub_cache.cached_listing(found[0]) is not None):
        return found
    if offline:
        raise not_cached(reference.repository, reference.revision)
    try:
        return _Download(reference, cache, folder, progress, limits, files, kind, sleep).run()
    except HubError as error:
        if found is None or error.__cause__ is None:  # without a cause it is not the network that failed
            raise
        return found


def _true(value: str) -> bool:
    return value.strip().upper() in ("1", "ON", "YES", "TRUE")


def _from_cache(
    folder: Path, reference: ModelReference, limits: Limits, files: tuple[str, ...] | None
) -> tuple[Path, str] | None:
    """Return a complete, correct snapshot from the cache, or None; wrong files are dropped."""
    commit = hub_cache.cached_commit(folder, reference.revision)
    if commit is None:
        return None
    snapshot = folder / "snapshots" / commit / reference.subfolder
    try:
        present = {entry.name for entry in os.scandir(snapshot) if entry.is_file()}
        present |= {name for name in files or () if "/" in name and (snapshot / name).is_file()}
    except OSError:
        return None
    try:
        needed = _needed(snapshot, present, reference.uri, limits, files)
    except PlatodefError:
        # An interrupted download may lack what the decision needs; online it is completed, offline reported.
        return None
    wrong = hub_cache.wrong_files(snapshot, dict.fromkeys(needed))
    for name in wrong:
        hub_cache.evict(snapshot, name)
    return None if wrong else (snapshot, commit)


def _configurations(names: set[str]) -> list[str]:
    """Return the small files that decide what else is needed."""
    return [name for name in (*CONFIGURATIONS, _INDEX) if name in names]


def _needed(
    snapshot: Path,
    names: set[str],
    where: str,
    limits: Limits,
    files: tuple[str, ...] | None,
    inner: Collection[str] = (),
) -> list[str]:
    """Return the files that a load of this repository reads, once its small files are there."""
    if files is not None:
        missing = [name for name in files if name not in names]
        if missing:
            raise UsageError(f"{where}: the repository has no {missing[0]}; check the id and the revision")
        return list(files)
    config = {}
    if "config.json" in names:
        config = parse_json((snapshot / "config.json").read_bytes(), f"{where}/config.json", limits)
    _, layout = choose(config, names, where, inner)
    weights = [layout.weights]
    if layout.weights.endswith(".index.json"):
        index = parse_json((snapshot / layout.weights).read_bytes(), f"{where}/{layout.weights}", limits)
        weights += shards(layout.weights, index, names)
    signature = [SIGNATURE] if SIGNATURE in names else []
    return [*layout.configurations, *weights, *signature]


class _Download:
    """One download."""

    def __init__(
        self,
        reference: ModelReference,
        cache: Path,
        folder: Path,
        progress: Progress,
        limits: Limits,
        files: tuple[str, ...] | None,
        kind: Kind,
        sleep: Sleep,
    ):
        assert reference.repository is not None
        self._repository, self._revision, self._uri = reference.repository, reference.revision, reference.uri
        self._subfolder, self._kind = reference.subfolder, kind
        self._cache, self._folder = cache, folder
        self._progress, self._limits, self._files, self._sleep = progress, limits, files, sleep
        self._endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self._sizes: dict[str, int] = {}
        self._oids: dict[str, str | None] = {}
        self._listing: dict[str, int] = {}

    def run(self) -> tuple[Path, str]:
        """Resolve, fetch the small files, decide, fetch the weights, check every byte."""
        with guarded():
            return self._run()

    def _run(self) -> tuple[Path, str]:
        """As :meth:`run`, with answers that are checked."""
        commit = self._resolve()
        snapshot = self._folder / "snapshots" / commit / self._subfolder
        names = set(self._sizes)
        if self._files is None:
            refuse_adapters(names, self._uri)
        configurations = _configurations(names) if self._files is None else []
        if configurations:
            self._fetch(commit, snapshot, configurations)
        needed = _needed(snapshot, names, self._uri, self._limits, self._files, self._inner())
        for name in sorted(set(needed) & set(configurations) - {_INDEX, _TOKENIZER}):
            # what they tell shall not cost gigabytes of weights first
            place = f"{self._uri}/{name}"
            check_configuration(
                parse_json((snapshot / name).read_bytes(), place, self._limits), place, self._limits
            )
        self._fetch(commit, snapshot, needed)
        hub_cache.remember_commit(self._folder, self._revision, commit)
        hub_cache.remember_listing(self._folder, commit, self._listing)
        return snapshot, commit

    def _resolve(self) -> str:
        """Ask once what the revision is and what it holds."""
        api = HfApi(endpoint=self._endpoint)
        info = self._retried(
            lambda: api.repo_info(
                self._repository,
                repo_type=self._kind,
                revision=self._revision,
                files_metadata=True,
                timeout=30.0,
            )
        )
        commit = str(info.sha)
        if not hub_cache.COMMIT.match(commit):
            raise HubError(f"{self._uri}: {self._endpoint} gave no commit; check HF_ENDPOINT")
        if self._revision and hub_cache.COMMIT.match(self._revision) and commit != self._revision:
            raise HubError(f"{self._uri}: {self._endpoint} gave commit {commit} instead; do not trust it")
        prefix = f"{self._subfolder}/" if self._subfolder else ""
        for sibling in info.siblings or []:
            size = sibling.size or 0
            if type(size) is not int or not 0 <= size < _LARGEST:
                raise HubError(
                    f"{self._uri}: {self._endpoint} lists a file of {str(size)[:40]} bytes; do not trust it"
                )
            self._listing[sibling.rfilename] = size
            name = sibling.rfilename.removeprefix(prefix)
            wanted = _NAME.match(name) or name in (self._files or ())
            if sibling.rfilename.startswith(prefix) and wanted:
                self._sizes[name] = size
                self._oids[name] = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
        if self._subfolder and not self._sizes:
            raise UsageError(f"{self._uri}: the repository has no folder {self._subfolder!r}; check the id")
        return commit

    def _inner(self) -> list[str]:
        """Return the paths of the files in folders below the one that is wanted."""
        prefix = f"{self._subfolder}/" if self._subfolder else ""
        found = (name.removeprefix(prefix) for name in self._listing if name.startswith(prefix))
        return [name for name in found if "/" in name]

    def _fetch(self, commit: str, snapshot: Path, names: list[str]) -> None:
        """Download files of the commit and check them; a wrong one is dropped and fetched once more."""
        total = sum(self._sizes[name] for name in names)
        if total > self._limits.total_bytes:
            raise RefusedError(
                f"{self._uri}: would download {total / 2**30:.1f} GiB, more than "
                f"{self._limits.total_bytes / 2**30:.1f} GiB; nothing was downloaded"
            )
        wrong: list[str] = []
        largest = max((self._sizes[name] for name in names), default=0)
        wait_for_others(self._folder, filter(None, map(self._oids.get, names)), self._uri, self._progress)
        for _ in range(2):
            with guarded(largest), self._progress.step(f"downloading {self._uri}", total) as task:
                self._retried(partial(self._snapshot, commit, names, task, total))
            missing = [name for name in names if not (snapshot / name).is_file()]
            if missing:
                raise HubError(f"{self._uri}: {self._endpoint} did not give {missing[0]}; run it again")
            wrong = hub_cache.wrong_files(snapshot, {name: self._oids[name] for name in names})
            for name in wrong:
                hub_cache.evict(snapshot, name)
            if not wrong:
                return
        raise HubError(
            f"{self._uri}: {self._endpoint} gave {wrong[0]} with other bytes than its hash says; "
            "it was removed from the cache, run it again"
        )

    def _snapshot(self, commit: str, names: list[str], task: Task, total: int) -> None:
        """Let huggingface_hub download the named files of one commit."""
        snapshot_download(
            self._repository,
            repo_type=self._kind,
            revision=commit,
            cache_dir=self._cache,
            allow_patterns=[f"{self._subfolder}/{name}" if self._subfolder else name for name in names],
            endpoint=self._endpoint,
            max_workers=4,
            tqdm_class=meter(task, total + 2**20, self._uri),
        )

    def _retried(self, request: Callable[[], Any]) -> Any:
        """Run a request again after 429, 5xx and dropped connections, with growing pauses."""
        for attempt in range(_ATTEMPTS):
            try:
                return request()
            except PlatodefError:
                raise
            except Exception as error:
                if attempt == _ATTEMPTS - 1 or not may_recover(error):
                    raise explain(
                        error, self._repository, self._revision, self._endpoint, self._kind
                    ) from error
                self._sleep(_FIRST_DELAY_S * 2**attempt)
        raise AssertionError("unreachable")
