import pytest

from platodef_cli.bench import OBJECTIVES
from platodef_cli.bench.calibrate import part_of
from platodef_cli.bench.zoo.entries import Embedded, Lineage, Plant, Scratch
from platodef_cli.bench.zoo.lineages import CHANGES
from platodef_cli.bench.zoo.networks import ARCHITECTURES
from platodef_cli.bench.zoo.recipe import RECIPES, expand, known_attacks, recipe
from platodef_cli.errors import UnknownNameError

NINE = {
    **dict.fromkeys(
        ("ssl-backdoor", "corrupt-encoder", "ctrl", "blto", "noisy-alignment", "bad-encoder", "drupe"),
        "unimodal",
    ),
    **dict.fromkeys(("clip-backdoor", "bad-clip"), "image-text"),
}
_OF_SHAPES = {"image-caption", "captioning"}  # need sentences about single images, which other sources lack


@pytest.mark.parametrize("name", RECIPES)
def test_parents_come_first_and_names_are_unique(name: str) -> None:
    entries = expand(RECIPES[name], NINE, 10)
    seen: set[str] = set()
    for entry in entries:
        assert entry.name not in seen
        if not isinstance(entry, Scratch | Embedded):
            assert entry.parent in seen
        seen.add(entry.name)


def test_standard_has_what_was_asked_for() -> None:
    chosen = RECIPES["standard"]
    entries = expand(chosen, NINE, 10)
    clean = [entry for entry in entries if not isinstance(entry, Plant)]
    assert len(entries) >= 60
    assert len(clean) >= 20
    assert sum(isinstance(entry, Scratch) for entry in clean) >= 6
    suspects = {entry.name: entry.architecture for entry in chosen.scratch if entry.role == "suspect"}
    planted = {suspects[entry.parent] for entry in entries if isinstance(entry, Plant)}
    assert len(planted) >= 3
    for attack in NINE:
        own = [entry for entry in entries if isinstance(entry, Plant) and entry.attack == attack]
        assert len({entry.seed for entry in own}) == len(own) >= 3
        assert len({entry.target for entry in own}) >= 3


def test_calibration_has_enough_lineages_of_every_kind() -> None:
    chosen = RECIPES["calibration"]
    lineages = [entry for entry in chosen.scratch if isinstance(entry, Lineage)]
    assert len(lineages) >= 99  # p-values down to 0.01
    assert sum(part_of(entry.name) == "testing" for entry in lineages) >= 60
    assert {entry.objective for entry in lineages} == set(OBJECTIVES.names()) - _OF_SHAPES
    assert {entry.change for entry in lineages} == set(CHANGES)
    assert {ARCHITECTURES[entry.architecture].family for entry in lineages} == {
        "resnet", "densenet", "convnext", "vit",
    }  # fmt: skip
    assert any(entry.erasing for entry in lineages)
    assert any(entry.images for entry in lineages)
    assert {entry.kind for entry in chosen.derivatives} >= {"fine-tuned", "pruned", "quantised", "low-rank"}


def test_calibration_plants_every_attack_on_lineages_for_setting_and_for_testing() -> None:
    chosen = RECIPES["calibration"]
    assert {entry.attack for entry in chosen.planted} >= set(NINE)
    parts: dict[str, set[str]] = {}
    for entry in chosen.planted:
        if NINE.get(entry.attack) != "image-text":
            family = entry.name.removeprefix(entry.parent)
            parts.setdefault(family, set()).add(part_of(entry.parent))
    assert set(map(frozenset, parts.values())) == {frozenset(("setting", "testing"))}
    strengths = {entry.attack for entry in chosen.planted if getattr(entry, "parameters", ())}
    assert len(strengths) >= 4


def test_small_has_every_attack_once_and_every_derivative() -> None:
    entries = expand(RECIPES["small"], NINE, 12)
    assert sorted(entry.attack for entry in entries if isinstance(entry, Plant)) == sorted(NINE)
    kinds = {entry.kind for entry in RECIPES["small"].derivatives}
    assert kinds == {"fine-tuned", "distilled", "pruned", "quantised", "patch-augmented"}


def test_a_new_attack_changes_no_other_encoder() -> None:
    before = expand(RECIPES["standard"], NINE, 10)
    after = expand(RECIPES["standard"], {"a-new-one": "unimodal", **NINE}, 10)
    assert set(before) < set(after)


def test_the_table_of_attacks_is_known() -> None:
    assert known_attacks().keys() >= NINE.keys()
    assert {name: kind for name, kind in known_attacks().items() if name in NINE} == NINE


def test_unknown_recipe_lists_the_public_ones() -> None:
    with pytest.raises(UnknownNameError, match="small, standard"):
        recipe("large")


@pytest.mark.parametrize("name", ["small", "standard"])
def test_image_text_attacks_get_their_own_parents_and_budget(name: str) -> None:
    chosen = RECIPES[name]
    architectures = {entry.name: getattr(entry, "architecture", "resnet") for entry in chosen.scratch}
    for entry in expand(chosen, NINE, 12):
        if isinstance(entry, Plant):
            text = NINE[entry.attack] == "image-text"
            assert architectures[entry.parent].startswith("clip") == text
            assert entry.budget == (chosen.text_budget if text else chosen.budget)
