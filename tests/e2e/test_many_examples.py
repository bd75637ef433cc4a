"""The recipes for many encoders: they parse, their options exist, and what can run here runs."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from typer.main import get_command

from platodef_cli.cli.app import app
from platodef_cli.cli.audit_many import parse_shard
from platodef_cli.jobs.manifest import read_manifest
from tests.unit.cli.calls import ROOT

MANY = ROOT / "examples" / "many"
PINNED = re.compile(r"uses: [\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def options() -> dict[str, set[str]]:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: {flag for entry in each.params for flag in (*entry.opts, *entry.secondary_opts)}
        for name, each in commands.items()
    }


@pytest.mark.parametrize(
    "path", [*sorted(MANY.iterdir()), ROOT / "examples" / "MANY.md"], ids=lambda p: p.name
)
def test_every_option_exists(path: Path) -> None:
    known = options()
    text = path.read_text().replace("\\\n", " ")
    used = re.findall(r"platodef (audit-many|summary|audit)((?: [^`#|&]*)?)", text)
    for name, rest in used:
        given = set(re.findall(r"(?<= )-(?:-[a-z-]+|[a-z])\b", rest))
        assert given <= known[name], (path, name, given - known[name])
    if path.suffix not in (".toml", ".py"):
        assert used


def test_links_of_the_page() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "examples" / "MANY.md").read_text())
    assert len(links) == 5
    assert all((ROOT / "examples" / link).exists() for link in links)


def test_the_manifest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = read_manifest(MANY / "manifest.toml")
    assert [each.name for each in manifest.suspects] == [
        "timm--vit_base_patch16_224.augreg2_in21k_ft_in1k",
        "ours",
    ]
    assert manifest.suspects[1].options["memory_limit_gb"] == 12.0


def test_the_matrix() -> None:
    path = MANY / "github-matrix.yml"
    words = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        str(path),
    ]
    assert subprocess.run(words, capture_output=True, timeout=60, check=False).returncode == 0
    text = path.read_text()
    assert [line for line in text.splitlines() if "uses:" in line and not PINNED.search(line)] == []
    jobs = yaml.safe_load(text)["jobs"]
    shards = jobs["audit"]["strategy"]["matrix"]["shard"]
    (command,) = [step["run"] for step in jobs["audit"]["steps"] if "audit-many" in step.get("run", "")]
    assert f"$SHARD/{len(shards)}" in command
    assert [parse_shard(f"{shard}/{len(shards)}")[0] for shard in shards] == list(range(1, len(shards) + 1))
    assert "${{" not in command  # nothing is pasted into a shell


def fake_platodef(folder: Path) -> dict[str, str]:
    script = folder / "platodef"
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{folder}/words"\n')
    script.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def test_the_array(tmp_path: Path) -> None:
    env = {**fake_platodef(tmp_path), "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "100"}
    done = subprocess.run(
        ["bash", str(MANY / "slurm-array.sh")], env=env, cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 0
    words = (tmp_path / "words").read_text().split()
    assert words == ["audit-many", "manifest.toml", "--shard", "7/100", "-o", "reports"]
    header = re.findall(r"^#SBATCH --(\w+)", (MANY / "slurm-array.sh").read_text(), re.MULTILINE)
    assert "array" in header


def test_the_indexed_job(tmp_path: Path) -> None:
    job = yaml.safe_load((MANY / "kubernetes-job.yaml").read_text())
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    env = {**fake_platodef(tmp_path), "JOB_COMPLETION_INDEX": str(spec["completions"] - 1)}
    command = [*container["command"], *container["args"]]
    assert subprocess.run(command, env=env, cwd=tmp_path, timeout=60, check=False).returncode == 0
    words = (tmp_path / "words").read_text().split()
    number, count = parse_shard(words[words.index("--shard") + 1])
    assert number == count == spec["completions"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert 3 not in rule["onExitCodes"]["values"]
    # Kubernetes accepts a policy of failures only where pods are never restarted in place
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


@pytest.fixture(scope="module")
def webhook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hub_webhook", MANY / "hub_webhook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def event(**changes: Any) -> dict[str, Any]:
    repo = {"type": "model", "name": "org/name", "headSha": COMMIT, "private": False}
    return {"event": {"action": "update", "scope": "repo.content"}, "repo": {**repo, **changes}}


def test_what_an_event_asks_for(webhook: ModuleType) -> None:
    words = webhook.command_of(event(), "images", ["org/r"])
    assert words[-2:] == ["--", f"org/name@{COMMIT}"]
    assert {word for word in words if word.startswith("--")} - {"--"} <= options()["audit"]
    assert webhook.command_of(event(type="dataset"), "images") is None
    other = {**event(), "event": {"action": "create", "scope": "discussion"}}
    assert webhook.command_of(other, "images") is None
    for wrong in (
        {},
        [],
        "x",
        None,
        event(name="--help"),
        event(name=3),
        event(headSha="main"),
        event(name="a/../b"),
    ):
        with pytest.raises(ValueError, match="event"):
            webhook.command_of(wrong, "images")


@pytest.fixture
def served(webhook: ModuleType) -> Iterator[tuple[int, list[list[str]]]]:
    started: list[list[str]] = []

    def start(command: list[str]) -> str:
        if "broken" in command[-1]:
            raise RuntimeError("secret of the Hub")
        started.append(command)
        return "https://hub/jobs/1"

    server = webhook.server(("127.0.0.1", 0), "s3cret", "images", [], start)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1], started
    server.shutdown()
    server.server_close()


def post(port: int, body: bytes, secret: str = "s3cret") -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/", body, {"X-Webhook-Secret": secret})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_the_webhook_serves(
    served: tuple[int, list[list[str]]], capfd: pytest.CaptureFixture[str], webhook: ModuleType
) -> None:
    port, started = served
    good = json.dumps(event()).encode()
    assert post(port, good) == (202, "https://hub/jobs/1")
    assert post(port, good, "wrong")[0] == 403
    assert post(port, b"[")[0] == 400
    assert post(port, b"[" * 100_000)[0] == 400
    assert post(port, json.dumps(event(type="space")).encode()) == (200, "nothing to audit")
    assert post(port, json.dumps(event(name="org/broken")).encode()) == (502, "the Job could not be started")
    assert len(started) == 1
    assert "secret of the Hub" not in capfd.readouterr().err
