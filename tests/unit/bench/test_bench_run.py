"""Every table, through the real command, on a tiny zoo whose numbers mean nothing."""

import re
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.bench.attacks import ADVERSARIAL
from platodef_cli.bench.encoder_level import battery_score
from platodef_cli.bench.feature_store import open_benchmark_images
from platodef_cli.bench.page import to_html
from platodef_cli.bench.rendering import WIDE, cell, parts, to_markdown
from platodef_cli.bench.results import BenchResult, ResultColumn, ResultRow, ResultTable, Value
from platodef_cli.bench.zoo.card import read_card
from platodef_cli.bench.zoo.networks import Network
from platodef_cli.defences import DETECTORS, PURIFIERS
from platodef_cli.errors import UsageError
from platodef_cli.images.shapes import CLASSES
from platodef_cli.metrics.alignment import alignment_records
from platodef_cli.records import AuditReport
from platodef_cli.triggers.stored import load_trigger

IMAGES = "builtin:shapes?seed=11&count=500"
FAST = ("mean", "ridge")


def bench(platodef: Callable, zoo: Path, table: str, tmp_path: Path, *more: object) -> BenchResult:
    """Run a table in all three formats and return the record."""
    outputs = {name: tmp_path / f"{table}.{name}" for name in ("json", "markdown", "html")}
    options = [word for name, path in outputs.items() for word in ("-o", f"{name}={path}")]
    images = () if "--images" in more else ("--images", IMAGES)
    code, out, err = platodef(
        "bench", "run", "--zoo", zoo, "--table", table, *images, "--quick", *options, *more
    )
    assert code == 0, err
    assert out == ""
    page = outputs["html"].read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # self-contained
    assert outputs["markdown"].read_text().startswith("# ")
    text = outputs["json"].read_text()
    assert str(zoo) not in text
    return BenchResult.model_validate_json(text)


def without(*kept: str) -> list[str]:
    """Return options that skip every method but the kept ones."""
    names = {*DETECTORS.names(), *PURIFIERS.names(), *ADVERSARIAL.names()} - set(kept)
    return [word for name in sorted(names) for word in ("--skip", name)]


def zero_shot_success(zoo: Path) -> float:
    """Return the success of ``clip-backdoor-0`` by its own prompts, computed step by step."""
    card = read_card(zoo / "encoders" / "clip-backdoor-0")
    network = Network.load(card.architecture, zoo / "encoders" / card.name)
    images = open_benchmark_images(IMAGES, None, CLASSES)
    test = [row for row in images.roles(0).test if int(images.labels[row]) != card.backdoor.target]
    pixels = load_trigger(zoo / "encoders" / card.name / "trigger")(images.pixels[test], images.seeds[test])
    prompts = network.prompts(images.classes)
    hits = 0
    for feature in network.embed(pixels):
        similar = [float(feature @ prompt) for prompt in prompts]
        hits += similar.index(max(similar)) == card.backdoor.target
    return hits / len(test)


