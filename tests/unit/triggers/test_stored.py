import hashlib
import json

import pytest
import torch
from safetensors.torch import save

from platodef_cli.errors import UsageError
from platodef_cli.triggers import TRIGGERS
from platodef_cli.triggers.controls import Blur
from platodef_cli.triggers.generator import Generated, Generator
from platodef_cli.triggers.stored import load_planted_trigger, load_trigger, save_trigger
from platodef_cli.triggers.triggers import Patch, Pattern


def examples() -> dict[str, object]:
    values = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generated(Generator(8).state_dict(), eps=6.0, side=24)
    made = {"pattern": Pattern(values, "patch", 0.2, "left"), "generator": generator}
    return {name: made[name] if name in made else TRIGGERS.load(name)() for name in TRIGGERS.names()}


@pytest.mark.parametrize("name", TRIGGERS.names())
def test_every_trigger_survives_the_disk(name, tmp_path):
    trigger = examples()[name]
    save_trigger(trigger, tmp_path)
    again = load_trigger(tmp_path)
    pixels = torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    assert again.name == trigger.name
    assert torch.equal(again(pixels, torch.arange(4)), trigger(pixels, torch.arange(4)))
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save_trigger(again, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_what_is_not_a_trigger_is_not_saved(tmp_path):
    with pytest.raises(UsageError, match="Blur"):
        save_trigger(Blur(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trigger": "ghost"}, "unknown trigger 'ghost'"),
        ({"parameters": {"colour": "pink"}}, "patch colour 'pink'"),
        ({"parameters": {"evil": 1}}, "do not fit a 'patch' trigger"),
        ({"parameters": {"side": "large"}}, "do not fit a 'patch' trigger .side='large' must be a finite"),
        ({"parameters": []}, "needs trigger, name and parameters"),
        ({"parameters": {"colour": "grey"}}, "it was changed"),
    ],
)
def test_changed_descriptions_are_refused(change, message, tmp_path):
    save_trigger(Patch(), tmp_path)
    path = tmp_path / "trigger.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UsageError, match=message):
        load_trigger(tmp_path)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("ctrl", '{"magnitude": "abc"}', "magnitude='abc' must be a finite number"),
        ("ctrl", '{"magnitude": NaN}', "magnitude=nan must be a finite number"),
        ("ctrl", '{"magnitude": -Infinity}', "magnitude=-inf must be a finite number"),
        ("ctrl", '{"magnitude": true}', "magnitude=True must be a finite number"),
        ("ctrl", f'{{"magnitude": {"9" * 400}}}', r"magnitude=9+\.\.\.9+ must be a finite number"),
        ("sig", '{"amplitude": null}', "amplitude=None must be a finite number"),
        ("noise", '{"seed": 1.5}', "seed=1.5 must be a whole number"),
        ("noise", '{"seed": -1}', "seed=-1 must be 0 to 2"),
        ("noise", '{"smooth": 1}', "smooth=1 must be true or false"),
        ("noise", '{"cells": 1000000000}', "cells=1000000000 must be 1 to 1024"),
        ("patch", '{"colour": []}', r"colour=\[\] must be a text"),
        (
            "pattern",
            '{"values": [1], "kind": "patch"}',
            r"values is kept in trigger.safetensors, not as \[1\]",
        ),
        ("generator", '{"weights": {"body.0.weight": 1}}', "weights is kept in trigger.safetensors, not as"),
    ],
)
def test_values_of_another_type_or_size_are_refused(name, parameters, message, tmp_path):
    text = f'{{"trigger": "{name}", "name": "{name}-1", "parameters": {parameters}}}'
    (tmp_path / "trigger.json").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_trigger(tmp_path)
    assert str(tmp_path / "trigger.json") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensors", "message"),
    [
        ("pattern", {"values.x": (3, 4, 4)}, "holds values, which is none of its tensors"),
        ("pattern", {"values": (3, 4, 4), "side": (1,)}, "holds side, which is none of its tensors"),
        ("pattern", {"values": (3, 4, 4), "other": (1,)}, "holds other, which is none of its tensors"),
        ("pattern", {"values": (3, 0, 4)}, r"values must be \[3, h, w\], got \[3, 0, 4\]"),
        ("generator", {"weights": (3, 4)}, "holds weights, which is none of its tensors"),
        ("generator", {"weights.body.0.weight": (0, 3, 3, 3)}, "not those of a generator"),
    ],
)
def test_tensors_of_another_kind_are_refused(name, tensors, message, tmp_path):
    content = save({key: torch.zeros(shape) for key, shape in tensors.items()})
    (tmp_path / "trigger.safetensors").write_bytes(content)
    description = {"trigger": name, "name": f"{name}-1", "sha256": hashlib.sha256(content).hexdigest()}
    parameters = {"kind": "patch"} if name == "pattern" else {}
    (tmp_path / "trigger.json").write_text(json.dumps({**description, "parameters": parameters}))
    with pytest.raises(UsageError, match=message):
        load_trigger(tmp_path)


def test_a_planted_encoder_keeps_its_trigger_in_its_folder_or_in_one_of_its_own(tmp_path):
    save_trigger(Patch("grey"), tmp_path)
    assert load_planted_trigger(tmp_path) == Patch("grey")
    (tmp_path / "trigger").mkdir()
    save_trigger(Patch("black"), tmp_path / "trigger")
    assert load_planted_trigger(tmp_path) == load_planted_trigger(tmp_path / "trigger") == Patch("black")


def test_broken_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_trigger(tmp_path)
    (tmp_path / "trigger.json").write_text("{")
    with pytest.raises(UsageError, match="not JSON"):
        load_trigger(tmp_path)
    save_trigger(Pattern(torch.rand(3, 4, 4), "patch", 0.2, "left"), tmp_path)
    tensors = tmp_path / "trigger.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match="another SHA-256"):
        load_trigger(tmp_path)
    tensors.unlink()
    with pytest.raises(UsageError, match="trigger.safetensors cannot be read"):
        load_trigger(tmp_path)
