"""``platodef gate``, and the judging that ``platodef audit`` shares."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import attestation, options
from platodef_cli.cli.outputs import parse_outputs
from platodef_cli.cli.report import finish_with, write_report
from platodef_cli.cli.session import Session
from platodef_cli.report import REPORTS
from platodef_cli.report.reading import read_report

if TYPE_CHECKING:
    from platodef_cli.audit.policy.limits import Policy
    from platodef_cli.audit.policy.sources import Effective
    from platodef_cli.audit.verdict.waivers import Waiver
    from platodef_cli.records import AuditReport


@dataclass(frozen=True)
class VerdictExceptions:
    """What a verdict makes an exception for.

    Attributes:
        waivers: What somebody answers for.
        baseline: What is known, or None.
    """

    waivers: "tuple[Waiver, ...]" = ()
    baseline: "AuditReport | None" = None


def read_policy(
    file: Path | None,
    overrides: list[str] | None,
    rules: list[str] | None,
    *,
    alpha: float | None = None,
    models: Sequence[str] = (),
    recorded: "Mapping[str, float | int | str | bool] | None" = None,
) -> "Effective":
    """Return the policy that the command line, the environment and the current folder ask for.

    Raises:
        UsageError: One of them is wrong, or lies inside one of ``models``.
    """
    from platodef_cli.audit.policy.sources import effective_policy

    return effective_policy(
        file=file,
        overrides=(*(overrides or ()), *([] if alpha is None else [f"alpha={alpha}"])),
        rules=rules or (),
        environment=os.environ,
        folder=Path(),
        models=models,
        recorded=recorded,
    )


def read_exceptions(waivers: Path | None, baseline: Path | None, models: Sequence[str]) -> VerdictExceptions:
    """Read the waivers and the baseline.

    Raises:
        UsageError: One of the files is wrong.
    """
    from platodef_cli.audit.policy.waiver_file import read_waivers

    return VerdictExceptions(
        () if waivers is None else read_waivers(waivers, models),
        None if baseline is None else read_report(baseline),
    )


def apply(
    session: Session, report: "AuditReport", policy: "Policy", exceptions: VerdictExceptions
) -> "AuditReport":
    """Judge a report, and warn of waivers that should be removed or renewed.

    Raises:
        UsageError: The policy does not fit the report, or the baseline cannot be compared.
    """
    from platodef_cli.audit.verdict import Gate, judge_again
    from platodef_cli.audit.verdict.waivers import warning

    today = datetime.now(UTC).date()
    judged = judge_again(report, Gate(policy, exceptions.waivers, today, exceptions.baseline))
    for record in judged.waiver_records:
        message = warning(record)
        if message is not None:
            session.warn(message)
    return judged


def gate(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="REPORT.json", help="A JSON report of `platodef audit`.")],
    policy: options.PolicyFile = None,
    set_: options.SetKeys = None,
    fail_if: options.FailIf = None,
    alpha: options.Alpha = None,
    baseline: options.Baseline = None,
    waivers: options.WaiverFile = None,
    output: options.Reports = None,
    anchor: options.Anchor = None,
    require_attestation: attestation.Attestation = None,
    model_folder: attestation.ModelFolder = None,
    attestation_key: attestation.Key = None,
    attestation_signer: attestation.Signers = None,
    exit_zero: options.ExitZero = False,
) -> None:
    """Judge a JSON report again, without computing anything.

    The measurements of the report are compared with the limits of the policy, as `platodef audit` does,
    so that the same policy gives the same verdict and exit code. Without a policy file the limits are
    those that the report was made with. With --require-attestation the report must be the attested one, and
    the files in --model those that were audited; otherwise it is refused (5).
    """
    from platodef_cli.audit.verdict.complete import is_unfinished

    outputs = parse_outputs(output or (), REPORTS, default="terminal")
    session.anchor = anchor
    report = read_report(path)
    named = (report.configuration.get("model"), report.target and report.target.uri, model_folder)
    models = [str(name) for name in named if name]
    recorded = None if is_unfinished(report) else report.policy
    limits = read_policy(policy, set_, fail_if, alpha=alpha, models=models, recorded=recorded).policy
    exceptions = read_exceptions(waivers, baseline, models)
    refused = attestation.require(
        session, report, require_attestation, model_folder, attestation_key, attestation_signer or ()
    )
    judged = refused or apply(session, report, limits, exceptions)
    if judged.error_rate is None and recorded is not None:
        session.warn(
            f"{path} (schema {report.schema_version}) holds no calibration: it is judged by its limits "
            "alone, without a p-value; audit again for a stated rate of false alarms"
        )
    write_report(session, judged, outputs)
    finish_with(session, judged, exit_zero=exit_zero)
