"""A zoo that was exported, published on a loopback hub, and fetched by the real client."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from platodef_cli.bench.zoo.hub.export import export
from platodef_cli.bench.zoo.hub.fetch import fetch
from platodef_cli.bench.zoo.hub.sums import sums_text
from platodef_cli.errors import (
    EXIT_INCOMPLETE,
    EXIT_PASS,
    EXIT_REFUSED,
    EXIT_USAGE,
    HubError,
    PlatodefError,
    RefusedError,
    UsageError,
)
from tests.hub.server import Fault, HubServer
from tests.unit.cli.calls import Result

Call = Callable[..., Result]
ONLY = ("--only", "ssl-backdoor-0", "--only", "ref-*")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small zoo: two references, a clean encoder, and one with a backdoor."""
    from platodef_cli.cli.app import main

    root = tmp_path_factory.mktemp("published")
    build = [
        "bench",
        "zoo",
        "build",
        "--recipe",
        "smoke",
        "-o",
        str(root / "zoo"),
        *ONLY,
        "--jobs",
        "1",
        "-q",
    ]
    assert main(build) == 0
    export(root / "zoo", root / "out")
    shutil.rmtree(root / "zoo")
    return {
        path.relative_to(root / "out").as_posix(): path.read_bytes()
        for path in (root / "out").rglob("*")
        if path.is_file()
    }