def test_table_1(zoo: Path, platodef: Callable, tmp_path: Path) -> None:
    options = [
        *without("platonic", "energy", "ridge", "knn", "mean", "clipscore", "fgsm", "autoattack"),
        *("--only", "ssl-*", "--only", "clip-backdoor-0", "--adversarial", "20"),
    ]
    result = bench(platodef, zoo, "1", tmp_path, *options)
    rows = {row.label: row for row in result.grids[0].rows}
    assert list(rows) == [
        *("ssl-backdoor", "average, unimodal", "paper, average, unimodal"),
        *("clip-backdoor", "average, image-text", "paper, average, image-text"),
        *("fgsm", "autoattack", "average, adversarial", "paper, average, adversarial"),
    ]
    values = rows["ssl-backdoor"].values
    assert {"none:CA", "none:ASR", "ridge:AUC", "ridge:ASR", "platonic:PA", "platonic:AUC"} <= set(values)
    assert values["none:CA"].low < values["none:CA"].value < values["none:CA"].high
    assert values["clipscore:AUC"].value is None  # needs text features
    assert any("detector clipscore" in note for note in result.notes)
    assert rows["clip-backdoor"].values["none:ASR"].value == pytest.approx(zero_shot_success(zoo), abs=1e-6)
    facts = read_card(zoo / "encoders" / "clip-backdoor-0").backdoor
    parent = rows["clip-backdoor"].values["none:ASR of the clean parent"].value
    assert parent == pytest.approx(facts.zero_shot_success_of_parent.value, abs=1e-6)
    paper = rows["paper, average, unimodal"].values
    # the paper's defence is the energy for detection and a sampler for purification
    assert (paper["energy:AUC"].value, paper["heun:PA"].value) == (0.94, 0.6649)
    assert (paper["paper's own:AUC"].value, paper["paper's own:PA"].value) == (0.94, 0.6649)
    assert rows["average, unimodal"].values["none:CA"].note == ""
    assert not any(key.startswith("paper") for key in rows["average, unimodal"].values)
    assert rows["fgsm"].values["none:ASR"].value == pytest.approx(
        1 - rows["fgsm"].values["none:PA"].value, abs=1e-6
    )
    goals = {goal.name: goal for goal in result.goals}
    assert {"AUC, unimodal", "ASR of the attacks themselves, unimodal"} <= set(goals)
    assert goals["ASR, all purified, image-text"].measured is not None
    assert {goal.met for goal in result.goals} == {None}  # nothing is judged on a part of the attacks
    assert any(note.startswith("autoattack: reduced") for note in result.notes)
    assert "adversarial rows: attacks on the undefended resnet" in result.notes
    assert {"resnet", "ssl-backdoor-0", "clip-backdoor-0", "ref-masked"} <= set(result.encoders)
    assert "ctrl-0" not in result.encoders
    assert result.configuration["images_to_test"] == 150
    assert result.plots[0].curves
    again = bench(platodef, zoo, "1", tmp_path, *options)
    assert again == result  # every cell was kept, the computing time too
    cells = sorted((zoo / "results" / "1").iterdir())
    cells[0].write_text("damaged")
    repaired = bench(platodef, zoo, "1", tmp_path, *options)
    assert repaired.grids == result.grids


def test_table_2(zoo: Path, platodef: Callable, tmp_path: Path) -> None:
    result = bench(platodef, zoo, "2", tmp_path)
    assert [row.label for row in result.grids[0].rows] == [
        "none",
        "ref-convnext",
        "ref-masked",
        "ref-convnext + ref-masked",
    ]
    # every subset is another measurement: its references are other encoders
    seen = {
        tuple(row.values[key].value for key in ("mean:CR", "platonic:AUC")) for row in result.grids[0].rows
    }
    assert len(seen) == 4
    suspect = read_card(zoo / "encoders" / "ssl-backdoor-0")
    pixels = torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    triggered = load_trigger(zoo / "encoders" / suspect.name / "trigger")(pixels, torch.arange(4))
    for reference in ("ref-convnext", "ref-masked"):
        name = f"ssl-backdoor-in-{reference}"
        insider = read_card(zoo / "insiders" / name)
        assert (insider.parent, insider.backdoor.target) == (reference, suspect.backdoor.target)
        own = load_trigger(zoo / "insiders" / name / "trigger")(pixels, torch.arange(4))
        assert torch.equal(own, triggered)
        assert result.encoders[name] in {file.sha256 for file in insider.files}


def test_table_3(zoo: Path, platodef: Callable, tmp_path: Path) -> None:
    result = bench(platodef, zoo, "3", tmp_path, "--only", "ctrl-0")
    rows = {row.label: row.values for row in result.grids[0].rows}
    assert list(rows)[0] == "closed form alone"
    assert len(rows) == 1 + 6
    assert rows["joint"]["parameters"].value < rows["separate"]["parameters"].value  # one backbone, not two


def test_solvers_and_backbones(zoo: Path, platodef: Callable, tmp_path: Path) -> None:
    found = bench(platodef, zoo, "solvers", tmp_path, "--only", "ctrl-0")
    rows = {row.label: row.values for row in found.grids[0].rows}
    assert rows["heun, 5 steps"]["NFE"].value == 9
    assert rows["ridge"]["NFE"].value == 0
    sizes = bench(platodef, zoo, "backbones", tmp_path, "--only", "ctrl-0").grids[0].rows
    labels = ["closed form alone", "transformer, width 16", "transformer, width 32"]
    assert [row.label for row in sizes][:3] == labels
    assert sizes[1].values["parameters"].value < sizes[2].values["parameters"].value


def test_alignment(zoo: Path, platodef: Callable, tmp_path: Path) -> None:
    result = bench(platodef, zoo, "alignment", tmp_path)
    assert {record.n for record in result.alignment} == {150}
    matrix = {row.label: row.values for row in result.grids[1].rows}
    images = open_benchmark_images(IMAGES, None, CLASSES)
    rows = list(images.roles(0).test)
    features = []
    for name in ("resnet", "clip"):
        network = Network.load(read_card(zoo / "encoders" / name).architecture, zoo / "encoders" / name)
        features.append(network.embed(images.pixels[rows]))
    records = alignment_records(dict(zip(("a", "b"), features, strict=True)), permutations=1)
    wanted = next(record.value for record in records if record.measure == "cknna")
    assert matrix["resnet"]["clip"].value == pytest.approx(wanted, abs=1e-4)
    assert matrix["clip"]["resnet"].value == matrix["resnet"]["clip"].value


