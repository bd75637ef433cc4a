"""What a report says about an audit itself: libraries, images, device, memory, what was left out."""

import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from platodef_cli.images.interface import ImageSource, digest_of
from platodef_cli.metrics.costs import peak_ever, peak_of
from platodef_cli.plugins import Plugin
from platodef_cli.records import ImageSetRecord

if TYPE_CHECKING:
    from platodef_cli.audit.config import AuditConfig
    from platodef_cli.audit.state import AuditState

_LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "open_clip_torch",
    "safetensors",
    "pillow",
    "numpy",
)


def libraries(plugins: Iterable[Plugin] = ()) -> dict[str, str]:
    """Return the versions of Python, of the libraries that compute, and of ``plug-in NAME``."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions | {f"plug-in {plugin.distribution}": plugin.version for plugin in sorted(plugins)}


NOT_EXAMINED = (
    "triggers outside the battery and the budgets of the search: opaque patches larger than those that were "
    "tried, changes that only act together (composite triggers), changes that differ from image to image "
    "(generators, steganography), objects and scenes (semantic triggers)",
    "triggers that act through text, a downstream head, or only on images unlike the given ones",
    "the references themselves: they are trusted as given",
    "the training data and the training code of the suspect",
)


_NO_VOTE = (
    "a text reference judges single features; it has no vote in whether the references are aligned with the "
    "suspect, since sentences agree with images coarsely only, nor in what a change does to honest encoders"
)
_ALONE = (
    "groups of the given images in which the suspect departs from the references: with one reference "
    "nothing tells whether they are hard for every encoder"
)


def not_examined(state: "AuditState") -> tuple[str, ...]:
    """Return what nobody looked at, always and in this audit."""
    notes = tuple(getattr(state.inputs.suspect, "notes", ()))
    unlabelled = (
        ()
        if state.labelled
        else ("linear-probe accuracy, concentration on a class and PA: the images have no labels",)
    )
    alone = () if len(state.features.references) > 1 else (_ALONE,)
    left_out = tuple(left_out_of(state.config))
    texts = state.inputs.texts
    if texts is not None:
        alone = (*alone, f"what changes do to {', '.join(texts.towers)}: {_NO_VOTE}")
    return (*NOT_EXAMINED, *left_out, *unlabelled, *alone, *notes, *state.inputs.checked.not_examined)


def left_out_of(config: "AuditConfig") -> Iterator[str]:
    """Yield the families of triggers that an audit leaves out, which its options chose to."""
    from platodef_cli.search.interface import default_searches, usual_kinds
    from platodef_cli.triggers.battery import battery

    tried = {item.family for item in battery(config.battery, config.plugins)}
    families = dict.fromkeys(item.family for item in battery() if item.kind == "trigger")
    untried = [family for family in families if family not in tried]
    if untried:
        yield f"known triggers that the {config.battery} battery leaves out: {', '.join(untried)}"
    kinds = default_searches(config.plugins)
    asked = config.searches or usual_kinds(kinds)
    unsearched = [kind.name for kind in kinds if kind.name not in asked]
    if unsearched:
        yield f"unknown triggers of the kinds that were not searched for: {', '.join(unsearched)}"


def listed(images: ImageSource) -> ImageSetRecord:
    """Return the images of a source, before they have roles."""
    return ImageSetRecord(
        uri=images.uri,
        count=len(images.refs),
        classes=images.classes,
        digest=digest_of(images, range(len(images.refs))),
        skipped=tuple((name, reason) for name, reason in images.skipped),
    )


def image_set(state: "AuditState") -> ImageSetRecord:
    """Return the images and their roles."""
    roles = {
        "fit": 0 if state.head.origin == "loaded" else len(state.features.tuples(state.parts.fit)[0]),
        "calibration": state.defences.thresholds[0].calibration,
        "test": len(state.test),
    }
    return listed(state.inputs.images).model_copy(update=roles)


def device_name(device: str) -> str:
    """Return a device with the name of its hardware."""
    if device.startswith("cuda"):
        import torch

        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({platform.machine()})"


def peak_memory() -> float:
    """Return the peak of this process and its largest child together, MB."""
    return round(peak_ever() + peak_of("RUSAGE_CHILDREN"), 1)