def resummed(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files with sums that are right for them, as a careful liar publishes them."""
    sums = {
        path: hashlib.sha256(data).hexdigest()
        for path, data in files.items()
        if path not in ("SHA256SUMS", ".gitattributes")
    }
    return {**files, "SHA256SUMS": sums_text(sums).encode()}


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run ``platodef`` in this process, with the environment of ``hub``."""
    monkeypatch.setattr("platodef_cli.environment.prepare", lambda: None)
    monkeypatch.setattr("platodef_cli.environment.go_offline", lambda: None)

    def call(*arguments: str) -> Result:
        from platodef_cli.cli.app import main

        capfd.readouterr()
        return Result(main(arguments), *capfd.readouterr())

    return call


@pytest.mark.parametrize("kind", ["", "datasets/"])
def test_a_published_zoo_comes_back_and_is_used(
    hub: HubServer, published: dict[str, bytes], tmp_path: Path, command: Call, kind: str
) -> None:
    commit = hub.commit(f"{kind}org/zoo", {**published, "notes.txt": b"not of the zoo"})
    digest = hashlib.sha256(published["SHA256SUMS"]).hexdigest()
    address = f"hf://{kind}org/zoo@{commit}"
    done = command("bench", "zoo", "fetch", address, "-o", str(tmp_path / "zoo"), "--sha256", digest)
    assert done.code == EXIT_PASS, done.err
    assert "3 clean and 1 deliberately backdoored encoders" in done.last
    got = {p.relative_to(tmp_path / "zoo").as_posix() for p in (tmp_path / "zoo").rglob("*") if p.is_file()}
    assert got == set(published) - {".gitattributes"}
    assert not any("notes.txt" in path for _, path in hub.requests)
    for path in got:
        assert (tmp_path / "zoo" / path).read_bytes() == published[path]
        assert not (tmp_path / "zoo" / path).is_symlink()
    rows = json.loads(command("bench", "zoo", "ls", str(tmp_path / "zoo"), "--json").out)
    assert [row["name"] for row in rows] == ["ref-convnext", "ref-masked", "resnet", "ssl-backdoor-0"]
    again = len(hub.requests)
    repeated = command("bench", "zoo", "fetch", address, "-o", str(tmp_path / "zoo"), "--offline")
    assert (repeated.code, len(hub.requests)) == (EXIT_PASS, again)
    copied = command("bench", "zoo", "fetch", address, "-o", str(tmp_path / "copy"), "--offline")
    assert (copied.code, len(hub.requests)) == (EXIT_PASS, again)


def test_a_fetched_zoo_serves_the_benchmark_an_audit_and_the_hub(
    hub: HubServer,
    published: dict[str, bytes],
    tmp_path: Path,
    command: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PLATODEF_CACHE_DIR", str(tmp_path / "features"))
    commit = hub.commit("org/zoo", published)
    zoo = tmp_path / "zoo"
    fetch(f"hf://org/zoo@{commit}", zoo)
    table = command(
        "bench", "run", "--zoo", str(zoo), "--table", "alignment", "--limit", "400", 
        "-o", f"json={tmp_path / 'table.json'}",
    )  # fmt: skip
    assert table.code == EXIT_PASS, table.err
    assert "resnet" in json.loads((tmp_path / "table.json").read_text())["encoders"]
    encoders = zoo / "encoders"
    for suspect in (str(encoders / "resnet"), f"org/zoo/encoders/resnet@{commit}"):
        audit = command(
            "audit", suspect, "-r", str(encoders / "ref-convnext"), "-r", str(encoders / "ref-masked"),
            "-i", "builtin:shapes?count=600", "--plan", "-o", "json",
        )  # fmt: skip
        assert audit.code == EXIT_PASS, audit.err
    # what was benchmarked in it is still the zoo that was fetched
    assert fetch(f"hf://org/zoo@{commit}", zoo).written is False


@pytest.mark.parametrize(
    "uri",
    ["hf://org/zoo", "hf://org/zoo@main", "hf://org/zoo@abc", "hf://datasets/org/zoo", "zoo/", "s3://b/z"],
)
def test_what_is_not_pinned_is_refused_before_any_request(
    hub: HubServer, tmp_path: Path, command: Call, uri: str
) -> None:
    done = command("bench", "zoo", "fetch", uri, "-o", str(tmp_path / "zoo"))
    assert done.code == EXIT_USAGE
    assert not hub.requests
    assert not (tmp_path / "zoo").exists()


def weights(files: dict[str, bytes]) -> str:
    return next(path for path in files if path.startswith("encoders/resnet/") and path.endswith("tensors"))


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


Change = Callable[[dict[str, bytes]], dict[str, bytes]]

CHANGES: dict[str, Change] = {
    "a weight is another": lambda files: {**files, weights(files): flipped(files[weights(files)])},
    "a weight is another, and so is its sum": lambda files: resummed(
        {**files, weights(files): flipped(files[weights(files)])}
    ),
    "a pickle": lambda files: resummed({**files, "encoders/resnet/pytorch_model.bin": b"\x80\x02."}),
    "code": lambda files: resummed({**files, "encoders/resnet/modeling.py": b"import os"}),
    "a path upwards": lambda files: {
        **files,
        "SHA256SUMS": files["SHA256SUMS"] + b"0" * 64 + b"  ../../.ssh/authorized_keys.txt\n",
    },
    "a file beside the encoders": lambda files: resummed({**files, "extra/model.safetensors": b"x"}),
    "the card of another encoder": lambda files: resummed(
        {**files, "encoders/resnet/card.json": files["encoders/ref-convnext/card.json"]}
    ),
    "an encoder that the manifest does not name": lambda files: resummed(
        {**files, **{p.replace("/resnet/", "/other/"): d for p, d in files.items() if "/resnet/" in p}}
    ),
    "a manifest of other encoders": lambda files: resummed(
        {**files, "zoo.json": files["zoo.json"].replace(b'"resnet"', b'"../resnet"')}
    ),
    "a configuration that runs code": lambda files: {
        **files, "encoders/resnet/config.json": b'{"auto_map": {"AutoModel": "x.y"}}'
    },
    "a manifest that is none": lambda files: resummed({**files, "zoo.json": b"[1]"}),
    "no manifest": lambda files: resummed({p: d for p, d in files.items() if p != "zoo.json"}),
    "sums in another order": lambda files: {
        **files, "SHA256SUMS": b"\n".join(reversed(files["SHA256SUMS"].splitlines())) + b"\n"
    },
    "no trigger": lambda files: resummed({p: d for p, d in files.items() if "/trigger/" not in p}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_zoo_that_is_not_what_it_says_is_refused(
    name: str, hub: HubServer, published: dict[str, bytes], tmp_path: Path
) -> None:
    commit = hub.commit("org/zoo", CHANGES[name](published))
    with pytest.raises(RefusedError) as caught:
        fetch(f"hf://org/zoo@{commit}", tmp_path / "here" / "zoo")
    assert str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "here" / "zoo").exists()


def test_other_sums_than_the_publisher_told_are_refused(
    hub: HubServer, published: dict[str, bytes], tmp_path: Path, command: Call
) -> None:
    commit = hub.commit("org/zoo", published)
    done = command(
        "bench", "zoo", "fetch", f"hf://org/zoo@{commit}", "-o", str(tmp_path / "z"), "--sha256", "0" * 64
    )
    assert done.code == EXIT_REFUSED
    assert not any("safetensors" in path for _, path in hub.requests)


def test_a_repository_without_a_zoo_and_none_at_all(
    hub: HubServer, model_files: dict[str, bytes], tmp_path: Path
) -> None:
    commit = hub.commit("org/model", model_files)
    with pytest.raises(UsageError, match="SHA256SUMS"):
        fetch(f"hf://org/model@{commit}", tmp_path / "zoo")
    with pytest.raises(HubError, match="no such data set"):
        fetch(f"hf://datasets/org/none@{commit}", tmp_path / "zoo")
    assert list(tmp_path.glob("*zoo*")) == []


def test_a_dropped_connection_is_taken_up_again(
    hub: HubServer, published: dict[str, bytes], tmp_path: Path, command: Call
) -> None:
    commit = hub.commit("org/zoo", published)
    hub.faults = [Fault("/lfs/", method="GET", times=None, status=503)]
    done = command("bench", "zoo", "fetch", f"hf://org/zoo@{commit}", "-o", str(tmp_path / "zoo"))
    assert done.code == EXIT_INCOMPLETE, done.err
    assert not (tmp_path / "zoo").exists()
    hub.faults, before = [], len(hub.requests)
    assert fetch(f"hf://org/zoo@{commit}", tmp_path / "zoo").written
    # the small files came the first time
    assert not any(path.endswith("trigger.json") for method, path in hub.requests[before:] if method == "GET")


def test_the_folder_of_the_user_is_left_alone(
    hub: HubServer, published: dict[str, bytes], tmp_path: Path
) -> None:
    commit = hub.commit("org/zoo", published)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "thesis.md").write_text("years of work")
    with pytest.raises(UsageError, match="not empty"):
        fetch(f"hf://org/zoo@{commit}", tmp_path / "zoo")
    fetch(f"hf://org/zoo@{commit}", tmp_path / "good")
    card = tmp_path / "good" / "encoders" / "resnet" / "card.json"
    card.write_bytes(card.read_bytes().replace(b'"clean"', b'"backdoored"'))
    with pytest.raises(PlatodefError, match=r"card.json was changed"):
        fetch(f"hf://org/zoo@{commit}", tmp_path / "good")
    assert (tmp_path / "zoo" / "thesis.md").read_text() == "years of work"