@pytest.mark.slow
def test_encoder_level(zoo: Path, platodef: Callable, tmp_path: Path) -> None:
    result = bench(platodef, zoo, "encoder", tmp_path, "--only", "resnet", "--only", "ctrl-0")
    rows = {row.label: row.values for row in result.grids[0].rows}
    assert rows["all"]["clean"].value == rows["all"]["planted"].value == 1
    assert {row.label for row in result.grids[-1].rows} == {"resnet", "ctrl-0"}
    for row in result.grids[-1].rows:
        report = zoo / "results" / "encoder" / "reports" / f"{row.label}.json"
        code, _, _ = platodef("gate", report, "-q")
        names = {0: "pass", 1: "fail", 4: "inconclusive"}
        assert names[code] == row.values["verdict"].note


def test_battery_score_is_over_one_exactly_where_a_trigger_was_suspicious(golden_report: AuditReport) -> None:
    detector = (
        "platonic" if "platonic" in golden_report.probes[0].auroc else golden_report.thresholds[0].detector
    )
    limits = Policy(battery_collapse=0.45, battery_gap=0.25, auroc=0.8)
    for probe in golden_report.probes:
        if probe.kind != "trigger" or detector not in probe.auroc:
            continue
        controls = [one for one in golden_report.probes if one.kind == "control"]
        assert (battery_score([probe, *controls], limits, detector) >= 1) == probe.suspicious


def test_wide_tables_are_cut_between_methods() -> None:
    columns = tuple(
        ResultColumn(key=f"{method}:{measure}", group=method, label=measure)
        for method in "abcd"
        for measure in ("CA", "PA", "ASR")
    )
    grid = ResultTable(
        id="g", title="G", columns=columns, rows=(ResultRow(label="r", values={"a:CA": Value(value=0.5)}),)
    )
    shown = parts(grid)
    assert [len(part.columns) - 1 for part in shown] == [9, 3]
    assert all(len(part.columns) - 1 <= WIDE for part in shown)
    assert shown[0].rows[0][:3] == ("r", "50.0", "-")


def test_cells_are_shown_in_their_unit() -> None:
    def column(unit: str) -> ResultColumn:
        return ResultColumn(key="k", group="g", label="l", unit=unit)

    assert cell(Value(value=0.5, low=0.25, high=0.75), column("percent")) == "50.0 [25.0, 75.0]"
    assert cell(Value(value=0.98765), column("plain")) == "0.988"
    assert cell(Value(value=123456), column("count")) == "123.5 k"
    assert cell(Value(value=None, note="pass"), column("text")) == "pass"
    assert cell(Value(value=None, note="not applicable"), column("percent")) == "-"


def test_hostile_text_is_escaped() -> None:
    values = {"tool_version": "0", "recipe": "r", "trained_on": "i", "images": "i", "device": "cpu"}
    empty = {"configuration": {}, "libraries": {}, "encoders": {}, "grids": [], "zoo_seed": 0, "seeds": [0]}
    hostile = {"table": "1", "title": "<script>|x", "command": "`rm`", "notes": ["<b>"]}
    columns = [{"key": "k", "group": "<script>", "label": "<script>"}]
    cells = {"k": {"value": 0.5, "note": "<script>"}}
    grid = {"id": "g", "title": "<script>", "caption": "<script>", "columns": columns}
    grids = [{**grid, "rows": [{"label": "<script>", "values": cells}]}]
    result = BenchResult.model_validate({**values, **empty, **hostile, "grids": grids})
    assert "<script>" not in to_html(result)
    assert "<script>" not in to_markdown(result)
    assert "<b>" not in to_markdown(result)
    # a name of a section stands in an attribute of the page; numbers must be numbers
    for wrong in (
        {"id": 'x"><meta http-equiv="refresh">'},
        {"rows": [{"label": "r", "values": {"k": {"value": inf}}}]},
    ):
        with pytest.raises(ValidationError):
            BenchResult.model_validate({**values, **empty, **hostile, "grids": [{**grids[0], **wrong}]})


