"""Figure 3 on a tiny zoo: every set of references, through the real command."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from platodef_cli.bench.attacks.interface import PlantingBudget
from platodef_cli.bench.figure3 import SENTENCES, without_names
from platodef_cli.bench.rendering import to_markdown
from platodef_cli.bench.results import BenchResult
from platodef_cli.bench.zoo.card import read_card
from platodef_cli.bench.zoo.dataset import open_zoo_dataset
from platodef_cli.bench.zoo.entries import Scratch
from platodef_cli.bench.zoo.networks import Network
from platodef_cli.bench.zoo.objectives import Batch, ImageCaption
from platodef_cli.bench.zoo.recipe import RECIPES
from platodef_cli.errors import UsageError
from platodef_cli.images.columns import Columns
from platodef_cli.images.open import open_source
from platodef_cli.images.shape_sentences import GREYS, HUES, SIZES, TEXTURES, sentences
from platodef_cli.images.shapes import CLASSES, scenes
from platodef_cli.texts.sentences import Sentences

IMAGES = "builtin:shapes?seed=11&count=500"
EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of Figure 3 with next to no training."""
    from platodef_cli.cli.app import main

    whole = RECIPES["image-text"]
    budget = PlantingBudget(images=64, epochs=1, trigger_steps=1, batch_size=32)
    scratch = tuple(replace(one, steps=2) if isinstance(one, Scratch) else one for one in whole.scratch)
    tiny = replace(
        whole, train=256, held=120, scratch=scratch, text_variants=1, budget=budget, text_budget=budget
    )
    folder = tmp_path_factory.mktemp("figure3") / "zoo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "image-text", tiny)  # type: ignore[arg-type]
        options = ("--recipe", "image-text", "-o", str(folder), "--jobs", "1", "-q")
        assert main(["bench", "zoo", "build", *options]) == 0
    return folder


def figure(platodef: Callable, zoo: Path, tmp_path: Path, *more: object) -> BenchResult:
    stored = tmp_path / "figure.json"
    options = ("--table", "figure3", "--preset", "closed", "--quick", "-o", f"json={stored}")
    images = () if "--images" in more else ("--images", IMAGES)
    code, _, err = platodef("bench", "run", "--zoo", zoo, *options, *images, *more)
    assert code == 0, err
    assert str(zoo) not in stored.read_text()
    return BenchResult.model_validate_json(stored.read_text())


def test_every_set_of_references_is_measured(zoo: Path, platodef: Callable, tmp_path: Path) -> None:
    result = figure(platodef, zoo, tmp_path, "--seed", "0", "--seed", "1")
    assert {grid.title for grid in result.grids} == {"bad-clip", "clip-backdoor"}
    for grid in result.grids:
        labels = [row.label for row in grid.rows]
        towers = ("of the clean parent", "text-captions")
        assert labels == [
            "visual",
            *(
                f"{before}{said}, text tower {tower}"
                for tower in towers
                for before in ("", "visual + ")
                for said in SENTENCES
            ),
        ]
        rows = {row.label: row.values for row in grid.rows}
        # whatever judges, the undefended encoder is the same
        assert len({row["none:ASR"].value for row in rows.values()}) == 1
        # other references, other numbers; these encoders are next to untrained, and rates are coarse
        seen = {
            tuple(row[key].value for key in ("mean:CR", "platonic:AUC", "robust:AUC"))
            for row in rows.values()
        }
        assert len(seen) == len(labels)
        assert {row["platonic:AUC"].n for row in rows.values()} == {2}
        assert "reference-vit, reference-cnx" in grid.caption
    assert {"text-captions", "clip-resnet", "reference-vit"} <= set(result.encoders)
    assert "text-captions" not in result.grids[0].caption.partition("Visual references")[2]
    assert any(note.startswith("captions: the images' column 'caption'") for note in result.notes)
    assert "under a trigger the sentence of the clean image stays" in result.notes
    assert figure(platodef, zoo, tmp_path, "--seed", "0", "--seed", "1") == result  # every cell was kept


def test_a_sentence_does_not_see_the_trigger(zoo: Path, platodef: Callable, tmp_path: Path) -> None:
    """With text alone, what is purified is the same for a clean and a triggered image."""
    result = figure(platodef, zoo, tmp_path)
    for grid in result.grids:
        for row in grid.rows:
            if not row.label.startswith("visual"):
                assert row.values["mean:PA"].value == row.values["mean:CA"].value, row.label


