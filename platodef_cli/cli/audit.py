"""``platodef audit``."""

from typing import Annotated, Any

import typer

from platodef_cli import environment
from platodef_cli.audit.config import AuditConfig
from platodef_cli.cli import options
from platodef_cli.cli.gate import VerdictExceptions, apply, read_exceptions, read_policy
from platodef_cli.cli.outputs import parse_outputs, set_aside
from platodef_cli.cli.plan import check_plan_outputs, tell_plan, write_plan
from platodef_cli.cli.report import explain_run, finish_with, reports_of_errors, write_report
from platodef_cli.cli.session import Session
from platodef_cli.errors import UsageError
from platodef_cli.heads.find import find_heads
from platodef_cli.report import REPORTS


@options.with_config_options
def audit(
    session: Session,
    given: dict[str, Any],
    policy: options.PolicyFile = None,
    set_: options.SetKeys = None,
    fail_if: options.FailIf = None,
    alpha: options.Alpha = None,
    baseline: options.Baseline = None,
    waivers: options.WaiverFile = None,
    output: options.Reports = None,
    anchor: options.Anchor = None,
    exit_zero: options.ExitZero = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Only say what would be computed and how long that takes here.",
            rich_help_panel=options.RUN,
        ),
    ] = False,
) -> None:
    """Audit an encoder: is it safe to build on?

    Checks its files, extracts features of the same images by it and by trusted references, fits or loads
    the heads, tries triggers and harmless controls, searches for a trigger, and says why it passes or fails.
    """
    outputs = parse_outputs(output or (), REPORTS, default="terminal")
    if plan:
        check_plan_outputs(outputs)
    session.anchor = anchor
    model = given["model"]
    partial = reports_of_errors(session, model, () if plan else outputs)
    if given["head"] is not None:
        given["head"] = find_heads(given["head"])
    limits = read_policy(policy, set_, fail_if, alpha=alpha, models=[model]).policy
    exceptions = read_exceptions(waivers, baseline, [model])
    given["offline"] = options.offline(given["offline"])
    if given["offline"]:
        environment.go_offline()
    config = AuditConfig(**given, policy=limits)
    from platodef_cli.audit import run as running

    session.mention_idle_gpu(config.device)
    if plan:
        write_plan(session, running.plan(config, progress=session.progress), outputs)
        return
    session.set_aside = set_aside(outputs)
    report = running.audit(
        config,
        progress=session.progress,
        partial=partial(),
        told=lambda found, countdown: tell_plan(session, found, countdown.left),
    )
    session.on_error = None
    explain_run(session, report)
    if exceptions != VerdictExceptions():
        try:
            report = apply(session, report, config.limits, exceptions)
        except UsageError:
            # a baseline of other images must not cost the minutes that the audit took
            write_report(session, report, outputs)
            raise
    write_report(session, report, outputs)
    finish_with(session, report, exit_zero=exit_zero)
