"""Encoder-level detectors, on the suspect and on the references as their control group."""

from platodef_cli.audit.state import AuditState
from platodef_cli.audit.steps.samples import SuspectImages
from platodef_cli.defences import make_encoder_detector
from platodef_cli.errors import NotApplicable
from platodef_cli.features.access import EncoderAccess
from platodef_cli.features.extract import CLEAN
from platodef_cli.records import Metric

_EXAMINED = 256


def encoder_statistics(state: AuditState) -> tuple[tuple[Metric, ...], dict[str, str]]:
    """Run the encoder-level detectors on the suspect and, as control group, on the references.

    Returns:
        One metric per detector and encoder, and the detectors that were asked for and are not applicable,
        per-sample ones included, with the reason.
    """
    config, inputs = state.config, state.inputs
    metrics: list[Metric] = []
    reasons = dict(state.defences.not_applicable)
    # fit images: nothing that was searched with may test a result
    rows = state.features.tuples(state.parts.fit)[1][:_EXAMINED]
    for name in config.encoder_detectors:
        tool = make_encoder_detector(name, seed=config.seed, progress=state.recorder)
        for encoder in inputs.encoders.values():
            images = SuspectImages(inputs.images, encoder.geometry, {}).load(rows, CLEAN)
            try:
                found = tool.examine(EncoderAccess(encoder), images)
            except NotApplicable as error:
                reasons[name] = error.why
                continue
            metrics.append(
                Metric(
                    name=f"{name}: {encoder.record.name}",
                    value=found.value,
                    direction="higher is more suspicious",
                    unit=tool.statistic,
                )
            )
    return tuple(metrics), reasons
