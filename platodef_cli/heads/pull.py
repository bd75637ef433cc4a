"""Heads from a model hub: one pinned commit, verified before anything uses them."""

import os
import shutil
from pathlib import Path

from platodef_cli.disk import explaining
from platodef_cli.encoders.hub.hub import download
from platodef_cli.errors import IncompleteError, RefusedError
from platodef_cli.heads.card import CARD, WEIGHTS
from platodef_cli.heads.find import DESCRIPTION, parse_pinned, pulled_folder
from platodef_cli.heads.pretrained import verify_heads
from platodef_cli.progress import SILENT, Progress
from platodef_cli.temporary import TemporaryFolder

FILES = (CARD, DESCRIPTION, WEIGHTS)


def pull_heads(
    uri: str,
    root: Path,
    *,
    hub_cache: Path | None = None,
    offline: bool = False,
    progress: Progress = SILENT,
) -> Path:
    """Download heads at one commit, verify them, and keep them under ``root``.

    The folder appears only when every check of :func:`verify_heads` held; heads that are already there
    are verified again instead of downloaded.

    Args:
        uri: ``hf://org/name@COMMIT``.
        root: Folder of pulled heads.
        hub_cache: Cache of Hub downloads; by default that of huggingface_hub.
        offline: Use only what that cache holds.
        progress: Receives the download.

    Returns:
        The folder of the heads.

    Raises:
        UsageError: The id is wrong or not pinned, or the repository holds no heads.
        HubError: The Hub does not give them.
        RefusedError: They are not what they say they are; nothing was kept.
        IncompleteError: ``root`` cannot be written.
    """
    reference, place = parse_pinned(uri), pulled_folder(root, uri)
    if place.is_dir():
        _verify(place, uri)
        return place
    snapshot, _ = download(reference, cache_dir=hub_cache, offline=offline, progress=progress, files=FILES)
    with explaining(f"cannot keep heads in {root}", IncompleteError):
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryFolder("heads", inside=root) as private:
            folder = private / place.name
            folder.mkdir()
            for name in FILES:
                shutil.copyfile(snapshot / name, folder / name)
            with progress.step("verifying heads"):
                _verify(folder, uri)
            os.replace(folder, place)
    return place


def _verify(folder: Path, uri: str) -> None:
    failed = [check for check in verify_heads(folder) if not check.passed]
    if failed:
        raise RefusedError(f"{uri}: {failed[0].detail.replace(str(folder), uri)}; do not use these heads")
