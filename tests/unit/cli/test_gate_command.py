"""`platodef gate` and what judging adds to `platodef audit`, through the real command on recorded reports."""

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from platodef_cli.records import AuditReport
from tests.unit.attestation.test_attestation import envelope, pem
from tests.unit.audit.test_error_rate import calibrated
from tests.unit.cli.calls import ROOT, Call, python

RECORDED = ROOT / "tests" / "golden" / "gate"
CLEAN, BAD = RECORDED / "clean.json", RECORDED / "backdoored.json"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the developer's folder or environment may decide."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def changed(tmp_path: Path, source: Path, **fields: Any) -> Path:
    content = {**json.loads(source.read_text()), **fields}
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(content))
    return path


def test_gate_says_what_the_audit_said_and_needs_no_torch(platodef: Call) -> None:
    assert platodef("gate", CLEAN).code == 0
    done = platodef("gate", BAD, "-o", "json")
    assert done.code == 1
    assert done.out == BAD.read_text()
    assert done.last == json.loads(BAD.read_text())["summary"]
    code = (
        "import sys; from platodef_cli.cli.app import main; "
        "c = main(sys.argv[1:]); print(c, 'torch' in sys.modules)"
    )
    assert python(code, "gate", str(BAD), "-q").out == "1 False\n"


MILD = ("--set", "battery_collapse=1", "--set", "battery_shift=9", "--set", "patch-collapse=1,1")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((BAD,), 1),
        ((BAD, "--exit-zero"), 0),
        ((BAD, *MILD), 0),
        ((CLEAN, "--fail-if", "matched-auroc >= 0.5"), 1),
        ((CLEAN, "--fail-if", "findings.high > 0"), 0),
        ((CLEAN, "--set", "min_test=5000"), 4),
        ((CLEAN, "--set", "min_test=5000", "--exit-zero"), 4),
        ((CLEAN, "--set", "min_tset=5000"), 2),
        ((CLEAN, "--fail-if", "aurok > 0.9"), 2),
        ((CLEAN, "--fail-if", "auroc > 0.9; rm"), 2),
        (("absent.json",), 2),
    ],
)
def test_exit_codes(platodef: Call, words: tuple[object, ...], code: int) -> None:
    done = platodef("gate", *words)
    assert done.code == code
    assert f"({code})" in done.last or "--exit-zero" in done.last
    assert "Traceback" not in done.err


def test_a_report_without_a_calibration_is_judged_by_its_limits_and_says_so(
    platodef: Call, tmp_path: Path
) -> None:
    old = ROOT / "tests" / "golden" / "report_v1.2.json"
    done = platodef("gate", changed(tmp_path, old, policy={}), "-o", "markdown")
    assert done.code == 1
    assert (
        "(schema 1.2) holds no calibration: it is judged by its limits alone, without a p-value" in done.err
    )
    assert "## False alarms" in done.out
    assert "holds no calibration. The limits alone decide" in done.out


def test_alpha_asks_for_another_rate(platodef: Call, tmp_path: Path) -> None:
    usual = calibrated(AuditReport.model_validate_json(BAD.read_bytes()), [-0.5] * 15 + [5.0] * 10)
    path = tmp_path / "calibrated.json"
    path.write_text(usual.model_dump_json())
    few = platodef("gate", path, "-o", "markdown")
    assert few.code == 1
    assert "the rate 0.01 is not shown, and the limits decide" in few.out
    enough = platodef("gate", path, "--alpha", "0.05", "-o", "json")
    assert enough.code == 4
    assert "yet clean encoders depart as far with p = 0.423, over alpha = 0.05" in enough.last
    assert json.loads(enough.out)["error_rate"]["decides"] is True
    assert platodef("gate", path, "--alpha", "0.5").code == 1
    assert platodef("gate", path, "--set", "alpha=0.05").code == 4
    for wrong in ("0", "1", "2", "-1", "nan"):
        done = platodef("gate", path, "--alpha", wrong)
        assert done.code == 2
        assert "alpha is" in done.last


