"""Attestations that others read: in the words of in-toto and SLSA, signed by their own libraries."""

import base64
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from platodef_cli.attestation.oms import root_of
from platodef_cli.attestation.predicates import KINDS, PASSED, SIGNED, write_attestation
from platodef_cli.attestation.signers import parse_signer, verify_any
from platodef_cli.attestation.statement import (
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    PREDICATE_TYPES,
    check_report,
    parse_object,
    read_statement,
    write_statement,
)
from platodef_cli.audit.context import context_of
from platodef_cli.errors import RefusedError, UsageError
from platodef_cli.records import AuditReport, SignatureRecord
from platodef_cli.version import HOME, PLACEHOLDER
from tests.unit.attestation.keys import write_chain
from tests.unit.attestation.test_attestation import envelope
from tests.unit.cli.calls import Call
from tests.unit.cli.conftest import platodef as platodef
from tests.unit.report.endings import CODES, early_end, with_verdict

EXAMPLES = Path(__file__).parents[3] / "examples"


def statement_of(report: AuditReport, kind: Any) -> Any:
    """Parse and validate with the real library; a field that the schema does not know is an error there."""
    pytest.importorskip("in_toto_attestation", reason="needs the package in-toto-attestation")
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement, statement_pb2

    parsed = json_format.Parse(write_attestation(report, kind), statement_pb2.Statement())
    whole = statement.Statement.copy_from_pb(parsed)
    whole.validate()
    return whole.pb


@pytest.mark.parametrize("kind", KINDS)
def test_every_statement_is_one_for_in_toto(golden_report: AuditReport, kind: Any) -> None:
    parsed = statement_of(golden_report, kind)
    assert golden_report.target is not None
    assert {subject.name: dict(subject.digest) for subject in parsed.subject} == {
        file.path: {"sha256": file.sha256} for file in golden_report.target.files
    }
    assert write_attestation(golden_report, kind) == write_attestation(golden_report, kind)


@pytest.mark.parametrize("verdict", CODES)
def test_test_results(golden_report: AuditReport, verdict: str) -> None:
    parsed = statement_of(with_verdict(golden_report, verdict), "test-result")
    from google.protobuf import json_format
    from in_toto_attestation.predicates.test_result.v0 import test_result_pb2

    assert parsed.predicate_type == "https://in-toto.io/attestation/test-result/v0.1"
    result = json_format.ParseDict(json_format.MessageToDict(parsed.predicate), test_result_pb2.TestResult())
    assert result.result == {"pass": "PASSED", "inconclusive": "WARNED"}.get(verdict, "FAILED")
    where = {"pass": result.passed_tests, "inconclusive": result.warned_tests}
    assert "deciding" in where.get(verdict, result.failed_tests)
    assert len(result.configuration) == 2


@pytest.mark.parametrize("verdict", CODES)
def test_verification_summaries(golden_report: AuditReport, verdict: str) -> None:
    parsed = statement_of(with_verdict(golden_report, verdict), "vsa")
    from google.protobuf import json_format
    from in_toto_attestation.predicates.vsa.v1 import vsa_pb2

    assert parsed.predicate_type == "https://slsa.dev/verification_summary/v1"
    fields = json_format.MessageToDict(parsed.predicate)
    # the specification has an array here; the package's message, of 0.9, a single text
    levels = fields.pop("verifiedLevels")
    summary = json_format.ParseDict(fields, vsa_pb2.VerificationSummary())
    assert summary.verification_result == ("PASSED" if verdict == "pass" else "FAILED")
    assert levels == ([PASSED] if verdict == "pass" else ["FAILED"])
    assert summary.verifier.id.startswith("https://")
    assert summary.time_verified.ToJsonString() == "2026-01-31T12:02:41Z"
    assert summary.policy.digest["sha256"]


