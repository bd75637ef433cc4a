import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from platodef_cli.bench.attacks.clip_backdoor import ClipBackdoor
from platodef_cli.bench.attacks.named import large_side, named_trigger, parameters_of, trigger_names
from platodef_cli.triggers.generator import Generated, Generator
from platodef_cli.triggers.stored import save_trigger
from platodef_cli.triggers.triggers import Ctrl, Patch, Pattern

TYPED = [name for name in trigger_names() if parameters_of(name) is not None]
LEARNED = ["pattern", "generator", "blto", "bad-clip"]


@pytest.fixture
def photo(tmp_path):
    """A JPEG that is neither square nor small."""
    pixels = np.random.default_rng(0).integers(0, 255, (18, 24, 3), dtype=np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).resize((240, 180), Image.Resampling.BICUBIC).save(path, quality=95)
    return path


def pixels_of(path):
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB")).transpose(2, 0, 1).copy())[None]


@pytest.mark.parametrize("name", TYPED)
def test_every_trigger_is_applied_exactly_and_repeatably(name, photo, tmp_path, platodef):
    out = tmp_path / "out.png"
    result = platodef("bench", "trigger", name, photo, "-o", out, "--seed", 3)
    assert result.code == 0, result.err
    large = large_side(name)
    trigger = named_trigger(name, {} if large is None else {"side": str(large)}, 3)
    expected = trigger(pixels_of(photo), torch.tensor([3]))
    assert torch.equal(pixels_of(out), expected)
    assert not torch.equal(expected, pixels_of(photo))
    assert out.read_bytes().startswith(b"\x89PNG")
    assert trigger.name in result.last


def test_the_table_is_complete_and_learned_triggers_are_told(photo, platodef):
    result = platodef("bench", "trigger", "--json")
    rows = {row["name"]: row for row in json.loads(result.out)}
    assert set(rows) == set(TYPED) | set(LEARNED)
    assert rows["drupe"]["kind"] == "attack"
    assert rows["patch"]["parameters"] == "colour=white side=0.3125 place=bottom-right seed=0"
    # its losses do not show in an image
    assert rows["drupe"]["parameters"] == "side=0.3125 (0.2232 from 64 pixels)"
    for name in LEARNED:
        assert "learned" in rows[name]["parameters"]
        refused = platodef("bench", "trigger", name, photo)
        assert refused.code == 2
        assert "--from DIR" in refused.last


