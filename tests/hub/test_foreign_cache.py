"""Snapshots that another tool fetched into the Hub's cache: what they hold is not all that there is."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from platodef_cli.encoders.checks.preflight import Preflight, preflight
from platodef_cli.encoders.reference import parse
from platodef_cli.encoders.resolve import resolve
from platodef_cli.errors import EXIT_PASS, EXIT_REFUSED, HubError
from tests.hub.server import Fault, HubServer
from tests.unit.cli.calls import command

Files = Mapping[str, bytes]
NEEDED = ("config.json", "model.safetensors")
REST = "another tool fetched these files into the Hub's cache"


def fetched(hub: HubServer, patterns: tuple[str, ...]) -> Path:
    """Download with huggingface_hub itself."""
    cache = os.environ["HF_HUB_CACHE"]
    return Path(
        snapshot_download("org/model", cache_dir=cache, endpoint=hub.url, allow_patterns=list(patterns))
    )


def checked(model: str, offline: bool) -> Preflight:
    resolved = resolve(parse(model), offline=offline)
    return preflight(resolved.directory, listing=resolved.listing)


@pytest.mark.parametrize("by", ["name", "commit", "folder"])
def test_a_part_of_a_repository_is_not_taken_for_the_whole(
    hub: HubServer, model_files: Files, by: str
) -> None:
    commit = hub.commit("org/model", {**model_files, "modeling.py": b"print()"})
    folder = fetched(hub, NEEDED)
    model = {"name": "org/model", "commit": f"org/model@{commit}", "folder": str(folder)}[by]
    found = checked(model, offline=True)
    assert [file.path for file in found.files] == list(NEEDED)
    assert not found.findings
    (rest,) = found.not_examined
    assert rest.startswith(f"whatever else org/model@{commit} holds: {REST}")
    done = command("preflight", model, "--offline")
    assert done.code == EXIT_PASS
    assert REST in " ".join(done.out.split())


def test_the_advice_lists_the_rest_and_is_remembered(hub: HubServer, model_files: Files) -> None:
    commit = hub.commit("org/model", {**model_files, "modeling.py": b"print()"})
    folder = fetched(hub, NEEDED)
    for model, offline in ((f"org/model@{commit}", False), ("org/model", True), (str(folder), True)):
        found = checked(model, offline)
        assert {finding.id for finding in found.findings} == {"pickle", "repository-code"}
        assert "modeling.py: 7 bytes in the repository, not downloaded" in found.not_examined
        assert not any(REST in line for line in found.not_examined)


def test_an_adapter_that_was_not_fetched_is_found_once_the_rest_is_listed(
    hub: HubServer, model_files: Files
) -> None:
    commit = hub.commit("org/model", {**model_files, "adapter_config.json": b"{}"})
    fetched(hub, NEEDED)
    assert command("preflight", "org/model", "--offline").code == EXIT_PASS
    assert command("preflight", f"org/model@{commit}").code == EXIT_REFUSED


def test_a_pinned_model_of_another_tool_runs_without_the_network_but_not_with_a_hub_that_lies(
    hub: HubServer, model_files: Files
) -> None:
    commit = hub.commit("org/model", model_files)
    fetched(hub, NEEDED)
    hub.faults = [Fault("/api/models/", status=503, times=100)]
    (rest,) = checked(f"org/model@{commit}", offline=False).not_examined
    assert REST in rest
    hub.faults = [Fault("/api/models/", body=json.dumps({"id": "org/model", "sha": "b" * 40}).encode())]
    with pytest.raises(HubError, match="gave commit .* instead; do not trust it"):
        checked(f"org/model@{commit}", offline=False)


def test_a_folder_of_a_repository_says_which(hub: HubServer, model_files: Files) -> None:
    nested = {f"vision/{name}": model_files[name] for name in NEEDED}
    commit = hub.commit("org/model", {**nested, "vision/x.bin": b"1", "config.json": b"{}"})
    folder = fetched(hub, ("vision/config.json", "vision/model.safetensors"))
    for model in ("org/model/vision", str(folder / "vision")):
        (rest,) = checked(model, offline=True).not_examined
        assert rest.startswith(f"whatever else org/model@{commit} holds in vision: {REST}")
    checked(f"org/model/vision@{commit}", offline=False)
    found = checked(str(folder / "vision"), offline=True)
    assert found.not_examined == ("x.bin: 1 bytes in the repository, not downloaded",)


def test_a_copy_outside_the_cache_is_a_folder_like_any_other(
    hub: HubServer, model_files: Files, tmp_path: Path
) -> None:
    hub.commit("org/model", model_files)
    copy = tmp_path / "snapshots" / ("a" * 40)
    shutil.copytree(fetched(hub, NEEDED), copy, symlinks=False)
    assert not preflight(copy).not_examined
    assert sorted(os.listdir(copy)) == list(NEEDED)
