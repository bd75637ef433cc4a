"""Versions of the libraries that decide results, read without importing them."""

from importlib.metadata import PackageNotFoundError, version

FLOORS = {
    "torch": "2.10",
    "torchvision": "0.25",
    "timm": "1.0.31",
    "transformers": "5.18",
    "open_clip_torch": "3.3",
    "huggingface_hub": "2.4",
    "safetensors": "0.6",
    "datasets": "5.2",
    "pillow": "12.2",
    "numpy": "2.0",
    "scikit-learn": "1.7",
}
"""Oldest version that platodef runs with, as in its package metadata; older ones have known holes."""


def library_versions() -> dict[str, str]:
    """Return library -> installed version, or ``not installed``."""
    versions = {}
    for name in FLOORS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _release(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: ``2.15.0+cpu`` -> (2, 15, 0)."""
    numbers = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def older_than_floor() -> tuple[str, ...]:
    """Return the installed libraries that are older than platodef supports."""
    return tuple(
        name
        for name, installed in library_versions().items()
        if installed != "not installed" and _release(installed) < _release(FLOORS[name])
    )
