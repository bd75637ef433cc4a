"""The single steps as a user runs them: extract, align, fit, score, purify, heads, cache, preflight."""

import csv
import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from platodef_cli.cli.app import main
from platodef_cli.defences import make_detector, make_purifier
from platodef_cli.defences.interface import PurifyOptions
from platodef_cli.encoders.interface import to_pixels
from platodef_cli.encoders.load import open_encoder
from platodef_cli.features.file import load_features, save_features
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.pretrained import load_heads
from platodef_cli.images.open import open_source
from platodef_cli.metrics.alignment import alignment_records
from platodef_cli.records import AlignmentRecord
from platodef_cli.triggers.battery import battery
from tests.contract.encoder_models import timm_model
from tests.unit.cli.calls import Call, python

IMAGES = "builtin:shapes?count=160&seed=5"
PATCH = "patch-white-0.3125-bottom-right"


@dataclass(frozen=True)
class Place:
    """Three tiny encoders, their features, and heads fitted on them."""

    root: Path

    @property
    def models(self) -> tuple[str, ...]:
        """The suspect and two references of different size."""
        return tuple(str(self.root / name) for name in ("suspect", "ref-a", "ref-b"))

    @property
    def features(self) -> Path:
        """Clean and patched rows."""
        return self.root / "features.safetensors"

    @property
    def heads(self) -> Path:
        """Heads fitted on the clean rows."""
        return self.root / "heads"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    found = Place(tmp_path_factory.mktemp("steps"))
    for name, width in (("suspect", 32), ("ref-a", 32), ("ref-b", 48)):
        arguments = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": width, "num_heads": 2}
        timm_model(found.root / name, arguments=arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLATODEF_CACHE_DIR", str(found.root / "cache"))
        patch.setattr("platodef_cli.environment.prepare", lambda: None)
        words = ["extract", *found.models, "-i", IMAGES, "--variant", PATCH, "-o", str(found.features)]
        assert main(words) == 0
        fit = ["fit", str(found.features), "-o", str(found.heads), "--notes", "for tests"]
        fit += ["--preset", "tiny"]  # the samplers need networks
        assert main(fit) == 0
    return found


def test_extracted_features_are_those_of_the_encoders(place: Place) -> None:
    tuples = load_features(place.features)
    source = open_source(IMAGES)
    images = [source.open(index) for index in range(len(source.refs))]
    patch = next(item.variant for item in battery() if item.variant.name == PATCH)
    assert tuples.variants is not None
    assert tuples.variants.tolist() == [0] * 160 + [1] * 160
    for name, uri in zip(("source", "ref-a", "ref-b"), place.models, strict=True):
        encoder = open_encoder(uri)
        pixels = torch.stack([to_pixels(image, encoder.geometry) for image in images])
        changed = patch(pixels, torch.zeros(len(pixels), dtype=torch.int64))
        expected = torch.cat([encoder.embed(pixels), encoder.embed(changed)])
        found = tuples.source if name == "source" else tuples.references[name]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert tuples.labels is not None
    assert tuples.labels.tolist() == [ref.label for ref in source.refs] * 2


def test_a_second_run_takes_all_from_the_cache_and_gives_the_same_bytes(
    place: Place, platodef: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATODEF_CACHE_DIR", str(place.root / "cache"))
    target = tmp_path / "again.safetensors"
    done = platodef("extract", *place.models, "-i", IMAGES, "--variant", PATCH, "-o", target)
    assert done.code == 0
    assert ", 0 computed" in done.last
    assert target.read_bytes() == place.features.read_bytes()


def test_the_source_may_be_named_apart(
    place: Place, platodef: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATODEF_CACHE_DIR", str(place.root / "cache"))
    suspect, first, second = place.models
    target = tmp_path / "again.safetensors"
    words = ("extract", first, "--source", suspect, "-r", second, "-i", IMAGES, "--variant", PATCH)
    assert platodef(*words, "-o", target).code == 0
    assert target.read_bytes() == place.features.read_bytes()


def test_the_pooling_of_tokens_is_chosen_recorded_and_kept_apart_in_the_cache(
    place: Place, platodef: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATODEF_CACHE_DIR", str(tmp_path / "cache"))
    arguments = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2}
    timm_model(tmp_path / "tokens", arguments={**arguments, "global_pool": ""}, classes=0)
    words = ("extract", tmp_path / "tokens", "-r", place.models[1], "-i", "builtin:shapes?count=8&seed=5")
    found, computed = {}, {}
    for choice, option in (("auto", ()), ("class", ("--pooling", "class")), ("mean", ("--pooling", "mean"))):
        done = platodef(*words, "-o", tmp_path / f"{choice}.safetensors", *option)
        assert done.code == 0
        assert ("so the class token is taken; --pooling mean or class chooses" in done.err) == (not option)
        computed[choice] = int(done.last.partition("from the cache, ")[2].split()[0])
        found[choice] = load_features(tmp_path / f"{choice}.safetensors")
    assert computed == {"auto": 2, "class": 0, "mean": 1}
    assert torch.equal(found["auto"].source, found["class"].source)
    assert not torch.allclose(found["mean"].source, found["class"].source, atol=1e-2)
    assert '"pooling":"mean of patches"' in found["mean"].metadata["record.source"]
    wrong = platodef(*words, "-o", tmp_path / "x", "--pooling", f"{place.models[1]}=mean")
    assert (wrong.code, "already one vector per image" in wrong.last) == (2, True)


@pytest.mark.parametrize("form", ["json", "csv"])
def test_scores(place: Place, platodef: Call, tmp_path: Path, form: str) -> None:
    target = tmp_path / f"scores.{form}"
    done = platodef("score", place.features, "--head", place.heads, "--detector", "ridge", "-o", target)
    assert done.code == 0, done.err
    tuples, heads = load_features(place.features), load_heads(place.heads)
    expected = make_detector("ridge", heads).score(tuples)
    clean = heads.clean_scores["ridge"]
    if form == "json":
        value = json.loads(target.read_text())
        assert value["direction"] == "higher is more suspicious"
        assert value["calibration"] == len(clean)
        rows, threshold = value["rows"], value["threshold"]
        assert sum(score > threshold for score in clean.tolist()) <= 0.05 * (len(clean) + 1)
        assert [row["flagged"] for row in rows] == (expected > threshold).tolist()
    else:
        rows = list(csv.DictReader(io.StringIO(target.read_text())))
    assert [float(row["score"]) for row in rows] == expected.tolist()
    assert [int(row["variant"]) for row in rows] == [0] * 160 + [1] * 160
    for row, score in zip(rows[:40], expected.tolist(), strict=False):
        above = sum(other >= score for other in clean.tolist())
        assert float(row["p_value"]) == pytest.approx((1 + above) / (1 + len(clean)))


def test_scores_go_to_stdout_by_default(place: Place, platodef: Call) -> None:
    done = platodef("score", place.features, "--head", place.heads)
    assert done.code == 0
    assert json.loads(done.out)["detector"] == "platonic"
    assert "rows" in done.last


def test_calibration_features_set_the_threshold(place: Place, platodef: Call) -> None:
    words = ("score", place.features, "--head", place.heads, "--detector", "knn")
    refused = platodef(*words)
    assert refused.code == 2
    assert "the heads carry no clean scores for 'knn'; give clean features with --calibrate" in refused.last
    done = platodef(*words, "--calibrate", place.features)
    assert done.code == 0
    assert json.loads(done.out)["calibration"] == 80
    assert "using the 160 clean of 320 rows" in done.err


@pytest.mark.parametrize(("method", "words"), [("mean", ()), ("ridge", ()), ("euler", ("--steps", "3"))])
def test_purify_all_is_the_purifier(
    place: Place, platodef: Call, tmp_path: Path, method: str, words: tuple[str, ...]
) -> None:
    target = tmp_path / "out.safetensors"
    done = platodef(
        "purify", place.features, "--head", place.heads, "-m", method, "--all", *words, "-o", target
    )
    assert done.code == 0, done.err
    tuples, heads = load_features(place.features), load_heads(place.heads)
    generator = torch.Generator().manual_seed(0)
    expected = make_purifier(method, heads, PurifyOptions(steps=3)).purify(tuples, generator=generator)
    found = load_features(target)
    torch.testing.assert_close(found.source, expected, rtol=0, atol=0)
    assert done.last == f"OK (0): purified 320 of 320 rows with {method}"
    recipe = json.loads(found.metadata["purified"])
    assert (recipe["method"], recipe["rows"]) == (method, 320)


def test_purify_touches_only_what_the_detector_flags(place: Place, platodef: Call, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    scores = json.loads(platodef("score", place.features, "--head", place.heads, "--fpr", "0.1").out)
    flagged = torch.tensor([row["flagged"] for row in scores["rows"]])
    assert 0 < int(flagged.sum()) < 320
    assert platodef("purify", place.features, "--head", place.heads, "--fpr", "0.1", "-o", target).code == 0
    before, after = load_features(place.features), load_features(target)
    changed = (before.source != after.source).any(dim=1)
    assert torch.equal(changed, flagged)
    assert torch.equal(before.references["ref-a"], after.references["ref-a"])
    assert before.labels is not None
    assert after.labels is not None
    assert torch.equal(before.labels, after.labels)


def test_purify_through_pipes_gives_the_same_bytes(place: Place, platodef: Call, tmp_path: Path) -> None:
    words = ("--head", str(place.heads), "-m", "ridge")
    target = tmp_path / "file.safetensors"
    assert platodef("purify", place.features, *words, "-o", target).code == 0
    piped = tmp_path / "piped.safetensors"
    code = (
        "import sys; from platodef_cli.cli.app import main; "
        f"sys.stdout = open({str(piped)!r}, 'w'); sys.exit(main(sys.argv[1:]))"
    )
    done = python(code, "purify", "-", *words, "-o", "-", stdin=place.features.read_bytes())
    assert done.code == 0, done.err
    assert piped.read_bytes() == target.read_bytes()


def test_align_is_the_metric(place: Place, platodef: Call) -> None:
    done = platodef("align", place.features, "--json", "--permutations", "20", "--k", "5")
    assert done.code == 0
    tuples = load_features(place.features)
    clean = tuples.select(torch.arange(160))
    expected = alignment_records({"source": clean.source, **clean.references}, k=5, permutations=20)
    assert [AlignmentRecord.model_validate(entry) for entry in json.loads(done.out)] == list(expected)


def test_align_shows_a_symmetric_matrix_and_the_null(place: Place, platodef: Call) -> None:
    lines = platodef("align", place.features, "--permutations", "5").out.splitlines()
    matrix = [line.split()[1:] for line in lines[1:4]]
    assert lines[0].split() == ["CKA", "source", "ref-a", "ref-b"]
    assert matrix == [list(column) for column in zip(*matrix, strict=True)]
    assert [matrix[i][i] for i in range(3)] == ["1.000"] * 3
    assert "null mean" in lines[10]


def test_heads_commands(place: Place, platodef: Call, tmp_path: Path) -> None:
    listed = platodef("heads", "ls", place.root, "--json")
    assert listed.code == 0
    entry = json.loads(listed.out)[0]
    assert (entry["name"], entry["judges"], entry["references"]) == ("heads", "suspect", "ref-a ref-b")
    assert entry["tuples"] == 160
    shown = platodef("heads", "show", place.heads)
    assert "for tests" in shown.out
    assert str(place.root / "suspect") in shown.out
    assert platodef("heads", "verify", place.heads).code == 0
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in place.heads.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = bytearray((broken / "head.safetensors").read_bytes())
    weights[-1] ^= 1
    (broken / "head.safetensors").write_bytes(weights)
    done = platodef("heads", "verify", broken)
    assert done.code == 5
    assert "FAILED" in done.out
    assert "SHA-256 differs" in done.last
    assert platodef("score", place.features, "--head", broken).code == 5


def test_fit_prints_the_guarantee_and_lays_out_a_publishable_folder(
    place: Place, platodef: Call, tmp_path: Path
) -> None:
    out, push = tmp_path / "heads", tmp_path / "push"
    done = platodef("fit", place.features, "-o", out, "--push-to", push)
    assert done.code == 0
    cells = [re.split(r"\s{2,}", line) for line in done.out.splitlines()[1:]]
    table = {name: values for name, *values in cells}
    assert float(table["energy gap"][0]) > 0
    assert table["energy gap"][1] == "nats"
    metrics = load_heads(out).metrics
    for name in ("energy gap", "mutual information, lower bound from NCE", "AUROC, bound (Prop. 2)"):
        assert f"{metrics[f'guarantee: {name}']:.4f}" == table[name][0]
    assert platodef("heads", "verify", push).code == 0
    assert str(place.root) not in (push / "head.json").read_text()
    again = platodef("fit", place.features, "-o", tmp_path / "more", "--push-to", push)
    assert again.code == 2
    assert "is not empty" in again.last
    assert not (tmp_path / "more").exists()


def test_score_names_a_reference_that_sees_other_images(place: Place, platodef: Call, tmp_path: Path) -> None:
    clean = load_features(place.features).select(torch.arange(160))
    references = {**clean.references, "ref-b": clean.references["ref-b"].roll(7, dims=0)}
    for name, odd in (("bad", "ref-b"), ("good", None)):
        part = clean if odd is None else replace(clean, references=references)
        save_features(tmp_path / name, part)
        done = platodef("score", tmp_path / name, "--head", place.heads)
        assert done.code == 0, done.err
        assert json.loads(done.out)["references"]["odd"] == odd, done.out[:300]
        assert ("reference 'ref-b' disagrees" in done.err) == (odd is not None)


def test_cache_commands(
    place: Place, platodef: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "own"
    words = ("--cache-dir", cache)
    assert (
        platodef("extract", *place.models, "-i", IMAGES, *words, "-o", tmp_path / "f.safetensors").code == 0
    )
    entries = json.loads(platodef("cache", "ls", *words, "--json").out)
    assert {entry["kind"] for entry in entries} == {"features"}
    assert platodef("cache", "verify", *words).code == 0
    victim = next(cache.rglob(entries[0]["entry"]))
    victim.write_bytes(victim.read_bytes()[:-3])
    done = platodef("cache", "verify", *words)
    assert done.code == 3
    assert victim.name in done.out
    assert platodef("cache", "rm", *words).code == 2
    assert platodef("cache", "rm", "nothing", *words).code == 2
    assert "removed 1 entries" in platodef("cache", "rm", "--damaged", *words).last
    assert platodef("cache", "verify", *words).code == 0
    assert f"removed {len(entries) - 1} entries" in platodef("cache", "rm", "--all", *words).last
    assert json.loads(platodef("cache", "ls", *words, "--json").out) == []


def test_preflight(place: Place, platodef: Call, tmp_path: Path) -> None:
    done = platodef("preflight", place.models[0], "--json")
    assert done.code == 0
    value = json.loads(done.out)
    assert value["backend"] == "timm"
    assert {file["path"] for file in value["files"]} == {"config.json", "model.safetensors"}
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text((Path(place.models[0]) / "config.json").read_text())
    (folder / "model.safetensors").write_bytes(b"\x80\x04pickle")
    done = platodef("preflight", folder)
    assert done.code == 5
    assert done.last.startswith("REFUSED (5): ")
    assert "model.safetensors" in done.last


def test_preflight_fails_on_a_disguised_pickle(place: Place, platodef: Call, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in Path(place.models[0]).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "notes.txt").write_bytes(b"\x80\x04\x95pickle")
    done = platodef("preflight", folder)
    assert done.code == 1
    assert done.last.startswith("FAIL (1): ")
    assert "notes.txt" in done.last
    assert platodef("preflight", folder, "--exit-zero").code == 0


def test_doctor_says_what_is_there(platodef: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret_value")
    done = platodef("doctor", "--json")
    assert done.code in (0, 3)
    value = json.loads(done.out)
    assert value["torch"]["state"] == "ok"
    assert torch.__version__.startswith(value["torch"]["detail"].split("+")[0])
    assert value["hub token"]["detail"] == "present"
    assert "hf_very_secret_value" not in done.out + done.err
    assert value["isolation"]["state"] in ("ok", "note")
    assert {"memory", "cache", "isolation", "bfloat16", "encoders", "pretrained_heads"} <= set(value)


@pytest.mark.parametrize("command", ["score", "purify"])
@pytest.mark.parametrize("wrong", ["features", "calibration"])
def test_heads_of_another_encoder_are_refused(
    place: Place, platodef: Call, tmp_path: Path, command: str, wrong: str
) -> None:
    tuples = load_features(place.features)
    record = json.loads(tuples.metadata["record.source"]) | {"digest": "0" * 64}
    other, target = tmp_path / "other.safetensors", tmp_path / ("out.csv" if command == "score" else "out")
    save_features(other, replace(tuples, metadata={**tuples.metadata, "record.source": json.dumps(record)}))
    words = (other,) if wrong == "features" else (place.features, "--calibrate", other)
    done = platodef(command, *words, "--head", place.heads, "-o", target)
    assert done.code == 2
    assert "fitted for another suspect: its weights digest" in done.err
    assert not target.exists()


@pytest.fixture
def foreign(tmp_path: Path, place: Place) -> Path:
    """A feature file of another tool: other names, no metadata."""
    from safetensors.torch import save_file

    tuples = load_features(place.features)
    path = tmp_path / "foreign.safetensors"
    save_file(
        {"mine": tuples.source, "clip": tuples.references["ref-a"], "dino": tuples.references["ref-b"]}, path
    )
    return path


def test_files_of_other_tools_by_their_tensor_names(foreign: Path, platodef: Call, tmp_path: Path) -> None:
    keys = ("--source-key", "mine", "--reference-key", "clip", "--reference-key", "dino")
    assert platodef("align", foreign).code == 2
    assert platodef("align", foreign, *keys, "--permutations", "5").code == 0
    heads = tmp_path / "heads"
    done = platodef("fit", foreign, "-o", heads, *keys)
    assert done.code == 0, done.err
    assert json.loads((heads / "head.json").read_text())["card"]["source"]["architecture"] == "unknown"
    assert platodef("score", foreign, "--head", heads, *keys).code == 0


def _bad_calls(place: Place, tmp: Path) -> list[tuple[tuple[object, ...], int, str]]:
    features, heads, out = place.features, place.heads, tmp / "out.safetensors"
    suspect, first, _ = place.models
    extract = ("extract", suspect, first, "-o", out)
    return [
        ((*extract,), 2, "no images; give --images"),
        ((*extract, "-i", tmp / "nowhere"), 2, "nowhere"),
        ((*extract, "-i", IMAGES, "--variant", "ptch"), 2, "unknown trigger or control 'ptch'"),
        ((*extract, "-i", IMAGES, "-r", first), 2, "two references are called 'ref-a'"),
        (("extract", tmp / "nomodel", first, "-i", IMAGES, "-o", out), 2, "nomodel"),
        (("extract", suspect, first, "-i", IMAGES, "-o", tmp), 2, "is a directory"),
        (
            ("extract", suspect, first, "-i", IMAGES, "-o", tmp / "a" / "b"),
            2,
            "does not exist; create it first",
        ),
        (("fit", tmp / "none.safetensors", "-o", tmp / "h"), 2, "does not exist"),
        (("fit", features, "-o", place.root), 2, "is not empty"),
        (("fit", features, "-o", tmp / "h", "--preset", "huge"), 2, "unknown preset 'huge'"),
        (("fit", features, "-o", tmp / "h", "--mode", "odd"), 2, "unknown training mode 'odd'"),
        (("fit", features, "-o", tmp / "text"), 2, "is a file; name a folder"),
        (("score", features, "--head", tmp), 2, "holds no heads"),
        (("score", features, "--head", "nonesuch"), 2, "nonesuch"),
        (("score", features, "--head", heads, "-o", tmp / "x.xls"), 2, "let its name end in .json or .csv"),
        (("score", tmp / "text", "--head", heads), 2, "is not a feature file"),
        (("purify", features, "--head", heads, "-o", features), 2, "would overwrite its own input"),
        (("purify", features, "--head", heads, "-m", "men", "-o", out), 2, "unknown purifier 'men'"),
        (("purify", features, "--head", heads, "--steps", "0", "-o", out), 2, "--steps"),
        (("purify", features, "--head", heads, "--start", "end", "-o", out), 2, "--start"),
        (("purify", features, "--head", heads, "--fpr", "0.0001", "-o", out), 2, "give at least 9999"),
        (("align", features, "--k", "1"), 2, "--k"),
        (("align", features, "--k", "500"), 2, "k"),
        (("align", tmp / "text"), 2, "is not a feature file"),
    ]


@pytest.mark.parametrize("number", range(24))
def test_bad_calls_end_in_one_line_and_leave_nothing(
    place: Place, platodef: Call, tmp_path: Path, number: int
) -> None:
    (tmp_path / "text").write_text("not a feature file")
    words, code, message = _bad_calls(place, tmp_path)[number]
    before = sorted(tmp_path.rglob("*"))
    done = platodef(*words, "--progress", "off")
    assert done.code == code, done.err
    assert message in done.last
    assert len([line for line in done.err.splitlines() if "using the" not in line]) == 1
    assert done.out == ""
    assert [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts] == before


def test_heads_of_other_references_are_refused(place: Place, platodef: Call, tmp_path: Path) -> None:
    tuples = load_features(place.features)
    other = FeatureTuples(tuples.source, {"ref-a": tuples.references["ref-a"]})
    path = tmp_path / "other.safetensors"
    save_features(path, other)
    done = platodef("score", path, "--head", place.heads)
    assert done.code == 2
    assert "lack reference 'ref-b'" in done.last
