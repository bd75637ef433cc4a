"""The examples of examples/GUARD.md, run as they stand, on embedded encoders."""

import dataclasses
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from platodef_cli import Guard
from platodef_cli.errors import UsageError
from platodef_cli.guard.encoders import GuardEncoders
from platodef_cli.images.decode import ImageError
from platodef_cli.images.shapes import render
from platodef_cli.triggers.triggers import Patch
from tests.unit.cli.calls import ROOT

PAGE = ROOT / "examples" / "GUARD.md"
TRIGGER = Patch("white", 0.3125, "bottom-right")


def example(name: str) -> str:
    (code,) = re.findall(rf"<!-- example:{name} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return code


def pictures(count: int, seed: int) -> torch.Tensor:
    """Return uint8 ``[count, 3, 32, 32]`` of a world that the heads have not seen."""
    return torch.from_numpy(render(seed, np.arange(count))[0])


def triggered(images: torch.Tensor) -> torch.Tensor:
    return TRIGGER(images, torch.zeros(len(images), dtype=torch.int64))


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    loaded = Guard.load("builtin-backdoored")
    yield loaded
    loaded.close()


def test_the_first_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"images": triggered(pictures(300, 91)), "classifier": lambda features: features}
    exec(compile(example("guard"), str(PAGE), "exec"), names)
    assert float(names["flagged"].double().mean()) > 0.5
    assert names["features"].shape[0] == 300
    assert "promised: look at what comes in" in capsys.readouterr().out
    assert Guard.load("builtin-backdoored", state="monitor.json").drift == names["guard"].drift


def test_the_scikit_learn_example(guard: Guard) -> None:
    images = torch.cat([pictures(120, 92), triggered(pictures(120, 92))])
    tuples = guard.tuples(images)
    names: dict[str, Any] = {"tuples": tuples, "labels": [0] * 120 + [1] * 120}
    exec(compile(example("guard-sklearn"), str(PAGE), "exec"), names)
    assert names["predictions"].shape == (240,)
    assert names["drift"].seen == 240


def test_every_way_to_give_a_picture(guard: Guard, tmp_path: Path) -> None:
    from PIL import Image

    images = pictures(2, 93)
    opened = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    encoded = []
    for number, picture in enumerate(opened):
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        encoded.append(stream.getvalue())
        (tmp_path / f"{number}.png").write_bytes(stream.getvalue())
    wanted = guard.tuples(images).source
    paths = [tmp_path / "0.png", str(tmp_path / "1.png")]
    for given in (list(images), opened, encoded, paths):
        assert torch.equal(guard.tuples(given).source, wanted)
    torch.testing.assert_close(guard.tuples(opened[0]).source, wanted[:1])
    assert guard([]).features.shape == (0, wanted.shape[1])
    wrong: list[tuple[Any, str]] = [
        (images.float(), "uint8"),
        (images[:, :1], "uint8"),
        ([b"no picture"], "not a readable image"),
        ([tmp_path / "absent.png"], "cannot read the image"),
        ([7], "is a int"),
    ]
    for given, words in wrong:
        with pytest.raises((UsageError, ImageError), match=words):
            guard(given)


def test_other_encoders_are_refused() -> None:
    swapped = Guard.load("builtin-backdoored", suspect="builtin:clean")
    with pytest.raises(UsageError):
        swapped(pictures(1, 94))
    unknown = Guard.load("builtin-backdoored", references={"nobody": "builtin:clean"})
    with pytest.raises(UsageError, match="have no reference 'nobody'"):
        unknown(pictures(1, 94))


def test_encoders_are_opened_as_they_were_when_the_heads_were_fitted() -> None:
    heads = Guard.load("builtin-backdoored").heads
    assert heads.card is not None
    card = heads.card.model_copy(
        update={"source": heads.card.source.model_copy(update={"dtype": "bfloat16-autocast"})}
    )
    encoders = GuardEncoders.open(dataclasses.replace(heads, card=card))
    try:
        assert encoders.suspect.record.dtype == "bfloat16-autocast"
        assert {encoder.record.dtype for encoder in encoders.references.values()} == {"float32"}
    finally:
        encoders.close()


def test_links_of_the_page() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text())
    assert links
    assert all((ROOT / "examples" / link).exists() for link in links)