@pytest.mark.parametrize(("verdict", "code"), [("refused", 5), ("error", 3)])
def test_refused_and_error_cannot_be_turned(platodef: Call, tmp_path: Path, verdict: str, code: int) -> None:
    path = changed(tmp_path, BAD, verdict=verdict, exit_code=code, summary=f"{verdict}: x", target=None)
    done = platodef("gate", path, "--exit-zero", "--set", "battery_collapse=1")
    assert done.code == code
    assert done.last == f"{verdict}: x"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"schema_version": "2.9"}, "newer than 2.0"),
        ({"schema_version": "10.0"}, "newer than 2.0"),
        ({"verdict": "pass"}, "damaged"),
        ({"exit_code": 0}, "damaged"),
        ({"surprise": 1}, "not a platodef report"),
        ({"reasons": None}, "not a platodef report"),
        ({"seed": float("nan")}, "not a number"),
        ({"target": None}, "does not say which encoder"),
        ({"policy": {"max_auroc": 0.8}}, "give a policy with --policy"),
    ],
)
def test_reports_that_cannot_be_judged(
    platodef: Call, tmp_path: Path, fields: dict[str, Any], told: str
) -> None:
    done = platodef("gate", changed(tmp_path, BAD, **fields))
    assert done.code == 2
    assert told in done.last
    assert len(done.err.strip().splitlines()) == 1


