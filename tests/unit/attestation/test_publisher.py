"""The signature of the publisher: models signed by the real ``model-signing``, and what may be wrong."""

import base64
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from platodef_cli.attestation.oms import root_of
from platodef_cli.attestation.publisher import check_signature, refuse_unsigned, signature_findings
from platodef_cli.attestation.signers import parse_signer
from platodef_cli.errors import EXIT_REFUSED, SignatureError, UsageError
from platodef_cli.records import FileRecord, SignatureRecord
from tests.unit.attestation.keys import write_chain, write_key

model_signing = pytest.importorskip("model_signing", reason="needs the package model-signing")
from model_signing import hashing, signing, verifying  # noqa: E402

CONTENTS = {"config.json": b'{"a": 1}', "model.safetensors": b"weights" * 99, "README.md": b"hello"}
LOADED = ("config.json", "model.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "extra").mkdir(parents=True)
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    (folder / "extra" / "note.txt").write_bytes(b"below")
    return folder


def records(folder: Path) -> tuple[FileRecord, ...]:
    return tuple(
        FileRecord(path=name, sha256=sha256(data).hexdigest(), bytes=len(data))
        for name in LOADED
        for data in [(folder / name).read_bytes()]
    )


def sign(folder: Path, private: Path, change: Callable[[Any], Any] = lambda config: config) -> None:
    ignored = hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=True)
    config = signing.Config().use_elliptic_key_signer(private_key=private)
    config.set_hashing_config(change(ignored)).sign(folder, folder / "model.sig")


def check(folder: Path, *trusted: str) -> SignatureRecord:
    return check_signature(folder, records(folder), trusted)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_a_model_signed_by_a_key(folder: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    private, public = write_key(tmp_path, curve=curve)
    sign(folder, private)
    found = check(folder, f"key:{public}")
    assert (found.status, found.kind, found.signer) == ("trusted", "key", f"key:{public}")
    assert found.root == root_of(folder)
    assert found.sha256 == sha256((folder / "model.sig").read_bytes()).hexdigest()
    # the package itself agrees
    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(folder, folder / "model.sig")


@pytest.mark.parametrize("algorithm", ["sha256", "blake2", "blake3"])
def test_every_digest_of_the_package(folder: Path, tmp_path: Path, algorithm: Any) -> None:
    private, public = write_key(tmp_path)
    sign(folder, private, lambda config: config.use_file_serialization(hashing_algorithm=algorithm))
    assert check(folder, f"key:{public}").status == "trusted"
    (folder / "README.md").write_bytes(b"other")
    assert "changed: README.md" in check(folder, f"key:{public}").message


def test_shards(folder: Path, tmp_path: Path) -> None:
    private, public = write_key(tmp_path)
    sign(folder, private, lambda config: config.use_shard_serialization(shard_size=100))
    found = check(folder, f"key:{public}")
    assert found.status == "trusted", found.message
    content = (folder / "model.safetensors").read_bytes()
    for changed in (content[:-1], content + b"x", b"W" + content[1:]):
        (folder / "model.safetensors").write_bytes(changed)
        found = check(folder, f"key:{public}")
        assert (found.status, "changed: model.safetensors" in found.message) == ("invalid", True)


def test_a_model_signed_by_a_certificate(folder: Path, tmp_path: Path) -> None:
    private, leaf, middle, root = write_chain(tmp_path)
    config = signing.Config().use_certificate_signer(
        private_key=private, signing_certificate=leaf, certificate_chain=[middle]
    )
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=True))
    config.sign(folder, folder / "model.sig")
    found = check(folder, f"certificate:{root}")
    assert (found.status, found.kind) == ("trusted", "certificate")
    (tmp_path / "other").mkdir()
    *_, stranger = write_chain(tmp_path / "other")
    found = check(folder, f"certificate:{stranger}")
    assert found.status == "untrusted"
    assert "not by a trusted one" in found.message
    # one of several is enough
    assert check(folder, f"certificate:{stranger}", f"certificate:{root}").signer == f"certificate:{root}"


def test_a_certificate_for_something_else_signs_nothing(folder: Path, tmp_path: Path) -> None:
    private, leaf, middle, root = write_chain(tmp_path, use="server")
    config = signing.Config().use_certificate_signer(
        private_key=private, signing_certificate=leaf, certificate_chain=[middle]
    )
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=True))
    config.sign(folder, folder / "model.sig")
    assert "not one for signing code" in check(folder, f"certificate:{root}").message