@pytest.mark.parametrize("verdict", CODES)
def test_simple_results_name_only_what_was_verified(golden_report: AuditReport, verdict: str) -> None:
    report = with_verdict(golden_report, verdict)
    value = json.loads(write_attestation(report, "svr"))
    assert value["predicateType"] == "https://in-toto.io/attestation/svr/v0.1"
    assert set(value["predicate"]) == {"verifier", "timeCreated", "properties"}
    assert value["predicate"]["properties"] == ([PASSED] if verdict == "pass" else [])
    signature = SignatureRecord(status="trusted", root="ab" * 32, signer="key:x.pem")
    context = context_of({}, {}, signature=signature)
    signed = json.loads(write_attestation(report.model_copy(update={"context": context}), "svr"))
    assert SIGNED in signed["predicate"]["properties"]
    # what the publisher signed is a subject: the whole folder
    assert {"name": ".", "digest": {"sha256": "ab" * 32}} in signed["subject"]


def test_what_cannot_be_attested(golden_report: AuditReport) -> None:
    with pytest.raises(UsageError, match="names no files"):
        write_attestation(early_end(5), "vsa")
    timing = golden_report.timing.model_copy(update={"finished": ""})
    with pytest.raises(UsageError, match="does not say when"):
        write_attestation(golden_report.model_copy(update={"timing": timing}), "svr")


def test_the_type_of_the_predicate_resolves_to_the_schema_in_this_repository() -> None:
    name = PREDICATE_TYPE.removeprefix(f"{HOME}/schemas/")
    schema = json.loads((EXAMPLES / "schemas" / name).read_text())
    assert schema == AuditReport.model_json_schema(), f"platodef schema > examples/schemas/{name}"


@pytest.mark.parametrize("kind", [None, "2", "2.0", *PREDICATE_TYPES])
def test_a_type_resolves_offline(kind: str | None, platodef: Call) -> None:
    done = platodef("schema", *([] if kind is None else [kind]))
    assert done.code == 0, done.err
    version = "2" if kind is None or kind[0] == "2" else PREDICATE_TYPES[kind]
    committed = EXAMPLES / "schemas" / f"audit-report-v{version}.json"
    assert json.loads(done.out) == json.loads(committed.read_text())


@pytest.mark.parametrize("kind", PREDICATE_TYPES)
def test_statements_of_every_type_are_read(kind: str, golden_report: AuditReport) -> None:
    value = json.loads(write_statement(golden_report)) | {"predicateType": kind}
    assert read_statement(json.dumps(value).encode()).report == golden_report


def test_one_address_of_the_project() -> None:
    root = EXAMPLES.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    published = {address.rstrip("/") for address in project.get("urls", {}).values()}
    assert not published or HOME in published, "HOME in platodef_cli/version.py and project.urls differ"
    assert HOME.startswith("https://")
    others = [
        path.relative_to(root).as_posix()
        for path in (root / "platodef_cli").rglob("*.py")
        if PLACEHOLDER.removeprefix("https://") in path.read_text()
    ]
    assert others == ["platodef_cli/version.py"]
    assert all(address.startswith(("https://", "urn:")) for address in PREDICATE_TYPES)


def test_a_signature_by_securesystemslib(golden_report: AuditReport, tmp_path: Path) -> None:
    signer = CryptoSigner.generate_ecdsa()
    signed = Envelope(write_statement(golden_report), PAYLOAD_TYPE, {})
    signed.sign(signer)
    raw = json.dumps(signed.to_dict()).encode()
    (tmp_path / "key.pem").write_text(signer.public_key.keyval["public"])
    read = read_statement(raw)
    check_report(read, golden_report)
    assert read.envelope is not None
    trusted = parse_signer(f"key:{tmp_path}/key.pem")
    assert verify_any(parse_object(raw), read.envelope, raw, [trusted]) == trusted


def bundle(report: AuditReport, private: Path, *chain: Path) -> bytes:
    """Return a Sigstore bundle with a chain of certificates, as model-signing and cosign write them."""
    key = serialization.load_pem_private_key(private.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    ders = [
        x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(serialization.Encoding.DER)
        for path in chain
    ]
    certificates = [{"rawBytes": base64.b64encode(der).decode()} for der in ders]
    return json.dumps(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"x509CertificateChain": {"certificates": certificates}},
            "dsseEnvelope": envelope(
                write_statement(report), lambda data: key.sign(data, ec.ECDSA(hashes.SHA256()))
            ),
        }
    ).encode()


