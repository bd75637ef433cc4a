"""Where the embedded encoders and heads lie: inside the wheel, or in a source checkout."""

from pathlib import Path

from platodef_cli.errors import IncompleteError

_PACKAGE = Path(__file__).resolve().parent
_PLACES = {
    "calibration": (_PACKAGE / "_data" / "calibration", _PACKAGE.parent / "examples" / "calibration"),
    "controls": (_PACKAGE / "_data" / "controls", _PACKAGE.parent / "examples" / "controls"),
    "encoders": (_PACKAGE / "_data" / "encoders", _PACKAGE.parent / "examples" / "encoders"),
    "schemas": (_PACKAGE / "_data" / "schemas", _PACKAGE.parent / "examples" / "schemas"),
    "pretrained_heads": (_PACKAGE / "_data" / "pretrained_heads", _PACKAGE.parent / "pretrained_heads"),
}


_RESULTS = (_PACKAGE / "_data" / "benchmark", _PACKAGE.parent / "examples")


def benchmark_results() -> tuple[Path, ...]:
    """Return the files with verdicts on encoders of known truth, sorted; none in a bare installation."""
    for place in _RESULTS:
        files = tuple(sorted(place.glob("bench-*/encoder.json")))
        if files:
            return files
    return ()


_LINEAGE = (_PACKAGE / "_data" / "lineage", _PACKAGE.parent / "examples" / "lineage")


def shipped_lineage() -> Path | None:
    """Return the folder with sketches of models that are part of the package; None in a bare installation."""
    return next((place for place in _LINEAGE if place.is_dir()), None)


def data_dir(name: str) -> Path:
    """Return the folder of embedded data called ``name`` (``encoders``, ``pretrained_heads``, ``schemas``).

    Raises:
        IncompleteError: The installation lacks the folder.
    """
    for place in _PLACES[name]:
        if place.is_dir():
            return place
    raise IncompleteError(f"the embedded {name} are missing from this installation; reinstall platodef")
