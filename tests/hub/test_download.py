"""The real huggingface_hub against a loopback hub: pinning, offline use, and every way to fail."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import get_session, set_client_factory

from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.preflight import preflight
from platodef_cli.encoders.hub.hub import download
from platodef_cli.encoders.hub.hub_guard import guarded
from platodef_cli.encoders.load import open_encoder
from platodef_cli.encoders.reference import parse
from platodef_cli.encoders.resolve import resolve
from platodef_cli.errors import HubError, RefusedError, UsageError
from platodef_cli.progress import SILENT
from tests.hub.server import Fault, HubServer

Files = Mapping[str, bytes]


def get(uri: str, revision: str | None = None, offline: bool = False) -> tuple[Path, str]:
    """Download without pauses."""
    return download(parse(uri, revision), offline=offline, progress=SILENT, sleep=lambda seconds: None)


def test_a_model_loads_from_the_hub_with_its_commit(hub: HubServer, model_files: Files) -> None:
    commit = hub.commit("org/model", model_files)
    with open_encoder("org/model") as encoder:
        assert encoder.record.commit == commit
        assert encoder.record.uri == "org/model"
        assert encoder.record.name == "model"
        hashes = {record.path: record.sha256 for record in encoder.record.files}
    names = ("config.json", "model.safetensors")
    assert hashes == {name: hashlib.sha256(model_files[name]).hexdigest() for name in names}


def test_only_the_files_that_a_load_reads_are_fetched(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    folder, _ = get("org/model")
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    assert not any("README" in path or ".bin" in path or "sub/" in path for _, path in hub.requests)


def test_a_branch_that_moves_does_not_move_a_commit(hub: HubServer, model_files: Files) -> None:
    first = hub.commit("org/model", model_files)
    assert get("org/model")[1] == first
    second = hub.commit("org/model", {**model_files, "config.json": model_files["config.json"] + b" "})
    assert get(f"org/model@{first}")[1] == first
    folder, commit = get("org/model")
    assert commit == second
    assert (folder / "config.json").read_bytes().endswith(b" ")


def test_the_revision_is_asked_once(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files, "v1")
    get("org/model", "v1")
    asked = [path for _, path in hub.requests if "/revision/v1" in path or path == "/api/models/org/model"]
    assert asked == ["/api/models/org/model/revision/v1"]


def test_a_cached_commit_needs_no_request(hub: HubServer, model_files: Files) -> None:
    commit = hub.commit("org/model", model_files)
    folder, _ = get("org/model", commit)
    hub.requests.clear()
    assert get("org/model", commit) == (folder, commit)
    assert hub.requests == []


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_uses_the_cache_and_asks_nothing(
    how: str, hub: HubServer, model_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit("org/model", model_files)
    online = get("org/model")
    hub.requests.clear()
    if how == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert get("org/model", offline=how == "argument") == online
    assert hub.requests == []


def test_offline_without_the_model_says_so(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    with pytest.raises(HubError, match="not completely in the local cache, and this run is offline"):
        get("org/model", offline=True)
    assert hub.requests == []


def test_offline_with_half_a_model_says_so(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    folder, _ = get("org/model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(HubError, match="not completely in the local cache"):
        get("org/model", offline=True)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_wrong_bytes_of_the_right_size_are_found_and_dropped(
    name: str, hub: HubServer, model_files: Files
) -> None:
    commit = hub.commit("org/model", model_files)
    good = model_files[name]
    path = "/lfs/" if name.endswith(".safetensors") else f"/resolve/{commit}/{name}"
    bad = (
        good.replace(b'"num_classes": 0', b'"num_classes": 1', 1)
        if name == "config.json"
        else b"x" * len(good)
    )
    hub.faults = [Fault(path, method="GET", body=bad)]
    with pytest.raises(HubError, match=f"gave {name} with other bytes than its hash"):
        get("org/model")
    hub.faults = []
    folder, _ = get("org/model")
    assert (folder / name).read_bytes() == good


def test_a_wrong_blob_in_the_cache_is_replaced(hub: HubServer, model_files: Files) -> None:
    commit = hub.commit("org/model", model_files)
    folder, _ = get("org/model", commit)
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(b"y" * blob.stat().st_size)
    with pytest.raises(HubError, match="not completely in the local cache"):
        get("org/model", commit, offline=True)
    folder, _ = get("org/model", commit)
    assert (folder / "model.safetensors").read_bytes() == model_files["model.safetensors"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("/api/", status=401), r"access was denied \(401\)"),
        (Fault("/api/", status=403, code="GatedRepo"), r"is gated \(403\); accept its conditions"),
        (Fault("/api/", status=403), r"forbids access \(403\)"),
        (Fault("/api/", status=404, code="RepoNotFound"), r"no such model on .* \(404\)"),
        (Fault("/api/", status=429), r"limits the rate of requests \(429\)"),
        (Fault("/api/", status=500), r"failed with status 500; try again later"),
        (Fault("/api/", status=503), r"failed with status 503"),
        (Fault("/api/models/org/model$", cut=5), "the connection to .* broke"),
        (Fault("/api/models/org/model$", body=b"<html>"), "does not answer like a model hub"),
        (Fault("/resolve/", method="HEAD", status=500), r"failed with status 500"),
        (Fault("/resolve/", method="HEAD", status=403, code="GatedRepo"), r"is gated \(403\)"),
        (Fault("/lfs/", status=503), r"failed with status 503"),
        (Fault("/lfs/", status=404), "lost a file of the model"),
        (Fault("/lfs/", cut=1000), "the connection to .* broke during the download"),
    ],
)  # fmt: skip
def test_each_failure_has_its_own_line_and_ignores_the_old_folder(
    fault: Fault, message: str, hub: HubServer, model_files: Files
) -> None:
    hub.commit("org/model", model_files)
    if "lfs" not in fault.path and "resolve" not in fault.path:
        get("org/model")
    hub.faults = [fault]
    with pytest.raises(HubError, match=message) as caught:
        get("org/model")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("org/model")


def test_unknown_revision_and_repository(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    with pytest.raises(HubError, match="has no revision 'v9'"):
        get("org/model@v9")
    with pytest.raises(HubError, match="no such model"):
        get("org/other")


def test_a_refused_connection_says_what_to_do(client: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer() as server:
        url = server.url
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(HubError, match=r"cannot connect to .* or use --offline"):
        get("org/model")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/api/models/org/model$", status=503, times=2),
        Fault("/api/models/org/model$", status=429, times=3),
        Fault("/api/models/org/model$", cut=3, times=1),
        Fault("/tree/", status=500, times=1),
        Fault("/lfs/", status=502, times=2),
        Fault("/lfs/", cut=900, times=2),
        Fault("/resolve/", method="HEAD", status=503, times=1),
    ],
)
def test_passing_failures_are_tried_again(fault: Fault, hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    hub.faults = [fault]
    folder, _ = get("org/model")
    assert fault.times == 0
    assert (folder / "model.safetensors").read_bytes() == model_files["model.safetensors"]


def test_pauses_grow(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    hub.faults = [Fault("/api/", status=503, times=3)]
    pauses: list[float] = []
    download(parse("org/model"), progress=SILENT, sleep=pauses.append)
    assert pauses == [0.5, 1.0, 2.0]


def test_denied_access_is_not_tried_again(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    hub.faults = [Fault("/api/", status=401)]
    with pytest.raises(HubError):
        get("org/model")
    assert len(hub.requests) == 1


def test_the_token_opens_a_gated_model(
    hub: HubServer, model_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit("org/model", model_files)
    hub.faults = [Fault("/(api|org)/", status=401, code="GatedRepo", without_token=True)]
    with pytest.raises(HubError, match="is gated"):
        get("org/model")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get("org/model")
    assert "Bearer hf_secret" in hub.tokens


@pytest.mark.parametrize(
    "header",
    [
        {"ETag": '"../../../../escaped"'},
        {"X-Linked-Etag": '"/etc/escaped"'},
        {"ETag": '".."'},
        {"X-Repo-Commit": "../../escaped"},
    ],
)
def test_headers_that_are_paths_are_refused(
    header: dict[str, str], hub: HubServer, model_files: Files, tmp_path: Path
) -> None:
    hub.commit("org/model", model_files)
    hub.faults = [Fault("/resolve/", headers=header)]
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    with pytest.raises(HubError, match="which is no hash"):
        get("org/model")
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    assert not any("escaped" in path.name for path in tmp_path.rglob("*"))


def test_a_listing_with_paths_as_ids_is_refused(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    listing = b'[{"type": "file", "path": "config.json", "size": 3, "oid": "../../x"}]'
    hub.faults = [Fault("/tree/", body=listing)]
    with pytest.raises(HubError, match="object id that is no hash"):
        get("org/model")


def test_a_commit_that_is_a_path_is_refused(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    hub.faults = [
        Fault("/api/models/org/model$", body=b'{"id": "org/model", "sha": "../../x", "siblings": []}')
    ]
    with pytest.raises(HubError, match="gave no commit"):
        get("org/model")


def test_hostile_file_names_are_never_written(hub: HubServer, model_files: Files, tmp_path: Path) -> None:
    hostile = {
        "../../escaped.safetensors": b"x",
        "/abs.json": b"{}",
        "a\\..\\b.json": b"{}",
        "config.json\n": b"{}",
    }
    hub.commit("org/model", {**model_files, **hostile})
    folder, _ = get("org/model")
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    assert not list(tmp_path.rglob("*escaped*"))


def test_only_pickles_are_refused_before_they_are_fetched(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", {k: v for k, v in model_files.items() if not k.endswith(".safetensors")})
    with pytest.raises(RefusedError, match=r"only in pytorch_model\.bin"):
        get("org/model")
    assert not any(".bin" in path for _, path in hub.requests)


def test_a_repository_without_a_model(hub: HubServer) -> None:
    hub.commit("org/model", {"README.md": b"nothing"})
    with pytest.raises(UsageError, match="holds no model"):
        get("org/model")


def test_the_size_cap_stops_before_the_download(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    limits = Limits(total_bytes=len(model_files["model.safetensors"]) - 1)
    with pytest.raises(RefusedError, match="nothing was downloaded"):
        download(parse("org/model"), progress=SILENT, limits=limits, sleep=lambda seconds: None)
    assert not any(path.startswith("/lfs/") for _, path in hub.requests)


def test_a_body_longer_than_announced_is_stopped(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    hub.faults = [
        Fault("/lfs/", method="GET", body=b"z" * 2**24),
        Fault("model.safetensors", method="HEAD", headers={"X-Linked-Size": ""}),
    ]
    with pytest.raises(HubError):
        get("org/model")


class Bytes:
    """A progress that counts; implements :class:`Progress` and :class:`Task`."""

    def __init__(self) -> None:
        self.total = self.done = 0

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator["Bytes"]:
        self.total, self.done = total or 0, 0
        yield self

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        self.done += amount

    def warn(self, text: str) -> None:
        raise AssertionError(text)


MEBIBYTES = (3, 30, pytest.param(300, marks=pytest.mark.slow))


@pytest.mark.parametrize(
    ("how", "bars"), [("plain", ""), ("plain", "1"), ("resumed", ""), ("xet without its library", "")]
)
@pytest.mark.parametrize("mebibytes", MEBIBYTES)
def test_files_of_real_size(
    mebibytes: int, how: str, bars: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", bars)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", bool(bars) or None)
    weights = random.Random(mebibytes).randbytes(2**20) * mebibytes
    hub.commit("org/large", {"config.json": b"{}", "model.safetensors": weights, "other.safetensors": b"0"})
    if how == "resumed":
        hub.faults = [Fault("/lfs/", method="GET", times=2, cut=len(weights) // 3)]
    elif how != "plain":
        monkeypatch.setattr("huggingface_hub.file_download.is_xet_available", lambda: False)
        link = f'<{hub.url}/xet>; rel="xet-auth"'
        hub.faults = [Fault("/resolve/.*safetensors", headers={"X-Xet-Hash": "a" * 64, "Link": link})]
    progress = Bytes()
    files = ("config.json", "model.safetensors", "other.safetensors")
    folder, _ = download(parse("org/large"), progress=progress, files=files, sleep=lambda seconds: None)
    assert (folder / "model.safetensors").read_bytes() == weights
    assert progress.done == progress.total == len(weights) + 3


def test_a_body_without_an_end_is_stopped(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    hub.faults = [
        Fault("/lfs/", method="GET", body=b"z" * 2**18, endless=True),
        Fault("model.safetensors", method="HEAD", headers={"X-Linked-Size": ""}),
    ]
    with pytest.raises(HubError, match="sends more bytes than it announced; do not trust it"):
        get("org/model")


def test_a_listing_without_an_end_is_stopped(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    hub.faults = [Fault("/api/models/", body=b" " * 2**22, endless=True)]
    with pytest.raises(HubError, match="sends more bytes than it announced; do not trust it"):
        get("org/model")


def test_shards_come_from_the_index(hub: HubServer, model_files: Files) -> None:
    config = b'{"model_type": "vit"}'
    index = (
        b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    )
    shards = {f"model-0000{i}-of-00002.safetensors": b"%d" % i for i in (1, 2)}
    others = {"model-00003-of-00002.safetensors": b"no", "extra.safetensors": b"no"}
    hub.commit(
        "org/model", {"config.json": config, "model.safetensors.index.json": index, **shards, **others}
    )
    folder, _ = get("org/model")
    assert sorted(os.listdir(folder)) == sorted(["config.json", "model.safetensors.index.json", *shards])


def test_an_index_that_leads_out_is_refused(hub: HubServer) -> None:
    index = b'{"weight_map": {"a": "../../x.safetensors"}}'
    hub.commit("org/model", {"config.json": b'{"model_type": "vit"}', "model.safetensors.index.json": index})
    with pytest.raises(RefusedError, match=r"shard '\.\./\.\./x\.safetensors'"):
        get("org/model")


def test_resolve_lists_the_files(hub: HubServer, model_files: Files) -> None:
    commit = hub.commit("org/model", model_files)
    resolved = resolve(parse("hf://org/model@main"))
    assert resolved.commit == commit
    assert resolved.uri == "org/model@main"
    assert resolved.files == ("config.json", "model.safetensors")


def test_a_killed_download_is_completed_by_the_next_run(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    release = threading.Event()
    hub.faults = [Fault("/lfs/", method="GET", times=1, hold=release)]
    code = (
        "from platodef_cli.encoders.reference import parse\n"
        "from platodef_cli.encoders.resolve import resolve\n"
        "resolve(parse('org/model'))"
    )
    client = subprocess.Popen([sys.executable, "-c", code], env={**os.environ}, cwd=Path(__file__).parents[2])
    try:
        assert hub.reached_half.wait(60)
        client.send_signal(signal.SIGKILL)
        assert client.wait(60) == -signal.SIGKILL
    finally:
        release.set()
        client.kill()
        client.wait()
    with pytest.raises(HubError, match="not completely in the local cache"):
        get("org/model", offline=True)
    folder, _ = get("org/model")
    assert (folder / "model.safetensors").read_bytes() == model_files["model.safetensors"]


def test_the_guard_keeps_the_client_rests_afterwards_and_comes_back(
    hub: HubServer, model_files: Files
) -> None:
    """Somebody who uses huggingface_hub in the same process must not notice it."""
    commit = hub.commit("org/model", model_files)
    odd = httpx2.Response(200, headers={"X-Repo-Commit": ".."}, request=httpx2.Request("GET", hub.url))
    try:
        for _ in range(2):
            set_client_factory(
                lambda: httpx2.Client(headers={"X-Mine": "1"}, timeout=7, follow_redirects=True)
            )
            assert get(f"org/model@{commit}")[1] == commit
            shutil.rmtree(os.environ["HF_HUB_CACHE"])
            client = get_session()
            assert (client.headers["X-Mine"], client.timeout.read, client.follow_redirects) == ("1", 7, True)
            (check,) = client.event_hooks["response"]
            check(odd)
            with guarded(), pytest.raises(HubError, match="sent the commit"):
                check(odd)
            assert get_session() is client
    finally:
        set_client_factory(partial(httpx2.Client, follow_redirects=True, timeout=None))


def test_a_folder_of_a_repository(hub: HubServer, model_files: Files) -> None:
    nested = {f"vision/small/{name}": data for name, data in model_files.items() if "/" not in name}
    commit = hub.commit("org/many", {"config.json": b"{}", "other/x.bin": b"1", **nested})
    with open_encoder("org/many/vision/small") as encoder:
        assert (encoder.record.commit, encoder.record.name) == (commit, "small")
    folder, _ = get(f"org/many/vision/small@{commit}", offline=True)
    with open_encoder(str(folder)) as encoder:  # links of a snapshot lead to the store beside it
        assert encoder.dim == 16
    with pytest.raises(UsageError, match="the repository has no folder 'nothing'"):
        get("org/many/nothing")


def test_what_was_not_fetched_is_listed_with_its_findings(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", {**model_files, "modeling.py": b"print()"})
    for offline in (False, True):
        resolved = resolve(parse("org/model"), offline=offline)
        checked = preflight(resolved.directory, listing=resolved.listing)
        assert {finding.id for finding in checked.findings} == {"pickle", "repository-code"}
        size = len(model_files["pytorch_model.bin"])
        assert f"pytorch_model.bin: {size} bytes in the repository, not downloaded" in checked.not_examined


def test_an_adapter_in_a_repository_is_refused_before_the_weights_are_fetched(
    hub: HubServer, model_files: Files
) -> None:
    hub.commit("org/model", {**model_files, "adapter_config.json": b"{}", "adapter_model.safetensors": b"1"})
    with pytest.raises(RefusedError, match="holds an adapter"):
        get("org/model")
    assert not any(path.startswith("/lfs/") for _, path in hub.requests)


def test_a_redirect_to_a_dead_host_names_it(hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    hub.faults = [Fault("/resolve/.*safetensors", headers={"Location": "http://127.0.0.1:9/lfs/x"})]
    with pytest.raises(HubError, match=f"cannot connect to http://127.0.0.1:9, where {hub.url} keeps"):
        get("org/model")


@pytest.mark.parametrize("size", [str(10**15), "1" * 400, "-5", "abc"])
def test_absurd_sizes_of_answers_are_refused(size: str, hub: HubServer, model_files: Files) -> None:
    hub.commit("org/model", model_files)
    hub.faults = [Fault("/resolve/.*safetensors", headers={"X-Linked-Size": size})]
    with pytest.raises(HubError, match="announces a file of .*do not trust this hub"):
        get("org/model")


@pytest.mark.parametrize("size", [-5, 10**400, "x", 1.5, True])
def test_absurd_sizes_of_listings_are_refused(size: object, hub: HubServer, model_files: Files) -> None:
    sha = hub.commit("org/model", model_files)
    listed = {"id": "org/model", "sha": sha, "siblings": [{"rfilename": "model.safetensors", "size": size}]}
    hub.faults = [Fault("/api/models/", body=json.dumps(listed).encode())]
    with pytest.raises(HubError, match="lists a file of .* bytes; do not trust it"):
        get("org/model")
