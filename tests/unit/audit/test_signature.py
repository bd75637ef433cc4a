"""What policies ask of signatures: before anything is loaded, and again at the gate."""

import sys
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.context import context_of
from platodef_cli.audit.inputs import open_inputs
from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict import Gate, judge_again
from platodef_cli.errors import SignatureError
from platodef_cli.progress import SILENT
from platodef_cli.records import AuditReport, SignatureRecord

CLEAN = Path(__file__).parents[2] / "golden" / "gate" / "clean.json"
TRUSTED = "key:publisher.pem"
SIGNED = SignatureRecord(status="trusted", signer=TRUSTED, kind="key", message=f"signed by {TRUSTED}")


def judged(signature: SignatureRecord | None, **policy: Any) -> AuditReport:
    recorded = AuditReport.model_validate_json(CLEAN.read_text())
    context = context_of(recorded.configuration, recorded.policy, signature=signature)
    limits = Policy.from_json({**recorded.policy, **Policy(**policy).to_json()})
    return judge_again(recorded.model_copy(update={"context": context}), Gate(limits))


def test_a_trusted_signature_is_a_passed_check() -> None:
    report = judged(SIGNED, require_signature=True, trusted_signers=(TRUSTED,))
    assert report.verdict == "pass"
    assert report.reasons[0].id == "signature"
    assert report.policy["require_signature"] is True
    assert report.policy["trusted_signers_1"] == TRUSTED
    assert Policy.from_json(report.policy).trusted_signers == (TRUSTED,)


@pytest.mark.parametrize(
    ("signature", "told"),
    [
        (None, "does not say who signed"),
        (SIGNED.model_copy(update={"signer": "key:other.pem"}), "whom this policy does not name"),
        (SignatureRecord(status="absent", message="the model has no model.sig"), "has no model.sig"),
        (SignatureRecord(status="untrusted", message="by a stranger"), "by a stranger"),
    ],
)
def test_without_one_the_model_is_refused_where_the_policy_requires_it(
    signature: SignatureRecord | None, told: str
) -> None:
    report = judged(signature, require_signature=True, trusted_signers=(TRUSTED,))
    assert (report.verdict, report.exit_code) == ("refused", 5)
    assert told in report.summary
    assert judged(signature).verdict == "pass"


def test_a_policy_that_asks_for_nothing_is_recorded_as_before() -> None:
    assert {"require_signature", "trusted_signers"}.isdisjoint(Policy().to_json())


def test_an_audit_loads_nothing_that_is_not_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(sys.modules["platodef_cli.audit.inputs"], "open_encoder", fail)
    config = AuditConfig("builtin:clean", policy=Policy(require_signature=True))
    with pytest.raises(SignatureError, match="no model.sig"), open_inputs(config, SILENT):
        pass