def test_who_signed_and_who_is_trusted(folder: Path, tmp_path: Path) -> None:
    private, public = write_key(tmp_path)
    _, other = write_key(tmp_path, "other")
    assert check(folder, f"key:{public}").status == "absent"
    sign(folder, private)
    unverified = check(folder)
    assert (unverified.status, unverified.signer) == ("unverified", None)
    stranger = check(folder, f"key:{other}")
    assert (stranger.status, signature_findings(stranger)[0].severity) == ("untrusted", "medium")
    assert "certificate" in check(folder, f"certificate:{other}").message


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "config.json").write_bytes(b"{}"), "changed: config.json"),
        (lambda f: (f / "extra" / "note.txt").write_bytes(b"x"), "changed: extra/note.txt"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), "not signed: pytorch_model.bin"),
        (lambda f: (f / "model.sig").write_bytes(b"{"), "cannot be read"),
        (lambda f: (f / "model.sig").write_bytes(b'{"dsseEnvelope": 3}'), "cannot be read"),
        (lambda f: (f / "model.sig").write_bytes(b"\xff" * 99), "cannot be read"),
    ],
)
def test_what_does_not_fit_is_invalid(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    private, public = write_key(tmp_path)
    sign(folder, private)
    damage(folder)
    for trusted in ((), (f"key:{public}",)):
        found = check(folder, *trusted)
        assert (found.status, told in found.message) == ("invalid", True), found.message
        assert signature_findings(found)[0].severity == "high"
    with pytest.raises(SignatureError, match="does not fit"):
        refuse_unsigned(found, required=False, trusted=(f"key:{public}",))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the statement in a bundle; its signature stays."""
    value = json.loads((folder / "model.sig").read_text())
    statement = json.loads(base64.b64decode(value["dsseEnvelope"]["payload"]))
    change(statement)
    value["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    (folder / "model.sig").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "root digest"),
        (lambda s: s["predicate"]["resources"][0].update(name="../secret"), "outside the model folder"),
        (lambda s: s["predicate"]["resources"][0].update(name="a/../../b"), "not signed"),
        (lambda s: s["predicate"]["resources"][0].update(digest="zz"), "malformed"),
        (lambda s: s["predicate"]["resources"][0].update(algorithm="md5"), "unknown digest"),
        (lambda s: s["predicate"]["resources"][0].pop("name"), "without name"),
        (lambda s: s["predicate"].update(resources=None), "lists no files"),
        (lambda s: s["predicate"]["serialization"].update(method="tensors"), "unknown method"),
        (lambda s: s["predicate"]["serialization"].update(ignore_paths=[1]), "no path"),
        (lambda s: s["subject"].append({}), "not one subject"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "not about the files"),
    ],
)
def test_a_statement_that_is_none(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    private, public = write_key(tmp_path)
    sign(folder, private)
    rewrite(folder, change)
    found = check(folder, f"key:{public}")
    assert found.status == "invalid"
    assert told in found.message or "not signed" in found.message, found.message


def test_a_changed_statement_is_not_the_signers(folder: Path, tmp_path: Path) -> None:
    private, public = write_key(tmp_path)
    sign(folder, private)
    rewrite(folder, lambda statement: statement["subject"][0].update(name="another"))
    assert check(folder, f"key:{public}").status == "untrusted"


def test_files_that_are_not_here_are_named_and_harmless(folder: Path, tmp_path: Path) -> None:
    private, public = write_key(tmp_path)
    sign(folder, private)
    (folder / "README.md").unlink()
    found = check(folder, f"key:{public}")
    assert found.status == "trusted"
    assert "1 more signed files are not here" in found.message


def test_what_a_policy_requires(folder: Path, tmp_path: Path) -> None:
    private, public = write_key(tmp_path)
    with pytest.raises(SignatureError, match="the model has no model.sig"):
        refuse_unsigned(check(folder), required=True, trusted=())
    sign(folder, private)
    with pytest.raises(SignatureError, match="name trusted_signers"):
        refuse_unsigned(check(folder), required=True, trusted=())
    refuse_unsigned(check(folder, f"key:{public}"), required=True, trusted=(f"key:{public}",))
    assert SignatureError.exit_code == EXIT_REFUSED


def test_a_model_cannot_vouch_for_itself(folder: Path) -> None:
    private, public = write_key(folder)
    private.unlink()
    with pytest.raises(UsageError, match="lies in the model folder"):
        check(folder, f"key:{public}")


def test_a_repository_whose_signature_was_not_fetched(folder: Path) -> None:
    found = check_signature(folder, records(folder), (), listing={"model.sig": 9})
    assert "was not downloaded" in found.message


@pytest.mark.parametrize("text", ["", "key:", "pem:x", "sigstore:me", "sigstore:a b c d", "sigstore:'a b"])
def test_signers_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="none of the forms"):
        parse_signer(text)


def test_an_identity_of_sigstore(folder: Path, tmp_path: Path) -> None:
    signer = parse_signer("sigstore:me@example.org https://accounts.example.org trust.json")
    assert (signer.identity, signer.issuer) == ("me@example.org", "https://accounts.example.org")
    assert signer.file == Path("trust.json")
    private, _ = write_key(tmp_path)
    sign(folder, private)
    # a bundle without a log entry and a certificate of Sigstore is not by any identity
    found = check(folder, "sigstore:me@example.org https://accounts.example.org")
    assert found.status == "untrusted", found.message
    (tmp_path / "trust.json").write_text("{}")
    with pytest.raises(UsageError, match="no trust configuration of Sigstore"):
        check(folder, f"sigstore:me@example.org https://accounts.example.org {tmp_path}/trust.json")