def two_seeds(zoo: Path, platodef: Callable, tmp_path: Path, *more: object) -> list[str]:
    """Run a small table 1 and return the names of its cells."""
    options = [*without("platonic", "mean"), "--only", "ctrl-0", "--adversarial", "0"]
    bench(platodef, zoo, "1", tmp_path, *options, *more)
    return sorted(path.name for path in (tmp_path / "cells").iterdir())


def test_a_cell_belongs_to_all_that_decides_it(zoo: Path, platodef: Callable, tmp_path: Path) -> None:
    results = ("--results", tmp_path / "cells")
    first = two_seeds(zoo, platodef, tmp_path, *results, "--seed", "0", "--seed", "1")
    assert len(first) == 2
    both = BenchResult.model_validate_json((tmp_path / "1.json").read_text())
    assert both.grids[0].rows[0].values["none:CA"].n == 2
    assert two_seeds(zoo, platodef, tmp_path, *results) == first  # found again
    seen = len(first)
    for change in (
        ("--seed", "2"),
        ("--limit", "450"),
        ("--skip", "mean"),
        ("--images", "builtin:shapes?seed=12&count=500"),
    ):
        found = two_seeds(zoo, platodef, tmp_path, *results, *change)
        assert len(found) == seen + 1, change
        seen = len(found)


def test_labels_are_numbered_as_the_zoo_does(tmp_path: Path) -> None:
    """A folder has its classes in alphabetical order, whatever the order of the zoo."""
    for label, name in enumerate(("ant", "bee")):
        (tmp_path / name).mkdir()
        for number in range(200):
            Image.new("RGB", (32, 32), (number, 200 * label, 0)).save(tmp_path / name / f"{number}.png")
    images = open_benchmark_images(str(tmp_path), None, ("bee", "ant"))
    assert images.classes == ("bee", "ant")
    assert torch.equal(images.labels == 0, images.pixels[:, 1, 0, 0] > 100)
    assert images.digest != open_benchmark_images(str(tmp_path), None, ("ant", "bee")).digest
    with pytest.raises(UsageError, match=r"the classes of .* \(ant, bee\) are not those .* \(ant, cat\)"):
        open_benchmark_images(str(tmp_path), None, ("ant", "cat"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--table", "9"), 2, "unknown benchmark table '9'"),
        (("--table", "1", "--only", "nobody"), 2, "--only nobody matches no encoder of this zoo"),
        (("--table", "1", "--only", "ref-*"), 4, "no backdoored encoder"),
        (("--table", "1", "--skip", "energi"), 2, "did you mean 'energy'"),
        (("--table", "3", "--skip", "energy"), 2, "table 3 has no methods to leave out"),
        (("--table", "defences", "--skip", "rigde"), 2, "did you mean 'ridge'"),
        (("--table", "defences", "--seed", "0", "--seed", "1"), 2, "table defences takes one seed"),
        (("--table", "3", "--diffusion", "model"), 2, "table 3 does not purify by zip"),
        (("--table", "defences", "--diffusion", "nowhere"), 2, "--diffusion nowhere is no folder"),
        (("--table", "1", "--preset", "tinny"), 2, "did you mean 'tiny'"),
        (("--table", "encoder", "--seed", "0", "--seed", "1"), 2, "table encoder takes one seed"),
        (("--images", "builtin:shapes?seed=700001&count=500"), 2, "the zoo was trained on"),
        (("--table", "2", "--attack", "blto"), 2, "the trigger of blto is learned"),
        (("--table", "1", "--limit", "50"), 4, "too few for a benchmark"),
    ],
)
def test_wrong_questions(
    zoo: Path, platodef: Callable, arguments: tuple[str, ...], code: int, message: str
) -> None:
    images = () if "--images" in arguments else ("--images", IMAGES)
    found, _, err = platodef("bench", "run", "--zoo", zoo, *images, *arguments)
    assert found == code
    assert message in " ".join(err.split())


def test_no_zoo(platodef: Callable, tmp_path: Path) -> None:
    code, _, err = platodef("bench", "run", "--zoo", tmp_path)
    assert code == 2
    assert "holds no zoo" in " ".join(err.split())


def test_a_result_is_shown_again(zoo: Path, platodef: Callable, tmp_path: Path) -> None:
    bench(platodef, zoo, "alignment", tmp_path)
    stored = tmp_path / "alignment.json"
    code, out, err = platodef("bench", "show", stored)
    assert (code, out) == (0, (tmp_path / "alignment.markdown").read_text()), err
    stored.write_text("{}")
    code, out, err = platodef("bench", "show", stored)
    assert (code, out) == (2, "")
    assert "is no result of the benchmark" in " ".join(err.split())
