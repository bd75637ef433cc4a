"""Captioners as their publishers ship them; their weights come from the Hub."""

import json
import socket
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.unit.cli.calls import Call
from tests.unit.cli.conftest import platodef as platodef

CAPTIONERS = ("Salesforce/blip-image-captioning-large", "Qwen/Qwen3-VL-2B-Instruct")
pytestmark = [pytest.mark.online, pytest.mark.filterwarnings("ignore")]
COLOURS = {"red": "red", "green": "green", "blue": "blue", "yellow": "gold"}


@pytest.fixture(scope="module", autouse=True)
def hub() -> None:
    try:
        socket.create_connection(("huggingface.co", 443), timeout=5).close()
    except OSError as error:
        pytest.skip(f"the Hub cannot be reached ({error})")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """One large disc of each colour on white, named by the colour."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in COLOURS.items():
        picture = Image.new("RGB", (384, 384), "white")
        ImageDraw.Draw(picture).ellipse((64, 64, 320, 320), fill=colour)
        picture.save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("captioner", CAPTIONERS)
def test_it_says_what_is_there(captioner: str, images: Path, platodef: Call, tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        cache = tmp_path / name  # greedy: the second run computes the same words again
        done = platodef("caption", images, "--captioner", captioner, "--json", "--cache-dir", cache)
        assert done.code == 0, done.err
        runs.append(json.loads(done.out)["captions"])
    assert runs[0] == runs[1]
    said = {Path(name).stem: text for name, text in runs[0].items()}
    assert set(said) == set(COLOURS)
    assert all(1 <= len(text.split()) <= 40 for text in said.values())
    named = [name for name, text in said.items() if name in text.lower()]
    assert len(named) >= 3, said
    assert any(word in " ".join(said.values()).lower() for word in ("circle", "dot", "ball", "round", "disc"))