def test_images_without_captions_have_templates_only(zoo: Path, platodef: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    source = open_source(IMAGES)
    for place, ref in enumerate(source.refs):
        path = folder / CLASSES[ref.label] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        source.open(place).save(path)
    result = figure(platodef, zoo, tmp_path, "--images", folder, "--only", "clip-backdoor-*")
    (grid,) = result.grids
    assert len(grid.rows) == 5
    assert "the images have no captions, so that only templates are read" in result.notes


def test_nothing_to_defend(zoo: Path, platodef: Callable) -> None:
    code, _, err = platodef(
        "bench", "run", "--zoo", zoo, "--table", "figure3", "--images", IMAGES, "--only", "clip-tint"
    )
    assert code == 4
    assert "no finished image-text encoder with a backdoor" in " ".join(err.split())


def test_names_of_classes_are_left_out() -> None:
    said = Sentences([("a red Fire  truck, left", "a barn"), ("two bars and a bar.",)], "somebody")
    found = without_names(said, ("bar", "fire_truck", "truck"))
    assert found.rows == [
        ("a red Fire  truck, left".replace("truck", "object"), "a barn"),
        ("two bars and a object.",),
    ]
    assert without_names(Sentences([("a fire truck",)], ""), ("truck", "fire_truck")).rows == [("a object",)]


def test_sentences_say_what_is_drawn() -> None:
    scene = scenes(5, np.arange(300))
    said = sentences(scene)
    assert said == sentences(scenes(5, np.arange(300)))
    for place, text in enumerate(said):
        assert f" {CLASSES[scene.label[place]]}, " in text
        assert ("left" in text) == (scene.centre[place, 0] < -0.15)
        assert ("bottom" in text) == (scene.centre[place, 1] > 0.15)
        assert ("small" in text) == (scene.radius[place] < 0.5 + 0.25 / 3)
        red, green, blue = scene.colour[place]
        if " red " in text:
            assert red > max(green, blue)
    assert {word for text in said for word in text.split()} >= {*HUES, "striped", "speckled", "grey"}


def test_shapes_have_captions_where_they_are_asked_for() -> None:
    uri = "builtin:shapes?seed=5&count=2000"
    plain, described = open_source(uri), open_source(uri, columns=Columns(captions=True), limit=9)
    wanted = sentences(scenes(5, [int(ref.id.removeprefix("shape-")) for ref in described.refs]))
    assert [ref.captions for ref in described.refs] == [(text,) for text in wanted]
    assert plain.refs[3].captions == ()
    digests = {ref.id: ref.digest for ref in plain.refs}
    assert all(digests[ref.id] == ref.digest for ref in described.refs)  # features are the same
    with pytest.raises(UsageError, match="no column 'title'; its columns are caption"):
        open_source(uri, columns=Columns(captions=True, caption="title"))


def test_a_tower_learns_to_tell_sentences_apart() -> None:
    """After few steps on few images the sentence of an image is nearer to it than another one's."""
    dataset = open_zoo_dataset("builtin:shapes", train=16, held=8, seed=0)
    wanted = sentences(scenes(700_001, np.arange(16)))
    assert [dataset.captions[row] for row in dataset.said.tolist()] == wanted
    torch.manual_seed(0)
    network = Network("clip-resnet-captions")
    objective = ImageCaption(network, dataset, 0.0)
    generator, batch = torch.Generator().manual_seed(0), Batch.of(dataset, torch.arange(16))
    optimiser = torch.optim.AdamW([*network.module.parameters(), *objective.parameters()], lr=2e-3)
    network.module.train()
    losses = []
    for _ in range(30):
        loss = objective(batch, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    words = list(product(SIZES, (*HUES, *GREYS), TEXTURES, CLASSES, ("top left", "bottom right", "centre")))
    numbers = network.tokens([f"a {size} {hue} {kind} {name}, {at}" for size, hue, kind, name, at in words])
    assert numbers.shape[1] == 16
    assert len(torch.unique(numbers[:, :15], dim=0)) == len(words)  # no sentence is cut
    assert set(numbers[:, 15].tolist()) <= {0, int(numbers.max())}


def test_captions_are_needed_for_a_tower_that_reads_them(tmp_path: Path) -> None:
    dataset = open_zoo_dataset("builtin:shapes", train=16, held=8, seed=0)
    with pytest.raises(UsageError, match="trained on a sentence per image"):
        ImageCaption(Network("clip-resnet-captions"), replace(dataset, captions=()), 0.0)


def test_the_card_of_the_reading_tower(zoo: Path) -> None:
    card = read_card(zoo / "encoders" / "text-captions")
    assert (card.role, card.architecture) == ("reference", "clip-resnet-captions")
    assert card.zero_shot is not None


def test_the_page_shows_the_stored_result() -> None:
    """The tables of examples/TEXT.md are those that the command wrote."""
    page = (EXAMPLES / "TEXT.md").read_text()
    result = BenchResult.model_validate_json((EXAMPLES / "figure3.json").read_text())
    shown = page.partition("<!-- figure3.json -->\n")[2].partition("\n<!-- end -->")[0]
    wanted = to_markdown(result)
    tables = [line for line in shown.splitlines() if line.startswith("|")]
    assert tables == [line for line in wanted.splitlines() if line.startswith("|")]
    assert len(tables) == sum(2 + len(grid.rows) for grid in result.grids)
    for seed in result.seeds:
        assert f"--seed {seed}" in page
    assert f'--images "{result.images.partition("&size")[0]}"' in page
