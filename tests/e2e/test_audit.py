"""The main job on real encoders: verdicts, exit codes, reproducible reports, resuming."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from platodef_cli.records import AuditReport
from platodef_cli.resources import data_dir
from tests.unit.cli.calls import Call

SHARED = Path(__file__).parents[3] / "shared"
REAL = pytest.mark.skipif(
    not (SHARED / "encoders").is_dir(), reason="the folder 'shared' with real encoders and images is absent"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole module: the references are examined once."""
    return tmp_path_factory.mktemp("cache")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "platodef_cli.cli.app", "audit", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "80", "NO_COLOR": "1"}


def audit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(), timeout=600, check=False
    )


def real(suspect: str, cache: Path) -> list[str | Path]:
    encoders = SHARED / "encoders"
    return [
        encoders / suspect,
        "--reference", encoders / "ref-vit",
        "--reference", encoders / "ref-cnx",
        "--images", SHARED / "data" / "cifar10" / "test.parquet",
        "--cache-dir", cache,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_backdoored_reference_is_named_and_clears_nobody(cache: Path, tmp_path: Path) -> None:
    """It makes an audit inconclusive only where the suspect shows what it could hide."""
    path = tmp_path / "report.json"
    references = [word for name in ("reference-vit", "backdoored") for word in ("-r", f"builtin:{name}")]
    words = ("--images", "builtin:shapes?seed=1&count=3000", "--cache-dir", cache, "-o", f"json={path}")
    same = tmp_path / "same-backdoor"
    shutil.copytree(data_dir("encoders") / "backdoored", same)
    weights = load_file(same / "model.safetensors")
    weights["conv1.weight"] = weights["conv1.weight"] * 1.001
    save_file(weights, same / "model.safetensors", metadata={"format": "pt"})
    for suspect, code in (("builtin:clean", 0), (same, 4)):
        done = audit(suspect, *references, *words)
        assert done.returncode == code, done.stderr
        report = AuditReport.model_validate_json(path.read_text())
        (reason,) = [reason for reason in report.reasons if reason.id == "reference"]
        assert reason.subject == "backdoored"
        assert "itself behaves like a backdoored encoder" in reason.message
        assert reason.outcome == ("inconclusive" if code else "pass")
        named = [finding.id for finding in report.findings if finding.id.startswith("reference-")]
        assert named == ([] if code else ["reference-backdoored"])


@pytest.mark.parametrize(
    ("name", "code", "word"),
    [
        ("clean", 0, "PASS (0)"),
        ("backdoored", 1, "FAIL (1)"),
        pytest.param("backdoored-frequency", 1, "FAIL (1)", marks=pytest.mark.slow),
    ],
)
def test_embedded_encoders(
    platodef: Call,
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    tmp_path: Path,
    name: str,
    code: int,
    word: str,
) -> None:
    path = tmp_path / "report.json"
    outputs = ("-o", f"json={path}", "-o", f"html={tmp_path}/report.html", "-o", "terminal")
    done = audit(f"builtin:{name}", "--cache-dir", cache, *outputs)
    assert done.returncode == code, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(word)
    report = AuditReport.model_validate_json(path.read_text())
    assert report.exit_code == code
    # judged again without the model, by the policy that it records: the same bytes
    monkeypatch.chdir(tmp_path)
    gated = platodef("gate", path, "-o", "json")
    assert (gated.code, gated.out) == (code, path.read_text())
    assert report.head is not None
    assert report.head.origin == "loaded"
    assert report.target.isolated
    assert all(len(line) <= 80 for line in done.stderr.splitlines()[:-1])
    assert {curve.group == "mismatched" for curve in report.roc} == {True, False}
    assert len(report.suspicious_images) == 8
    assert report.found is None or len(report.found.originals) == len(report.found.examples)
    page = (tmp_path / "report.html").read_text()
    assert word in page
    assert report.context is not None
    accused = report.context.accused
    assert (accused is None) is (name == "clean")
    if accused is not None:
        # the accused change on images stands first, known or found
        assert page.index("<section") == page.index('<section id="accused"')
        assert len(accused.originals) == len(accused.examples) == 4
        suspect, *others = accused.said
        assert suspect.role == "suspect"
        assert len(suspect.classes) == 4
        kept = [said.kept.value or 0.0 for said in others]
        assert (suspect.kept.value or 0.0) < min(kept)
    assert page.count("<svg") >= 8
    if name == "backdoored":
        suspicious = {probe.name for probe in report.probes if probe.suspicious}
        assert "patch-white-0.3125-bottom-right" in suspicious
    if name == "backdoored-frequency":
        assert report.found is not None  # the search finds it without knowing CTRL
        assert {probe.family for probe in report.probes if probe.suspicious} >= {"ctrl"}


@pytest.mark.slow
def test_same_seed_same_bytes_from_a_cold_and_a_warm_cache(cache: Path, tmp_path: Path) -> None:
    texts = []
    for number, extra in enumerate((["--cache-dir", str(tmp_path / "cold")], ["--cache-dir", str(cache)])):
        path = tmp_path / f"{number}.json"
        arguments = ["builtin:backdoored", "--battery", "quick", "--probe-images", "60"]
        assert audit(*arguments, *extra, "-o", f"json={path}").returncode == 1
        content = json.loads(path.read_text())
        content.pop("timing")
        texts.append(json.dumps(content))
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_interrupted_audit_resumes_from_its_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    arguments = command("builtin:clean", "--battery", "quick", "--probe-images", "150", "--cache-dir", cache)
    running = subprocess.Popen(
        arguments,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        # a shell starts background jobs with interrupts ignored, and so would the tests' children be
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 240

    def finished() -> list[Path]:
        # a file in the making has a hidden name
        return [path for path in cache.glob("features/*/*") if not path.name.startswith(".")]

    while not finished() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=240)
    assert running.returncode == 130, stderr
    assert "interrupted" in stderr
    before = {path: path.stat().st_mtime_ns for path in finished()}
    assert before
    report = tmp_path / "report.json"
    done = subprocess.run(
        [*arguments, "-o", f"json={report}"], capture_output=True, text=True, env=environment(), timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert AuditReport.model_validate_json(report.read_text()).timing.cache_hits >= len(before)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


@pytest.mark.slow
@REAL
@pytest.mark.parametrize(
    ("suspect", "codes"), [("suspect-a", {1}), ("suspect-b", {0}), ("suspect-c", {0, 4})]
)
def test_encoders_that_others_trained(cache: Path, tmp_path: Path, suspect: str, codes: set[int]) -> None:
    path = tmp_path / "report.json"
    done = audit(*real(suspect, cache), "-o", f"json={path}")
    assert done.returncode in codes, done.stderr
    report = AuditReport.model_validate_json(path.read_text())
    undefended, flagged, _ = report.accuracy
    if suspect == "suspect-a":
        assert {probe.name for probe in report.probes if probe.suspicious} >= {
            "patch-white-0.3125-bottom-right"
        }
        assert undefended.target == "truck" or undefended.target == "9"
        assert undefended.attack_success.value > 0.95
        # heads fitted on 2 500 unlabelled images only
        assert flagged.attack_success.value < 0.10
        assert flagged.clean_accuracy.value > undefended.clean_accuracy.value - 0.03
    else:
        assert not [probe for probe in report.probes if probe.suspicious]


@pytest.mark.slow
@REAL
def test_unlabelled_images_do(cache: Path, tmp_path: Path) -> None:
    photos = SHARED / "data" / "photos"
    path = tmp_path / "report.json"
    done = audit(
        "builtin:clean", "--images", photos, "--limit", "300", "--cache-dir", cache, "--battery", "quick",
        "--probe-images", "40", "-o", f"json={path}",
    )  # fmt: skip
    assert done.returncode == 4, done.stderr  # 300 photographs are too few for more than a trial run
    report = AuditReport.model_validate_json(path.read_text())
    assert report.accuracy == ()
    assert any("no labels" in line for line in report.not_examined)
    assert "too-few-images" in {reason.id for reason in report.reasons if reason.outcome == "inconclusive"}


@pytest.mark.slow
def test_a_trial_run_with_limit_is_inconclusive(cache: Path) -> None:
    done = audit("builtin:clean", "--limit", "400", "--battery", "quick", "--cache-dir", cache)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("INCONCLUSIVE (4)")


def test_too_few_images_to_fit_heads_on_are_inconclusive_too(platodef: Call, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    images = "builtin:shapes?seed=3&count=90"
    done = platodef(
        "audit", "builtin:clean", "--images", images, "--battery", "quick", "-o", f"json={output}"
    )
    assert done.code == 4
    assert "90 images are too few" in done.last
    report = json.loads(output.read_text())
    assert report["summary"] == done.last
    assert report["target"] is None  # nothing was loaded
    assert report["images"]["count"] == 90
    assert report["policy"]["name"] == "default"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["builtin:nothing"], 2, "choose one of: backdoored"),
        (["{tmp}/absent"], 2, "absent"),
        (["{tmp}/pickle", "--images", "builtin:shapes"], 5, "pickle"),
        (["builtin:clean", "--reference", "builtin:clean"], 2, "the same encoder"),
        (["builtin:clean", "--images", "{tmp}/absent.parquet"], 2, "absent.parquet"),
        (["builtin:clean", "--head", "{tmp}/pickle"], 2, "head.json"),
        (["builtin:clean", "--fpr", "2"], 2, "2"),
        (["org/name@main", "--images", "builtin:shapes", "--offline"], 3, "org/name"),
    ],
)
def test_bad_input_ends_in_one_line(
    platodef: Call,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    told: str,
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    folder = tmp_path / "pickle"
    folder.mkdir()
    (folder / "config.json").write_text('{"architecture": "resnet18"}')
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04\x95not a model")
    output = tmp_path / "report.json"
    words = (entry.format(tmp=tmp_path) for entry in arguments)
    done = platodef("audit", *words, "-o", f"json={output}")
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert told in done.last
    assert output.exists() is (code in (3, 5))  # a usage error is no verdict
    if output.exists():
        report = json.loads(output.read_text())
        assert (report["exit_code"], report["target"]) == (code, None)