def test_parameters_and_the_seed_of_an_attack_reach_the_trigger(photo, tmp_path, platodef, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert platodef("bench", "trigger", "ctrl", photo, "-p", "magnitude=300").code == 0
    strong = Ctrl(300)(pixels_of(photo), torch.tensor([0]))
    assert torch.equal(pixels_of(tmp_path / "photo-ctrl.png"), strong)
    assert platodef("bench", "trigger", "noisy-alignment", photo, "-p", "side=0.5", "--seed", 4).code == 0
    patch = Patch("random", 0.5, "centre", 4)(pixels_of(photo), torch.tensor([4]))
    assert torch.equal(pixels_of(tmp_path / "photo-noisy-alignment.png"), patch)


@pytest.mark.parametrize(
    ("name", "size", "side"),
    [
        *(("bad-encoder", *row) for row in ((32, 10), (63, 20), (64, 14), (224, 50))),
        *(("drupe", *row) for row in ((32, 10), (224, 50))),
        *(("clip-backdoor", *row) for row in ((32, 4), (224, 16))),
        *(("ssl-backdoor", *row) for row in ((32, 7), (224, 50))),
    ],
)
def test_patches_have_the_papers_size_on_small_and_on_large_images(name, size, side, tmp_path, platodef):
    path, out = tmp_path / "black.png", tmp_path / "out.png"
    Image.new("RGB", (size, size)).save(path)
    result = platodef("bench", "trigger", name, path, "-o", out)
    where = pixels_of(out)[0].any(0).nonzero()
    assert (where.amax(0) - where.amin(0) + 1).tolist() == [side, side]
    if name in ("bad-encoder", "drupe"):
        assert where.aminmax(dim=0).max.tolist() == [size - 2, size - 2]  # one pixel off the corner
    changed = size >= 64 and name != "ssl-backdoor"
    assert ("the patch of the paper at 224 pixels" in result.err) == changed


def test_a_side_that_is_given_holds_at_every_size(tmp_path, platodef):
    path, out = tmp_path / "black.png", tmp_path / "out.png"
    Image.new("RGB", (224, 224)).save(path)
    result = platodef("bench", "trigger", "drupe", path, "-o", out, "-p", "side=0.3125")
    assert pixels_of(out).any(1).sum() == 70 * 70
    assert "paper" not in result.err


def test_the_triggers_of_planted_encoders_keep_their_names():
    """Cards and cells of a zoo hold them; they are those at 32 pixels."""
    names = {name: named_trigger(name, {}, 0).name for name in ("bad-encoder", "drupe", "clip-backdoor")}
    assert names == {
        "bad-encoder": "patch-white-0.3125-bottom-right",
        "drupe": "patch-white-0.3125-bottom-right",
        "clip-backdoor": "patch-random0-0.125-random",
    }
    assert {entry.name for entry in fields(ClipBackdoor)} == {"side", "rate", "lam"}


def test_a_learned_trigger_is_loaded_from_its_folder(photo, tmp_path, platodef):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learned = Generated(Generator(8).state_dict(), eps=60.0)
    save_trigger(learned, tmp_path)
    result = platodef("bench", "trigger", photo, "--from", tmp_path, "-o", tmp_path / "out.png")
    assert result.code == 0, result.err
    assert torch.equal(pixels_of(tmp_path / "out.png"), learned(pixels_of(photo), torch.tensor([0])))


def test_a_learned_trigger_is_found_in_an_encoder_of_a_zoo(photo, tmp_path, platodef):
    encoder = tmp_path / "zoo" / "encoders" / "bad-clip-0"
    (encoder / "trigger").mkdir(parents=True)
    for name in ("card.json", "config.json", "model.safetensors"):
        (encoder / name).write_text("{}")
    learned = Pattern(torch.rand(3, 4, 4), "patch", 4 / 32, "centre")
    save_trigger(learned, encoder / "trigger")
    result = platodef("bench", "trigger", photo, "--from", encoder, "-o", tmp_path / "out.png")
    assert result.code == 0, result.err
    assert torch.equal(pixels_of(tmp_path / "out.png"), learned(pixels_of(photo), torch.tensor([0])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pach", "IMAGE"], "did you mean 'patch'"),
        (["patch"], "name of a trigger and one image"),
        (["patch", "IMAGE", "more"], "name of a trigger and one image"),
        (["patch", "IMAGE", "-p", "side"], "KEY=VALUE"),
        (["patch", "IMAGE", "-p", "sid=1"], "did you mean 'side'"),
        (["patch", "IMAGE", "-p", "side=wide"], "must be a number"),
        (["patch", "IMAGE", "-p", "side=nan"], "must be finite"),
        (["patch", "IMAGE", "-p", "side=3"], "fraction"),
        (["patch", "IMAGE", "-p", "seed=1.5"], "whole number"),
        (["noise", "IMAGE", "-p", "smooth=maybe"], "true or false"),
        (["noise", "IMAGE", "-p", "seed=-1"], "noise: seed=-1 must be 0 to 2**63 - 1"),
        (["noise", "IMAGE", "-p", f"seed={'9' * 400}"], "must be 0 to 2**63 - 1"),
        (["patch", "IMAGE", "-p", "colour=random", "-p", "seed=99999999999999999999999"], "2**63 - 1"),
        (["noise", "IMAGE", "-p", "cells=10000000000"], "cells=10000000000 must be 1 to 1024"),
        (["wanet", "IMAGE", "-p", "cells=10000000000"], "cells=10000000000 must be 2 to 1024"),
        (["text", "TINY"], "4 pixels high has no room for letters"),
        (["patch", "missing.png"], "missing.png cannot be read"),
        (["patch", "TEXT"], "cannot be used"),
        (["patch", "IMAGE", "-o", "out.jpg"], "must end in .png"),
        (["patch", "IMAGE", "-o", "nowhere/out.png"], "does not exist"),
        (["IMAGE", "--from", "nowhere"], "cannot be read"),
        (["IMAGE", "--from", "broken"], "magnitude='abc' must be a finite number"),
        (["patch", "IMAGE", "--from", "nowhere"], "only the image"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_no_file(
    arguments, message, photo, tmp_path, platodef, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text.png"
    text.write_text("no image")
    Image.new("RGB", (40, 4)).save(tmp_path / "tiny.png")
    (tmp_path / "broken").mkdir()
    broken = {"trigger": "ctrl", "name": "ctrl-1", "parameters": {"magnitude": "abc"}}
    (tmp_path / "broken" / "trigger.json").write_text(json.dumps(broken))
    before = sorted(tmp_path.iterdir())
    files = {"IMAGE": photo, "TEXT": text, "TINY": tmp_path / "tiny.png"}
    words = [files.get(word, word) for word in arguments]
    result = platodef("bench", "trigger", *words)
    assert result.code == 2
    assert message in result.last
    assert "Traceback" not in result.err
    assert sorted(path for path in tmp_path.iterdir() if path.name != "cache") == before


def test_the_input_is_never_overwritten(tmp_path, platodef):
    path = tmp_path / "image.png"
    Image.new("RGB", (40, 30), (90, 120, 30)).save(path)
    before = path.read_bytes()
    result = platodef("bench", "trigger", "patch", path, "-o", path)
    assert result.code == 2
    assert "overwrite its own input" in result.last
    assert path.read_bytes() == before
