"""What an audit opens: equal names, encoders given twice, too few images, too little memory."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.audit import inputs as opening
from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.inputs import open_inputs
from platodef_cli.audit.policy.limits import Policy
from platodef_cli.errors import InconclusiveError, OutOfMemoryError, UsageError
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


def shapes(count: int, model: str = "builtin:clean", **more: Any) -> AuditConfig:
    return AuditConfig(model=model, images=f"builtin:shapes?seed=1&count={count}", offline=True, **more)


@pytest.fixture
def _nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr(opening, "open_encoder", fail)


@pytest.mark.usefixtures("_nothing_is_loaded")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (shapes(300), "300 images are too few for an answer: they give 90 test and 60 .* give at least 343"),
        (shapes(300), "--limit 300 for a trial run"),
        (
            shapes(90),
            "90 images are too few for an audit with a false positive rate of 0.05; give at least 343",
        ),
        (shapes(90, limit=90), "90 images are too few for an audit with a false positive rate of 0.05"),
        (shapes(400, false_positive_rate=0.01), "400 images are too few for an audit .* give at least 510"),
        (shapes(900, policy=Policy(min_test=900)), "asks for 900 and 60; give at least 3010"),
    ],
)
def test_too_few_images_are_told_before_anything_is_loaded(given: AuditConfig, told: str) -> None:
    seen = []
    with pytest.raises(InconclusiveError, match=told), open_inputs(given, SILENT, seen.append):
        pass
    assert len(seen[0].refs) >= 90


@pytest.mark.usefixtures("_nothing_is_loaded")
def test_too_few_images_are_told_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "resolve", lambda *_, **__: pytest.fail("it was downloaded"))
    with pytest.raises(InconclusiveError, match="300 images"), open_inputs(shapes(300, "org/model"), SILENT):
        pass


@pytest.mark.usefixtures("_nothing_is_loaded")
@pytest.mark.parametrize("given", [shapes(343), shapes(900, limit=300)])
def test_enough_images_and_trial_runs_go_on(given: AuditConfig) -> None:
    with pytest.raises(AssertionError, match="loaded"), open_inputs(given, SILENT):
        pass


def test_every_encoder_takes_as_many_images_as_the_batch_size_and_the_memory_limit_allow() -> None:
    with open_inputs(shapes(400, batch_size=5), SILENT) as inputs:
        for encoder in inputs.encoders.values():
            assert (encoder.parts.forward, encoder.parts.backward) == (5, 5)
    with open_inputs(shapes(400, batch_size=65536, memory_limit_gb=0.5), SILENT) as inputs:
        for encoder in inputs.encoders.values():
            footprint = encoder.footprint()
            assert 1 <= encoder.parts.backward * footprint.backward <= 2**29
            assert 1 <= encoder.parts.forward * footprint.forward <= 2**29


def test_a_reference_that_does_not_fit_is_told_before_images_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heavy = "reference-cnx"
    real = opening.bounded

    def measured(encoder: Any, **options: Any) -> Any:
        if encoder.record.name == heavy:
            encoder.footprint = lambda: opening_footprint
        return real(encoder, **options)

    from platodef_cli.encoders.footprint import Footprint

    opening_footprint = Footprint(weights=2**30, forward=2**20, backward=7 * 2**30)
    monkeypatch.setattr(opening, "bounded", measured)
    with (
        pytest.raises(OutOfMemoryError, match=rf"'{heavy}'.*32x32 pixels; give --memory-limit 10 or more"),
        open_inputs(shapes(400), SILENT),
    ):
        pass
