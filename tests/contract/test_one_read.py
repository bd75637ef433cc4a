"""Files of a suspect that are exchanged between their examination and their load are never loaded."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.audit import inputs as opening
from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.inputs import open_inputs
from platodef_cli.encoders.load import open_encoder
from platodef_cli.encoders.reference import parse
from platodef_cli.encoders.resolve import examine, resolve
from platodef_cli.errors import EXIT_REFUSED, RefusedError
from platodef_cli.progress import SILENT
from platodef_cli.resources import data_dir
from tests.contract import encoder_models as make

Make = Callable[[Path], Any]
LIBRARIES: dict[str, tuple[Make, tuple[str, ...]]] = {
    "transformers": (
        lambda folder: make.transformers_model(folder, "vit"),
        ("config.json", "model.safetensors", "preprocessor_config.json"),
    ),
    "timm": (make.timm_model, ("config.json", "model.safetensors")),
    "open_clip": (make.open_clip_model, ("open_clip_config.json", "open_clip_model.safetensors")),
}


def exchange(path: Path) -> None:
    """Put a file that is as good and of equal length in the place of another, as a publisher's push does."""
    data = path.read_bytes()
    if path.suffix == ".json":
        # a fraction (a mean, a rate of dropout) rather than a size, where there is one
        number = (re.findall(rb"\d\.\d+", data) or re.findall(rb"[1-8]", data))[-1]
        at = data.rfind(number) + len(number) - 1
        changed = data[:at] + b"%d" % ((int(data[at : at + 1]) + 1) % 10) + data[at + 1 :]
    else:
        changed = data[:-4] + bytes(4)  # the last weight becomes zero
    assert changed != data
    assert len(changed) == len(data)
    other = path.with_name(".other")
    other.write_bytes(changed)
    os.replace(other, path)


@pytest.fixture(scope="module", params=LIBRARIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A folder that a library saved, and the names of the files that platodef reads in it."""
    build, names = LIBRARIES[request.param]
    folder = tmp_path_factory.mktemp("one-read") / request.param
    build(folder)
    return folder, set(names)


def test_every_file_of_a_load_is_the_one_that_was_examined(
    made: tuple[Path, set[str]], tmp_path: Path
) -> None:
    original, names = made
    assert {file.path for file in examine(resolve(parse(str(original)))).files} == names
    for name in sorted(names):
        folder = shutil.copytree(original, tmp_path / name)
        resolved = resolve(parse(str(folder)))
        examined = (resolved, examine(resolved))
        open_encoder(str(folder), examined=examined).close()
        exchange(folder / name)
        # on its own the other file is as good
        open_encoder(str(folder)).close()
        with pytest.raises(RefusedError, match=f"{name}: changed between check and load") as caught:
            open_encoder(str(folder), examined=examined)
        assert caught.value.exit_code == EXIT_REFUSED


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_audit_loads_the_bytes_that_it_examined(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(data_dir("encoders") / "clean", tmp_path / "suspect")
    examined = opening.examine

    def then_exchanged(*arguments: Any, **options: Any) -> Any:
        checked = examined(*arguments, **options)
        exchange(folder / name)
        return checked

    monkeypatch.setattr(opening, "examine", then_exchanged)
    config = AuditConfig(
        model=str(folder),
        references=("builtin:reference-vit",),
        images="builtin:shapes?seed=1&count=3000",
        offline=True,
    )
    with (
        pytest.raises(RefusedError, match=f"{name}: changed between check and load"),
        open_inputs(config, SILENT),
    ):
        pass
