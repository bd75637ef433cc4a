"""What a policy asks of the publisher's signature."""

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.records import ContextRecord, Reason


def signed(context: ContextRecord | None, policy: Policy) -> tuple[Reason, ...]:
    """Return the reason that the signature gives; none where no signature is asked for and none is there.

    Args:
        context: Of the report.
        policy: Whether a signature is required, and by whom.
    """
    record = None if context is None else context.signature
    by_trusted = record is not None and record.status == "trusted" and record.signer in policy.trusted_signers
    if by_trusted:
        assert record is not None
        return (Reason(id="signature", outcome="pass", message=record.message),)
    if not policy.require_signature:
        return ()
    if record is None:
        why = "the report does not say who signed the model; audit it again"
    elif record.status == "trusted":
        why = f"the model is signed by {record.signer}, whom this policy does not name"
    else:
        why = record.message
    message = f"the policy requires a signature by a trusted signer: {why}"
    return (Reason(id="signature", outcome="refused", message=message),)
