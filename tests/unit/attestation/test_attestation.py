"""Attestations: deterministic statements, strict reading, files on disk, foreign signatures."""

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from platodef_cli.attestation.dsse import parse_envelope, verify
from platodef_cli.attestation.statement import (
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    Differences,
    Statement,
    check_files,
    check_report,
    compare_files,
    read_statement,
    write_statement,
)
from platodef_cli.errors import RefusedError, UsageError
from platodef_cli.records import AuditReport, EncoderRecord, FileRecord
from tests.unit.report.endings import early_end

CONTENTS = {"config.json": b'{"a": 1}', "model.safetensors": b"weights", "README.md": b"hello"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder whose README was not examined."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def report(golden_report: AuditReport) -> AuditReport:
    """A report about the files of ``folder``."""
    files = tuple(
        FileRecord(path=name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        for name, content in CONTENTS.items()
        if name != "README.md"
    )
    assert isinstance(golden_report.target, EncoderRecord)
    return golden_report.model_copy(
        update={
            "target": golden_report.target.model_copy(update={"files": files}),
            "not_examined": ("README.md: not needed to run the encoder", "triggers outside the battery"),
        }
    )


@pytest.fixture
def statement(report: AuditReport) -> Statement:
    return read_statement(write_statement(report))


def test_the_statement_has_the_form_of_in_toto(report: AuditReport) -> None:
    data = write_statement(report)
    assert data == write_statement(AuditReport.model_validate_json(report.model_dump_json()))
    value = json.loads(data)
    assert set(value) == {"_type", "subject", "predicateType", "predicate"}
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == PREDICATE_TYPE
    assert [entry["name"] for entry in value["subject"]] == ["config.json", "model.safetensors"]
    assert value["subject"][1]["digest"] == {"sha256": hashlib.sha256(b"weights").hexdigest()}
    assert AuditReport.model_validate(value["predicate"]) == report
    assert data.isascii()


def test_reading_back(report: AuditReport, statement: Statement) -> None:
    assert statement.report == report
    assert statement.envelope is None
    check_report(statement, report)


def test_nothing_to_attest() -> None:
    with pytest.raises(UsageError, match="names no files of the model"):
        write_statement(early_end(5))


def test_another_report_or_other_subjects_are_refused(report: AuditReport, statement: Statement) -> None:
    changed = report.model_copy(update={"verdict": "pass", "exit_code": 0})
    with pytest.raises(RefusedError, match="about another report"):
        check_report(statement, changed)
    value = json.loads(write_statement(report))
    value["subject"][0]["digest"]["sha256"] = "0" * 64
    with pytest.raises(RefusedError, match="subjects of the attestation are not the files"):
        check_report(read_statement(json.dumps(value).encode()), report)


def test_files_on_disk(folder: Path, statement: Statement) -> None:
    assert check_files(statement, folder) == Differences(unexamined=("README.md",))
    (folder / "model.safetensors").write_bytes(b"Weights")
    (folder / "config.json").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    (folder / "more").mkdir()
    found = compare_files(statement, folder)
    assert found == Differences(
        missing=("config.json",),
        changed=("model.safetensors",),
        extra=("more", "pytorch_model.bin"),
        unexamined=("README.md",),
    )
    message = "missing: config.json; changed: model.safetensors; new: more, pytorch_model.bin"
    with pytest.raises(RefusedError, match=message):
        check_files(statement, folder)


def test_every_single_difference_is_refused(folder: Path, statement: Statement) -> None:
    for name in ("config.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        with pytest.raises(RefusedError, match=f"changed: {name}"):
            check_files(statement, folder)
        (folder / name).write_bytes(content)
    check_files(statement, folder)


def test_subjects_do_not_lead_out_of_the_folder(folder: Path, report: AuditReport) -> None:
    value = json.loads(write_statement(report))
    for name in ("../secret", "/etc/passwd", "a/b", ".."):
        value["subject"][0]["name"] = name
        with pytest.raises(RefusedError, match="outside the model folder"):
            compare_files(read_statement(json.dumps(value).encode()), folder)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/passwd")
    with pytest.raises(RefusedError, match="a link out of the model folder"):
        compare_files(read_statement(write_statement(report)), folder)


def test_links_are_followed_where_the_audit_followed_them(folder: Path, report: AuditReport) -> None:
    outside = folder.parent / "stored"
    outside.write_bytes(CONTENTS["model.safetensors"])
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(outside)
    configuration = {**report.configuration, "follow_links": True}
    followed = report.model_copy(update={"configuration": configuration})
    statement = read_statement(write_statement(followed))
    check_files(statement, folder)
    outside.write_bytes(b"other")
    with pytest.raises(RefusedError, match=r"changed: model\.safetensors"):
        check_files(statement, folder)


def test_no_folder(statement: Statement, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such model folder"):
        compare_files(statement, tmp_path / "absent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "has the _type 'https://in-toto.io/Statement/v0.1'"),
        ({"predicateType": "https://slsa.dev/provenance/v1"}, "has the predicateType"),
        ({"predicate": {}}, "holds no platodef report"),
        ({"predicate": None}, "holds no platodef report"),
        ({"subject": []}, "has no subjects"),
        ({"subject": None}, "has no subjects"),
        ({"subject": ["x"]}, "a subject without name or sha256"),
        ({"subject": [{"name": "a", "digest": {"sha1": "0"}}]}, "a subject without name or sha256"),
        ({"subject": [{"name": "a", "digest": {"sha256": "0" * 63 + "G"}}]}, "that is none"),
        ({"subject": [{"name": "a", "digest": {"sha256": "0" * 64}}] * 2}, "one that stands twice"),
    ],
)
def test_other_documents(report: AuditReport, change: dict[str, Any], message: str) -> None:
    value = {**json.loads(write_statement(report)), **change}
    with pytest.raises(UsageError, match=message):
        read_statement(json.dumps(value).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"\xff", b'{"_type": 1, "_type": 2}', b"[" * 100_000, b'{"payload": ""}']
)
def test_no_statement_at_all(data: bytes) -> None:
    with pytest.raises(UsageError, match="the (attestation|envelope) "):
        read_statement(data)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_end_in_one_kind_of_error(data: bytes) -> None:
    with pytest.raises(UsageError):
        read_statement(data)


def envelope(payload: bytes, sign: Any, *, kind: str = PAYLOAD_TYPE, urlsafe: bool = False) -> dict[str, Any]:
    """Sign as the DSSE specification says, written out once more as an independent reference."""
    pre = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind.encode(), str(len(payload)).encode(), payload])
    code = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    return {
        "payloadType": kind,
        "payload": code(payload).decode(),
        "signatures": [{"keyid": "x", "sig": code(b"other").decode()}, {"sig": code(sign(pre)).decode()}],
    }


