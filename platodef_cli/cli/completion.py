"""What the shell offers after an option or argument; called by the completion scripts of Typer.

Nothing here imports a library that computes: a shell waits for it.
"""

from platodef_cli.defences import DETECTORS, PURIFIERS
from platodef_cli.report import REPORTS
from platodef_cli.resources import data_dir


def _starting(incomplete: str, choices: list[str]) -> list[str]:
    return [choice for choice in choices if choice.startswith(incomplete)]


def _folders(kind: str) -> list[str]:
    return sorted(path.name for path in data_dir(kind).iterdir() if path.is_dir())


def formats(incomplete: str) -> list[str]:
    """Return report formats, each alone and ready for a path."""
    return _starting(incomplete, [choice for name in REPORTS.names() for choice in (name, f"{name}=")])


def detectors(incomplete: str) -> list[str]:
    """Return the detectors."""
    return _starting(incomplete, list(DETECTORS.names()))


def purifiers(incomplete: str) -> list[str]:
    """Return the purifiers."""
    return _starting(incomplete, list(PURIFIERS.names()))


def heads(incomplete: str) -> list[str]:
    """Return the heads that are part of the package."""
    return _starting(incomplete, _folders("pretrained_heads"))


def encoders(incomplete: str) -> list[str]:
    """Return the encoders that are part of the package."""
    return _starting(incomplete, [f"builtin:{name}" for name in _folders("encoders")])


def images(incomplete: str) -> list[str]:
    """Return the images that are part of the package."""
    return _starting(incomplete, ["builtin:shapes"])
