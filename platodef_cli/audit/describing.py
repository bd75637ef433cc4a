"""What a report says about an audit itself: images, device, libraries, memory, what was left out."""

import platform
import resource

import torch

from platodef_cli.audit.inputs import digest_of
from platodef_cli.audit.state import AuditState
from platodef_cli.images.interface import ImageSource
from platodef_cli.metrics.costs import peak_ever
from platodef_cli.records import ImageSetRecord

NOT_EXAMINED = (
    "triggers outside the battery and the budgets of the search",
    "triggers that act through text, a downstream head, or only on images unlike the given ones",
    "the references themselves: they are trusted as given",
    "the training data and the training code of the suspect",
)


def not_examined(run: AuditState) -> tuple[str, ...]:
    """Return what nobody looked at, always and in this audit."""
    notes = tuple(getattr(run.inputs.suspect, "notes", ()))
    unlabelled = (
        ()
        if run.labelled
        else ("linear-probe accuracy, concentration on a class and PA: the images have no labels",)
    )
    return (*NOT_EXAMINED, *unlabelled, *notes, *run.inputs.checked.not_examined)


def listed(images: ImageSource) -> ImageSetRecord:
    """Return the images of a source, before they have roles."""
    return ImageSetRecord(
        uri=images.uri,
        count=len(images.refs),
        classes=images.classes,
        digest=digest_of(images, range(len(images.refs))),
        skipped=tuple((name, reason) for name, reason in images.skipped),
    )


def image_set(run: AuditState) -> ImageSetRecord:
    """Return the images and their roles."""
    roles = {
        "fit": 0 if run.head.origin == "loaded" else len(run.features.tuples(run.parts.fit)[0]),
        "calibration": run.judge.thresholds[0].calibration,
        "test": len(run.test),
    }
    return listed(run.inputs.images).model_copy(update=roles)


def device_name(device: str) -> str:
    """Return a device with the name of its hardware."""
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({platform.machine()})"


def peak_memory() -> float:
    """Return the peak of this process and its largest child together, MB."""
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak_ever() + child / 1024, 1)
