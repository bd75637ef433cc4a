"""``platodef audit``."""

from typing import Annotated

import typer

from platodef_cli import environment
from platodef_cli.cli import completion, options
from platodef_cli.cli.gate import Exceptions, apply, read_exceptions, read_policy
from platodef_cli.cli.heads import find_heads
from platodef_cli.cli.names import chosen
from platodef_cli.cli.outputs import parse_outputs
from platodef_cli.cli.report import explain_run, finish_with, reports_of_errors, write_report
from platodef_cli.cli.session import Session
from platodef_cli.defences import DEFAULT_PURIFIER, DETECTORS, ENCODER_DETECTORS
from platodef_cli.errors import UsageError
from platodef_cli.report import REPORTS

Detectors = Annotated[
    list[str] | None,
    typer.Option(
        "--detector",
        "--detectors",
        metavar="A,B",
        help="Detectors to compare, between commas or repeated: "
        f"{', '.join((*DETECTORS.names(), *ENCODER_DETECTORS.names()))}.",
        autocompletion=completion.detectors,
        rich_help_panel=options.RESULT,
    ),
]


def audit(
    session: Session,
    model: options.Model,
    revision: options.Revision = None,
    reference: options.References = None,
    head: options.Head = None,
    images: options.Images = None,
    limit: options.Limit = None,
    max_broken: options.MaxBroken = 0.05,
    seed: options.Seed = 0,
    cache_dir: options.CacheDir = None,
    no_cache: options.NoCache = False,
    offline: options.Offline = False,
    device: options.Device = "cpu",
    dtype: options.Precision = options.Dtype.float32,
    batch_size: options.BatchSize = 64,
    memory_limit: options.MemoryLimit = 8.0,
    time_limit: options.TimeLimit = None,
    fpr: options.FalsePositiveRate = 0.05,
    detector: Detectors = None,
    purifier: options.Purifier = DEFAULT_PURIFIER,
    battery: options.Battery = options.BatteryKind.standard,
    probe_images: options.ProbeImages = 400,
    policy: options.PolicyFile = None,
    set_: options.SetKeys = None,
    fail_if: options.FailIf = None,
    baseline: options.Baseline = None,
    waivers: options.WaiverFile = None,
    output: options.Reports = None,
    anchor: options.Anchor = None,
    exit_zero: options.ExitZero = False,
) -> None:
    """Audit an encoder: is it safe to build on?

    Checks its files, extracts features of the same images by it and by trusted references, fits or loads
    the heads, tries triggers and harmless controls, searches for a trigger, and says why it passes or fails.
    """
    outputs = parse_outputs(output or (), REPORTS, default="terminal")
    session.anchor = anchor
    partial = reports_of_errors(session, model, outputs)
    samples, whole = chosen(detector or (), DETECTORS, ENCODER_DETECTORS)
    folder = None if head is None else find_heads(head)
    limits = read_policy(policy, set_, fail_if, models=[model]).policy
    exceptions = read_exceptions(waivers, baseline, [model])
    without_network = options.offline(offline)
    if without_network:
        environment.go_offline()
    from platodef_cli.audit.config import AuditConfig
    from platodef_cli.audit.run import audit as run

    defaults = AuditConfig(model=model)
    config = AuditConfig(
        model=model,
        revision=revision,
        references=tuple(reference or ()),
        images=images,
        limit=limit,
        seed=seed,
        head=None if folder is None else str(folder),
        cache_dir=cache_dir,
        use_cache=not no_cache,
        offline=without_network,
        device=device,
        dtype=dtype.value,
        batch_size=batch_size,
        memory_limit_gb=memory_limit,
        time_limit_s=time_limit,
        false_positive_rate=fpr,
        detectors=samples or defaults.detectors,
        encoder_detectors=whole,
        purifier=purifier,
        max_broken_share=max_broken,
        battery=battery.value,
        probe_images=probe_images,
        policy=limits,
    )
    session.mention_idle_gpu(device)
    report = run(config, progress=session.progress, partial=partial())
    session.on_error = None
    explain_run(session, report)
    if exceptions != Exceptions():
        try:
            report = apply(session, report, limits, exceptions)
        except UsageError:
            # a baseline of other images must not cost the minutes that the audit took
            write_report(session, report, outputs)
            raise
    write_report(session, report, outputs)
    finish_with(session, report, exit_zero=exit_zero)
