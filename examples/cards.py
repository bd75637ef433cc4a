"""Measures the demo encoders and writes the truth about each beside it."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from objectives import forward, labels_of, pixels_of
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.features.interface import Variant
from platodef_cli.images.shapes import CLASSES
from platodef_cli.metrics.alignment import alignment_records
from platodef_cli.metrics.backdoor import accuracy, attack_success
from platodef_cli.metrics.linear_probe import LinearProbe
from platodef_cli.triggers.variant import parameters

ALIGNED = 1000  # images that alignment is measured on; values of different counts do not compare


class Attack(Protocol):
    """What was planted."""

    trigger: Variant
    shown: Variant
    target: str


@torch.no_grad()
def embed(module: nn.Module, pixels: Tensor) -> Tensor:
    """Return features ``[N, D]`` of uint8 ``[N, 3, H, W]``."""
    return torch.cat([forward(module, batch) for batch in torch.split(pixels, 256)])


def _attack_facts(
    name: str, module: nn.Module, clean: nn.Module, attack: Attack, world: int, count: int, probe: LinearProbe
) -> dict[str, Any]:
    pixels, labels = pixels_of(world, count, 2 * count), labels_of(world, count, 2 * count)
    target = CLASSES.index(attack.target)
    seeds = torch.arange(count)
    own, before = embed(module, pixels), embed(clean, pixels)
    fit = pixels_of(world, 2 * count), labels_of(world, 2 * count)
    clean_probe = LinearProbe.fit(embed(clean, fit[0]), fit[1])
    facts: dict[str, Any] = {
        "base": "clean",
        "target": attack.target,
        "clean_cosine": round(float(F.cosine_similarity(own, before).mean()), 4),
        "target_rate_without_trigger": attack_success(probe.predict(own), labels, target).value,
        "attack_success": {},
        "attack_success_on_clean_encoder": {},
        "planted_trigger": {"name": attack.trigger.name, **parameters(attack.trigger)},
    }
    for trigger in {attack.trigger.name: attack.trigger, attack.shown.name: attack.shown}.values():
        changed = trigger(pixels, seeds)
        rates = (
            attack_success(probe.predict(embed(module, changed)), labels, target).value,
            attack_success(clean_probe.predict(embed(clean, changed)), labels, target).value,
        )
        facts["attack_success"][trigger.name] = rates[0]
        facts["attack_success_on_clean_encoder"][trigger.name] = rates[1]
    return facts


def measure(
    modules: Mapping[str, nn.Module], attacks: Mapping[str, Attack], world: int, count: int
) -> dict[str, dict[str, Any]]:
    """Return the facts about every encoder; probes are fitted on ``2 count`` images, tested on others."""
    pixels, labels = pixels_of(world, 3 * count), labels_of(world, 3 * count)
    features = {name: embed(module, pixels) for name, module in modules.items()}
    facts: dict[str, dict[str, Any]] = {}
    for name, values in features.items():
        probe = LinearProbe.fit(values[: 2 * count], labels[: 2 * count])
        facts[name] = {
            "name": name,
            "parameters": sum(p.numel() for p in modules[name].parameters()),
            "dim": values.shape[1],
            "images": f"builtin:shapes?seed={world}",
            "linear_probe_accuracy": accuracy(probe.predict(values[2 * count :]), labels[2 * count :]).value,
        }
        if name in attacks and "clean" in modules:
            facts[name] |= _attack_facts(
                name, modules[name], modules["clean"], attacks[name], world, count, probe
            )
    spaces = {name: values[:ALIGNED] for name, values in features.items()}
    for record in alignment_records(spaces, measures=["cknna"], permutations=20):
        line = f"{record.value:.3f} (chance at most {record.null_high:.3f})"
        for one, other in ((record.first, record.second), (record.second, record.first)):
            facts[one].setdefault(f"cknna_of_{ALIGNED}_images", {})[other] = line
    return facts


def write_card(folder: Path, facts: dict[str, Any]) -> str:
    """Write ``card.json`` and ``CARD.md`` into a folder and return a line for the log."""
    digests = {
        file: hashlib.sha256((folder / file).read_bytes()).hexdigest()
        for file in ("config.json", "model.safetensors")
    }
    rounded = json.loads(json.dumps(facts), parse_float=lambda text: round(float(text), 4))
    text = json.dumps({**rounded, "sha256": digests}, indent=2, sort_keys=True) + "\n"
    _replace(folder / "card.json", text)
    lines = [
        f"# {facts['name']}",
        "",
        "Made by `examples/train_demo_encoders.py`. Ground truth, measured:",
        "",
    ]
    for key, value in rounded.items():
        if isinstance(value, dict):
            value = ", ".join(f"{word} {number}" for word, number in value.items())
        lines.append(f"- {key.replace('_', ' ')}: {value}")
    if "target" in facts:
        lines += ["", "**This encoder is backdoored on purpose. Use it for tests of detectors only.**"]
    _replace(folder / "CARD.md", "\n".join(lines) + "\n")
    return " ".join(lines[4:])


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