def test_a_bundle_signed_by_a_certificate(golden_report: AuditReport, tmp_path: Path) -> None:
    pytest.importorskip("sigstore", reason="needs the package sigstore")
    private, leaf, middle, root = write_chain(tmp_path)
    raw = bundle(golden_report, private, leaf, middle)
    read = read_statement(raw)
    assert read.envelope is not None
    value = parse_object(raw)
    signer = parse_signer(f"certificate:{root}")
    assert verify_any(value, read.envelope, raw, [signer]) == signer
    (tmp_path / "other").mkdir()
    *_, stranger = write_chain(tmp_path / "other")
    wrong = [parse_signer(f"certificate:{stranger}"), parse_signer("sigstore:me https://issuer.example")]
    with pytest.raises(RefusedError, match="not by a trusted one.*not by me of https://issuer.example"):
        verify_any(value, read.envelope, raw, wrong)
    # without the certificate between there is no chain, and a root is no signer
    for incomplete in (bundle(golden_report, private, leaf), bundle(golden_report, private, root)):
        short = read_statement(incomplete)
        assert short.envelope is not None
        with pytest.raises(RefusedError):
            verify_any(parse_object(incomplete), short.envelope, incomplete, [signer])
    with pytest.raises(UsageError, match="not in PEM form"):
        verify_any(value, read.envelope, raw, [parse_signer(f"certificate:{_empty(tmp_path)}")])


def _empty(folder: Path) -> Path:
    (folder / "empty.pem").write_text("")
    return folder / "empty.pem"


def test_report_and_gate_with_every_kind(golden_report: AuditReport, platodef: Call, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="needs the package model-signing")
    from hashlib import sha256

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_bytes(b"hello")
    assert golden_report.target is not None
    files = [{"path": "w.safetensors", "sha256": sha256(b"weights").hexdigest(), "bytes": 7}]
    value = json.loads((Path(__file__).parents[2] / "golden" / "gate" / "clean.json").read_text())
    value["target"]["files"] = files
    value["not_examined"] = ["README.md: not needed to run the encoder"]
    report = tmp_path / "audited.json"
    report.write_text(json.dumps(value))
    words = [f"--attest={kind}={tmp_path}/{kind}.json" for kind in KINDS]
    assert platodef("report", report, *words, "--model", folder, "-q").code == 0
    root = root_of(folder)
    for kind in KINDS:
        subjects = json.loads((tmp_path / f"{kind}.json").read_text())["subject"]
        assert subjects[-1] == {"name": ".", "digest": {"sha256": root}}
    private, leaf, middle, trusted = write_chain(tmp_path)
    signed = tmp_path / "signed.json"
    key = serialization.load_pem_private_key(private.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    made = json.loads(bundle(golden_report, private, leaf, middle))
    made["dsseEnvelope"] = envelope(
        _statement(tmp_path, platodef, report, folder), lambda data: key.sign(data, ec.ECDSA(hashes.SHA256()))
    )
    signed.write_text(json.dumps(made))
    gate = ["gate", report, "--model", folder, "--require-attestation", signed, "-q"]
    assert platodef(*gate, "--attestation-signer", f"certificate:{trusted}").code == 0
    done = platodef(*gate, "--attestation-signer", "sigstore:me https://issuer.example")
    assert (done.code, "not by me" in done.err) == (5, True)
    # the root digest covers what no other subject does
    (folder / "README.md").write_bytes(b"Hello")
    done = platodef(*gate, "--attestation-signer", f"certificate:{trusted}")
    assert (done.code, "the root digest" in done.err) == (5, True)


def _statement(tmp_path: Path, platodef: Call, report: Path, folder: Path) -> bytes:
    path = tmp_path / "whole.json"
    assert platodef("report", report, "--attest", path, "--model", folder, "-q").code == 0
    return path.read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model", "."), "--model needs --attest"),
        (("--attest", "vsa=a.json", "--attest", "a.json"), "two attestations"),
        (("--attest", "vsa=absent/a.json"), "does not exist"),
    ],
)
def test_wrong_options(platodef: Call, words: tuple[str, ...], told: str) -> None:
    report = Path(__file__).parents[2] / "golden" / "gate" / "clean.json"
    done = platodef("report", report, *words)
    assert (done.code, told in done.err) == (2, True)
