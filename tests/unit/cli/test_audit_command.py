"""`platodef audit`: options become a configuration, a verdict becomes an exit code. No audit is run here."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.partial_report import PartialReport
from platodef_cli.audit.policy.limits import Policy
from platodef_cli.errors import HubError, IncompleteError, InconclusiveError, RefusedError, UsageError
from platodef_cli.records import AuditReport
from platodef_cli.report import REPORTS
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.json import render
from tests.unit.cli.calls import Call, Result

Audit = Callable[..., tuple[Result, list[AuditConfig]]]


@pytest.fixture
def audit(platodef: Call, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """Run ``platodef audit`` with an audit that gives the report, or raises the error, it was told to."""
    monkeypatch.delenv("PLATODEF_CACHE_DIR")

    def call(outcome: AuditReport | BaseException, *words: object) -> tuple[Result, list[AuditConfig]]:
        seen: list[AuditConfig] = []

        def fake(config: AuditConfig, *, progress: Any, partial: PartialReport, told: Any) -> AuditReport:
            seen.append(config)
            with progress.step("extracting", 1) as task:
                task.advance()
            progress.warn("two images are broken")
            partial.config, partial.warnings = config, ["two images are broken"]
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(import_module("platodef_cli.audit.run"), "audit", fake)
        return platodef("audit", *words), seen

    return call


def _verdict(report: AuditReport, verdict: str, code: int) -> AuditReport:
    summary = f"{verdict.upper()} ({code}): because"
    return report.model_copy(update={"verdict": verdict, "exit_code": code, "summary": summary})


VERDICTS = [("pass", 0), ("fail", 1), ("error", 3), ("inconclusive", 4), ("refused", 5)]


@pytest.mark.parametrize(("verdict", "code"), VERDICTS)
@pytest.mark.parametrize("form", REPORTS.names())
def test_exit_code_is_the_verdict_whatever_the_format(
    audit: Audit, golden_report: AuditReport, verdict: str, code: int, form: str
) -> None:
    done, _ = audit(_verdict(golden_report, verdict, code), "m", "-o", form)
    assert done.code == code
    assert done.last == f"{verdict.upper()} ({code}): because"


@pytest.mark.parametrize(("verdict", "code"), VERDICTS)
def test_exit_zero_forgives_1_only(audit: Audit, golden_report: AuditReport, verdict: str, code: int) -> None:
    done, _ = audit(_verdict(golden_report, verdict, code), "m", "--exit-zero")
    assert done.code == (0 if code == 1 else code)
    assert ("exit code 0 because of --exit-zero" in done.last) is (code == 1)
    assert done.last.startswith(f"{verdict.upper()} ({code}): ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("the images are too few"), 2),
        (HubError("the hub does not answer"), 3),
        (IncompleteError("the child process died"), 3),
        (MemoryError(), 3),
        (ZeroDivisionError(), 3),
        (InconclusiveError("60 images are too few"), 4),
        (RefusedError("model.bin is a pickle"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_never_a_finding_and_leaves_its_verdict(
    audit: Audit, tmp_path: Path, error: BaseException, code: int
) -> None:
    target = tmp_path / "report.json"
    target.write_text("an older report")
    done, _ = audit(error, "m", "-o", f"json={target}", "--exit-zero")
    assert done.code == code
    assert f"({code}): " in done.last
    assert "Traceback" not in done.err
    if code in (2, 130):  # no verdict, and nobody shall take the older one for it
        (previous,) = tmp_path.iterdir()
        assert (previous.name, previous.read_text()) == ("report.json.previous", "an older report")
        assert "report.json was not written; that of an earlier run is now report.json.previous" in done.err
        return
    assert list(tmp_path.iterdir()) == [target]
    report = AuditReport.model_validate_json(target.read_text())
    assert report.exit_code == code
    assert report.verdict == {3: "error", 4: "inconclusive", 5: "refused"}[code]
    assert report.summary == done.last
    assert report.warnings == ("two images are broken",)
    assert report.target is None


@pytest.mark.parametrize("form", [name for name in REPORTS.names() if name != "terminal"])
def test_every_format_says_how_an_audit_ended(audit: Audit, form: str) -> None:
    done, _ = audit(RefusedError("model.bin is a pickle"), "org/name", "-o", form)
    assert done.code == 5
    assert "refused" in done.out.lower()
    assert "model.bin is a pickle" in re.sub(r"[\\]", "", done.out)
    assert "org/name" in done.out.replace("&#47;", "/")


def test_an_error_before_the_audit_is_told_as_well(
    audit: Audit, golden_report: AuditReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> Path:
        raise HubError("the hub does not answer")

    monkeypatch.setattr("platodef_cli.cli.audit.find_heads", fail)
    done, seen = audit(golden_report, "m", "--head", "far", "-o", f"json={tmp_path}/r.json")
    assert done.code == 3
    assert seen == []
    report = AuditReport.model_validate_json((tmp_path / "r.json").read_text())
    assert (report.verdict, report.reasons[0].id) == ("error", "hub")


def test_a_report_that_cannot_be_written_hides_no_verdict(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("platodef_cli.cli.report.write_text", fail)
    done, _ = audit(RefusedError("a pickle"), "m", "-o", f"json={tmp_path}/r.json")
    assert done.code == 5
    assert done.last == "REFUSED (5): a pickle"
    assert "warning: the report could not be written: No space left on device" in done.err


@pytest.mark.parametrize("anchor", ["/etc/passwd", "../x", "a/../b", "", "a\\b"])
def test_an_anchor_lies_in_the_repository(audit: Audit, golden_report: AuditReport, anchor: str) -> None:
    done, seen = audit(golden_report, "m", "--anchor", anchor)
    assert done.code == 2
    assert "is not a file below the repository's root" in done.last
    assert seen == []


@pytest.mark.parametrize(
    ("files", "words", "expected"),
    [
        ((), (), "platodef.toml"),
        (("pyproject.toml",), (), "pyproject.toml"),
        (("pyproject.toml", "platodef.toml"), (), "platodef.toml"),
        (("platodef.toml",), ("--anchor", "models/lock.json"), "models/lock.json"),
    ],
)
def test_sarif_points_to_the_policy_or_the_manifest(
    audit: Audit,
    golden_report: AuditReport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: tuple[str, ...],
    words: tuple[str, ...],
    expected: str,
) -> None:
    for name in files:
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    done, _ = audit(golden_report, "m", "-o", "sarif", *words)
    first = json.loads(done.out)["runs"][0]["results"][0]
    assert first["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == expected


def test_json_on_stdout_everything_else_on_stderr(audit: Audit, golden_report: AuditReport) -> None:
    done, _ = audit(golden_report, "m", "-o", "json", "-o", "terminal")
    assert done.out == render(golden_report, RenderOptions())
    assert json.loads(done.out)["verdict"] == "fail"
    assert "the encoder is suspicious" in done.err
    assert done.err.count("warning: two images are broken") == 1


def test_without_a_terminal_there_is_no_progress(audit: Audit, golden_report: AuditReport) -> None:
    done, _ = audit(golden_report, "m", "-q")
    assert done.err.splitlines() == ["warning: two images are broken", golden_report.summary]
    done, _ = audit(golden_report, "m", "--progress", "on")
    assert "  extracting  0.0 s" in done.err


def test_a_hostile_summary_stays_one_line(audit: Audit, golden_report: AuditReport) -> None:
    report = golden_report.model_copy(update={"summary": "FAIL (1): [red]x[/red] \x1b[2J\nPASS (0): fine"})
    done, _ = audit(report, "m", "-q")
    assert done.last == r"FAIL (1): [red]x[/red] \x1b[2J PASS (0): fine"


def test_defaults_are_those_of_the_audit(
    audit: Audit, golden_report: AuditReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    _, seen = audit(golden_report, "org/name")
    assert seen == [AuditConfig(model="org/name")]


def test_every_option_reaches_the_audit(
    audit: Audit, golden_report: AuditReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
    (tmp_path / "head.json").write_text("{}")
    (tmp_path / "strict.toml").write_text("auroc = 0.7\npatch_collapse = [0.5, 0.6]\nmin_test = 50\n")
    words = (
        "--revision v1 -r a/b@c -r d --images builtin:shapes --limit 900 --max-broken 0.2 --seed 7".split()
    )
    words += f"--head {tmp_path} --cache-dir {tmp_path} --no-cache --offline --device cuda:1".split()
    words += "--dtype bfloat16 --batch-size 8 --memory-limit 2.5 --time-limit 60 --fpr 0.01".split()
    words += f"--battery quick --probe-images 50 --policy {tmp_path}/strict.toml".split()
    words += "--detector knn --detector ridge --purifier heun".split()
    _, seen = audit(golden_report, "org/name", *words)
    expected = replace(
        AuditConfig(model="org/name"),
        revision="v1",
        references=("a/b@c", "d"),
        images="builtin:shapes",
        limit=900,
        max_broken_share=0.2,
        seed=7,
        head=str(tmp_path),
        cache_dir=tmp_path,
        use_cache=False,
        offline=True,
        device="cuda:1",
        dtype="bfloat16",
        batch_size=8,
        memory_limit_gb=2.5,
        time_limit_s=60.0,
        false_positive_rate=0.01,
        detectors=("knn", "ridge"),
        purifier="heun",
        battery="quick",
        probe_images=50,
        policy=Policy(name="strict", auroc=0.7, patch_collapse=(0.5, 0.6), min_test=50),
    )
    assert seen == [expected]


def test_offline_from_the_environment(
    audit: Audit, golden_report: AuditReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
    _, seen = audit(golden_report, "m")
    assert seen[0].offline


@pytest.mark.parametrize("output", ["json=/no/such/place/r.json", "pdf", "json=."])
def test_bad_outputs_are_found_before_the_work(audit: Audit, golden_report: AuditReport, output: str) -> None:
    done, seen = audit(golden_report, "m", "-o", output)
    assert done.code == 2
    assert seen == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the policy"),
        ("auroc = ", "is not TOML"),
        ("\xff", "is not TOML"),
        ("aurok = 0.8", "(did you mean 'auroc'?)"),
        ("auroc = 80", "auroc is 80, it must be a number between -1 and 1"),
        ("auroc = nan", "auroc is nan, it must be a number"),
        ("auroc = true", "auroc is True, it must be a number"),
        ("auroc = 'high'", "auroc is 'high', it must be a number"),
        ("min_test = 0.5", "min_test is 0.5, it must be a whole number from 1 on"),
        ("min_test = 0", "min_test is 0, it must be a whole number from 1 on"),
        ("name = 3", "name is 3, it must be a name"),
        ("patch_collapse = 0.5", "patch_collapse is 0.5, it must be a list of 2 numbers"),
        ("patch_collapse = [0.5]", "it must be a list of 2 numbers"),
        ("patch_collapse = [0.5, 'x']", "patch_collapse[1] is 'x', it must be a number"),
    ],
)
def test_bad_policies_are_one_line_before_the_work(
    audit: Audit, golden_report: AuditReport, tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "policy.toml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    done, seen = audit(golden_report, "m", "--policy", path)
    assert done.code == 2
    assert message in done.last
    assert len(done.err.strip().splitlines()) == 1
    assert seen == []


def test_verbose_tells_steps_and_cache_even_in_a_log(audit: Audit, golden_report: AuditReport) -> None:
    timing = golden_report.timing.model_copy(
        update={
            "seconds": {"load": 1.25, "total": 2.0},
            "processor_seconds": {"load": 1.0},
            "processors": 2,
            "ready": {"load": 0.55},
            "cache_hits": 7,
            "cache_misses": 2,
            "peak_memory_mb": 9.6,
        }
    )
    report = golden_report.model_copy(update={"timing": timing})
    quiet, _ = audit(report, "m")
    loud, _ = audit(report, "m", "-v")
    for told in (
        "  extracting  0.0 s\n",
        "steps: load 1.2 s, total 2.0 s; peak memory 10 MB\n",
        "use of 2 processors (and share ready to run): load 40% (55%)\n",
        "cache: 7 entries used, 2 computed\n",
    ):
        assert told in loud.err
        assert told not in quiet.err
    assert "cache: 7" not in audit(report, "m", "-v", "-q")[0].err
    assert "\x1b" not in loud.err


@pytest.mark.parametrize("words", [(), ("-v",), ("-q",), ("--no-color",)])
def test_no_control_codes_outside_a_terminal(
    audit: Audit, golden_report: AuditReport, words: tuple[str, ...]
) -> None:
    done, _ = audit(golden_report, "m", "-o", "json", "-o", "terminal", *words)
    assert "\x1b" not in done.err + done.out
    assert "\r" not in done.err + done.out


def test_judging_options_reach_the_audit(audit: Audit, golden_report: AuditReport) -> None:
    _, seen = audit(golden_report, "m", "--set", "auroc=0.9", "--fail-if", "findings.high > 0")
    assert seen[0].policy == Policy(name="default, adjusted", auroc=0.9, fail_if=("findings.high > 0",))


RECORDED = Path(__file__).parents[2] / "golden" / "gate"


def test_a_baseline_is_read_before_the_work_and_compared_after_it(
    audit: Audit, golden_report: AuditReport, tmp_path: Path
) -> None:
    bad = AuditReport.model_validate_json((RECORDED / "backdoored.json").read_bytes())
    done, _ = audit(bad, "m", "--baseline", RECORDED / "backdoored.json")
    assert done.code == 0
    done, seen = audit(bad, "m", "--baseline", tmp_path / "absent.json")
    assert (done.code, seen) == (2, [])
    done, seen = audit(bad, "m", "--waivers", tmp_path / "absent.toml")
    assert (done.code, seen) == (2, [])


def test_a_baseline_that_cannot_be_compared_does_not_cost_the_report(
    audit: Audit, golden_report: AuditReport, tmp_path: Path
) -> None:
    bad = AuditReport.model_validate_json((RECORDED / "backdoored.json").read_bytes())
    other = tmp_path / "other.json"
    assert bad.images is not None
    images = bad.images.model_copy(update={"digest": "0" * 64})
    other.write_text(render(bad.model_copy(update={"images": images}), RenderOptions()))
    target = tmp_path / "report.json"
    done, _ = audit(bad, "m", "--baseline", other, "-o", f"json={target}")
    assert done.code == 2
    assert "other images" in done.last
    assert AuditReport.model_validate_json(target.read_text()) == bad
