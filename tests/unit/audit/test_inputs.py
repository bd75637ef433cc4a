"""What an audit opens: references with equal names, and encoders given twice."""

import shutil
from pathlib import Path

import pytest

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.inputs import open_inputs
from platodef_cli.errors import UsageError
from platodef_cli.progress import SILENT
from platodef_cli.resources import data_dir


def config(*references: Path | str) -> AuditConfig:
    return AuditConfig(model="builtin:clean", references=tuple(map(str, references)), offline=True)


def folder(parent: Path, name: str, encoder: str) -> Path:
    """Return a copy of an embedded encoder under a name that others have too."""
    return Path(shutil.copytree(data_dir("encoders") / encoder, parent / name))


def test_encoders_of_equal_names_are_told_apart(tmp_path: Path) -> None:
    first = folder(tmp_path / "one", "clean", "reference-vit")
    second = folder(tmp_path / "two", "clean", "reference-cnx")
    with open_inputs(config(first, second), SILENT) as inputs:
        assert list(inputs.encoders) == ["clean-suspect", "clean", "clean-2"]
        assert [encoder.record.name for encoder in inputs.encoders.values()] == list(inputs.encoders)


def test_a_reference_under_two_names_is_refused(tmp_path: Path) -> None:
    copy = folder(tmp_path, "other", "reference-vit")
    with (
        pytest.raises(UsageError, match="is the same encoder as reference 'reference-vit'"),
        open_inputs(config("builtin:reference-vit", copy), SILENT),
    ):
        pass


def test_the_suspect_cannot_be_its_own_reference() -> None:
    with (
        pytest.raises(UsageError, match="cannot judge itself"),
        open_inputs(config("builtin:clean"), SILENT),
    ):
        pass


def test_an_empty_image_source_is_not_the_embedded_images() -> None:
    empty = AuditConfig(model="builtin:clean", images="", offline=True)
    with pytest.raises(UsageError, match="the image source is empty"), open_inputs(empty, SILENT):
        pass