@pytest.fixture
def attested(platodef: Call, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Report, attestation and model folder of the clean demo encoder as it is now."""
    folder = Path(shutil.copytree(ROOT / "examples" / "encoders" / "clean", tmp_path / "model"))
    value = json.loads(CLEAN.read_text())
    value["target"]["files"] = [
        {"path": name, "sha256": sha256((folder / name).read_bytes()).hexdigest(), "bytes": 1}
        for name in ("config.json", "model.safetensors")
    ]
    report, statement = tmp_path / "report.json", tmp_path / "report.intoto.json"
    report.write_text(json.dumps(value))
    assert platodef("report", report, "--attest", statement, "-q").code == 0
    return report, statement, folder


def test_an_attested_model_is_judged(platodef: Call, attested: tuple[Path, Path, Path]) -> None:
    report, statement, folder = attested
    done = platodef("gate", report, "--require-attestation", statement, "--model", folder)
    assert done.code == 0, done.err
    assert "not audited, and so not attested: CARD.md, card.json" in done.err
    assert "the signature of the attestation is not verified" in done.err


def test_other_files_are_refused_whatever_is_forgiven(
    platodef: Call, attested: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    report, statement, folder = attested
    (folder / "model.safetensors").write_bytes(b"other weights")
    (folder / "modeling.py").write_text("")
    words = ("--require-attestation", statement, "--model", folder, "--exit-zero")
    done = platodef("gate", report, *words, "-o", f"sarif={tmp_path}/r.sarif", "-o", "json")
    assert done.code == 5
    assert "changed: model.safetensors; new: modeling.py" in done.last
    written = json.loads(done.out)
    assert (written["verdict"], written["exit_code"], written["summary"]) == ("refused", 5, done.last)
    assert written["reasons"][0]["id"] == "attestation"
    (run,) = json.loads((tmp_path / "r.sarif").read_text())["runs"]
    assert "attestation" in {result["ruleId"] for result in run["results"]}


def test_another_report_is_refused(platodef: Call, attested: tuple[Path, Path, Path]) -> None:
    _, statement, folder = attested
    done = platodef("gate", BAD, "--require-attestation", statement, "--model", folder)
    assert done.code == 5
    assert "is about another report" in done.last


def test_signed_by_the_key_or_refused(
    platodef: Call, attested: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    report, statement, folder = attested
    key = Ed25519PrivateKey.generate()
    words = ["gate", report, "--model", folder, "--attestation-key", tmp_path / "key.pem"]
    (tmp_path / "key.pem").write_bytes(pem(key))
    done = platodef(*words, "--require-attestation", statement)
    assert done.code == 5
    assert "is not signed" in done.last
    signed = tmp_path / "signed.json"
    signed.write_text(json.dumps(envelope(statement.read_bytes(), key.sign)))
    done = platodef(*words, "--require-attestation", signed)
    assert done.code == 0, done.err
    assert "not verified" not in done.err
    (tmp_path / "key.pem").write_bytes(pem(Ed25519PrivateKey.generate()))
    done = platodef(*words, "--require-attestation", signed)
    assert done.code == 5
    assert "is not by the given key" in done.last


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "."), "need --require-attestation"),
        (("--attestation-key", "k"), "need --require-attestation"),
        (("--require-attestation", CLEAN), "needs --model DIR"),
        (("--require-attestation", "absent", "--model", "."), "cannot read absent: No such file"),
        (("--require-attestation", CLEAN, "--model", "."), "has the _type 'None'"),
    ],
)
def test_wrong_attestation_options(platodef: Call, words: tuple[object, ...], message: str) -> None:
    done = platodef("gate", CLEAN, *words)
    assert done.code == 2
    assert message in done.last


def waiver_file(tmp_path: Path, report: Path, identity: str, expires: str = "2999-01-01") -> Path:
    digest = json.loads(report.read_text())["target"]["digest"]
    path = tmp_path / "waivers.toml"
    path.write_text(
        f'[[waiver]]\nid = "{identity}"\nmodel = "{digest}"\nreason = "r"\nowner = "o"\nexpires = {expires}\n'
    )
    return path


def test_waivers(platodef: Call, tmp_path: Path) -> None:
    done = platodef("gate", BAD, "--waivers", waiver_file(tmp_path, BAD, "battery-patch"))
    assert done.code == 0
    assert "passed with exceptions: 3 waived" in done.err
    assert "waived: trigger 'patch-white-0.3125-bottom-right'" in done.err
    done = platodef("gate", BAD, "-q", "--waivers", waiver_file(tmp_path, BAD, "search-wave"))
    assert done.code == 1
    assert "warning: the waiver 'search-wave' of o is unused" in done.err
    done = platodef("gate", BAD, "-q", "--waivers", waiver_file(tmp_path, BAD, "battery-patch", "2020-01-01"))
    assert done.code == 1
    assert "expired on 2020-01-01" in done.last
    done = platodef("gate", BAD, "--waivers", tmp_path / "absent.toml")
    assert done.code == 2


def test_baseline(platodef: Call, tmp_path: Path) -> None:
    assert platodef("gate", BAD, "--baseline", BAD).code == 0
    done = platodef("gate", BAD, "--baseline", CLEAN)
    assert done.code == 1
    assert "against the baseline:" in done.err
    every = platodef("gate", BAD, "--baseline", CLEAN, "-v")
    assert "worse: trigger patch-white-0.3125-bottom-right: collapse" in every.err
    other = changed(tmp_path, CLEAN, images={**json.loads(CLEAN.read_text())["images"], "digest": "0" * 64})
    done = platodef("gate", BAD, "--baseline", other)
    assert done.code == 2
    assert "other images" in done.last


@pytest.mark.parametrize("form", ["terminal", "json", "markdown", "sarif", "junit", "html"])
def test_every_format_shows_what_was_waived_and_compared(platodef: Call, tmp_path: Path, form: str) -> None:
    target = tmp_path / "out"
    waivers = waiver_file(tmp_path, BAD, "battery-patch")
    words = ("gate", BAD, "--waivers", waivers, "--baseline", CLEAN, "-o", f"{form}={target}")
    assert platodef(*words).code == 0
    text = target.read_text()
    assert "waived" in text
    again = tmp_path / "again"
    assert platodef(*words[:-1], f"{form}={again}").code == 0
    assert again.read_text() == text
    if form == "junit":
        assert 'failures="0"' in text
    if form == "sarif":
        results = json.loads(text)["runs"][0]["results"]
        failing = [result for result in results if result["level"] == "error"]
        assert failing
        assert all(result["suppressions"][0]["status"] == "accepted" for result in failing)


def test_the_environment_and_the_folder_decide_too(
    platodef: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("platodef.toml").write_text("min_test = 5000\n")
    assert platodef("gate", CLEAN).code == 4
    monkeypatch.setenv("PLATODEF_MIN_TEST", "100")
    assert platodef("gate", CLEAN).code == 0
    monkeypatch.delenv("PLATODEF_MIN_TEST")
    (tmp_path / "p.toml").write_text("min_test = 90\n")
    assert platodef("gate", CLEAN, "--policy", tmp_path / "p.toml").last.endswith("policy p")
    monkeypatch.setenv("PLATODEF_AUROK", "1")
    assert platodef("gate", CLEAN).code == 2


def test_a_policy_inside_the_audited_folder_is_refused(platodef: Call, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "platodef.toml").write_text("battery_collapse = 1.0\n")
    target = {**json.loads(BAD.read_text())["target"], "uri": str(model)}
    done = platodef("gate", changed(tmp_path, BAD, target=target), "--policy", model / "platodef.toml")
    assert done.code == 2
    assert "inside the audited model" in done.last
    done = platodef("audit", model, "--policy", model / "platodef.toml", "--images", "builtin:shapes")
    assert done.code == 2
    assert "inside the audited model" in done.last


@pytest.mark.parametrize("number", ["1e999", "-1e999", "Infinity", "NaN"])
def test_numbers_beyond_floating_point_are_refused(platodef: Call, tmp_path: Path, number: str) -> None:
    text = BAD.read_text()
    value = json.loads(text)["probes"][3]["collapse"]["value"]
    path = tmp_path / "r.json"
    path.write_text(text.replace(f"{value!r}", number))
    done = platodef("gate", path)
    assert done.code == 2
    assert "not a platodef report" in done.last