def pem(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))


ED = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
P256 = ec.derive_private_key(12345, ec.SECP256R1())
SIGNERS = {"ed25519": (ED, ED.sign), "p256": (P256, lambda data: P256.sign(data, ec.ECDSA(hashes.SHA256())))}


def test_pre_authentication_encoding_is_that_of_the_specification() -> None:
    payload = base64.b64encode(b"hello world").decode()
    read = parse_envelope(
        {"payloadType": "http://example.com/HelloWorld", "payload": payload, "signatures": [{"sig": ""}]}
    )
    assert read.pae() == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@pytest.mark.parametrize("signer", SIGNERS)
@pytest.mark.parametrize("urlsafe", [False, True])
@pytest.mark.parametrize("bundle", [False, True])
def test_signed_statements(report: AuditReport, signer: str, urlsafe: bool, bundle: bool) -> None:
    key, sign = SIGNERS[signer]
    signed = envelope(write_statement(report), sign, urlsafe=urlsafe)
    outer = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": signed}
    read = read_statement(json.dumps(outer if bundle else signed).encode())
    check_report(read, report)
    assert read.envelope is not None
    verify(read.envelope, pem(key))
    other = ed25519.Ed25519PrivateKey.generate()
    with pytest.raises(RefusedError, match="is not by the given key"):
        verify(read.envelope, pem(other))


@pytest.mark.parametrize("signer", SIGNERS)
def test_a_signature_covers_type_and_payload(report: AuditReport, signer: str) -> None:
    key, sign = SIGNERS[signer]
    good = envelope(write_statement(report), sign)
    changed = {**good, "payload": base64.b64encode(write_statement(report) + b" ").decode()}
    retyped = {**good, "payloadType": "text/plain"}
    for value in (changed, retyped):
        with pytest.raises(RefusedError, match="is not by the given key"):
            verify(parse_envelope(value), pem(key))
    with pytest.raises(UsageError, match="the envelope holds 'text/plain'"):
        read_statement(json.dumps(retyped).encode())


def test_keys_of_other_kinds(report: AuditReport) -> None:
    good = parse_envelope(envelope(write_statement(report), ED.sign))
    for key in (
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256K1()),
        x25519.X25519PrivateKey.generate(),
    ):
        with pytest.raises(UsageError, match="neither Ed25519 nor ECDSA P-256"):
            verify(good, pem(key))
    with pytest.raises(UsageError, match="not a public key in PEM form"):
        verify(good, b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")


def test_names_of_keys_are_ignored(report: AuditReport) -> None:
    value = envelope(write_statement(report), ED.sign)
    for names in (("x", "x"), (None, 3), ("0", "0")):
        for entry, name in zip(value["signatures"], names, strict=True):
            entry["keyid"] = name
        verify(parse_envelope(value), pem(ED))


def test_a_plain_install_reads_envelopes_and_says_what_verifying_needs(
    report: AuditReport,
) -> None:
    data = json.dumps(envelope(write_statement(report), ED.sign))
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from platodef_cli.attestation import dsse, statement\n"
        "from platodef_cli.errors import UsageError\n"
        "read = statement.read_statement(sys.stdin.buffer.read())\n"
        "try: dsse.verify(read.envelope, b'')\n"
        "except UsageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data.encode(), capture_output=True, check=True)
    message = "verifying a signature needs the library cryptography: pip install 'platodef[sign]'"
    assert done.stdout.decode().strip() == message


@pytest.mark.parametrize(
    "change",
    [
        {"payload": 3},
        {"payload": "%%%"},
        {"signatures": []},
        {"signatures": [{}]},
        {"signatures": ["x"]},
        {"signatures": [{"sig": "%"}]},
        {"payloadType": None},
    ],
)
def test_broken_envelopes(report: AuditReport, change: dict[str, Any]) -> None:
    value = {**envelope(write_statement(report), ED.sign), **change}
    with pytest.raises(UsageError, match="the envelope (has|lacks)"):
        read_statement(json.dumps(value).encode())


def test_constants_are_those_of_the_specification() -> None:
    assert (STATEMENT_TYPE, PAYLOAD_TYPE) == (
        "https://in-toto.io/Statement/v1",
        "application/vnd.in-toto+json",
    )
    assert PREDICATE_TYPE.startswith("https://")
