"""Planted attacks and adversarial attacks of the benchmark."""

from typing import TYPE_CHECKING

from platodef_cli.registry import Registry

if TYPE_CHECKING:
    from platodef_cli.bench.attacks.adversarial import AdversarialAttack
    from platodef_cli.bench.attacks.interface import PlantedAttack

PLANTED = Registry(
    "planted attack",
    {
        "ssl-backdoor": "platodef_cli.bench.attacks.common_objective:SslBackdoor",
        "corrupt-encoder": "platodef_cli.bench.attacks.composites:CorruptEncoder",
        "ctrl": "platodef_cli.bench.attacks.common_objective:CtrlAttack",
        "blto": "platodef_cli.bench.attacks.blto:Blto",
        "noisy-alignment": "platodef_cli.bench.attacks.composites:NoisyAlignment",
        "bad-encoder": "platodef_cli.bench.attacks.bad_encoder:BadEncoder",
        "drupe": "platodef_cli.bench.attacks.drupe:Drupe",
        "clip-backdoor": "platodef_cli.bench.attacks.clip_backdoor:ClipBackdoor",
        "bad-clip": "platodef_cli.bench.attacks.clip_backdoor:BadClip",
        "composite": "platodef_cli.bench.attacks.composite:Composite",
    },
)

ADVERSARIAL = Registry(
    "adversarial attack",
    {
        "fgsm": "platodef_cli.bench.attacks.adversarial:Fgsm",
        "pgd": "platodef_cli.bench.attacks.adversarial:Pgd",
        "mi-fgsm": "platodef_cli.bench.attacks.adversarial:MiFgsm",
        "cw": "platodef_cli.bench.attacks.carlini_wagner:CarliniWagner",
        "autoattack": "platodef_cli.bench.attacks.auto_attack:AutoAttack",
    },
)


def make_attack(name: str, **parameters: float | int | str) -> "PlantedAttack":
    """Return the planted attack called ``name``, with other parameters than the paper's where given.

    Raises:
        UnknownNameError: There is no such attack; the message lists the choices.
        TypeError: The attack has no such parameter.
    """
    attack: PlantedAttack = PLANTED.load(name)(**parameters)
    return attack


def make_adversarial(name: str, **parameters: float | int | bool) -> "AdversarialAttack":
    """Return the adversarial attack called ``name``, with other parameters where given.

    Raises:
        UnknownNameError: There is no such attack; the message lists the choices.
        TypeError: The attack has no such parameter.
    """
    attack: AdversarialAttack = ADVERSARIAL.load(name)(**parameters)
    return attack
