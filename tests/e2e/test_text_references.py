"""Text references as a user gives them: captions, extract, fit, score, purify, align, audit."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from platodef_cli import read_report
from platodef_cli.features.file import load_features
from platodef_cli.features.stream import FeatureStream
from platodef_cli.images.open import open_source
from tests.contract.encoder_models import timm_model
from tests.contract.text_models import TOWERS, blip, made, qwen3_vl
from tests.unit.cli.calls import Call

IMAGES = "builtin:shapes?count=160&seed=5"
PATCH = "patch-white-0.3125-bottom-right"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("suspect", "picture"):
        arguments = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2}
        timm_model(root / name, arguments=arguments)
    for name, make in {**TOWERS, "blip": blip, "qwen": qwen3_vl}.items():
        made(make, root / name)
    return root


def test_the_steps_take_text_references(models: Path, platodef: Call, tmp_path: Path) -> None:
    features, head = tmp_path / "features.safetensors", tmp_path / "head"
    words = ("extract", models / "suspect", "-r", f"text:{models / 'clip'}", "-r", models / "picture")
    words = (*words, "--captions", "templates")
    done = platodef(*words, "-i", IMAGES, "--variant", PATCH, "-o", features)
    assert done.code == 0, done.err
    assert "clip-text: the sentences are the class names in the templates 'clip-80'" in done.err
    tuples = load_features(features)
    assert list(tuples.references) == ["clip-text", "picture"]
    text = tuples.references["clip-text"]
    # the sentence of the clean image stays, and images of a class have one sentence
    assert torch.equal(text[:160], text[160:])
    assert tuples.labels is not None
    assert len(text.unique(dim=0)) == len(tuples.labels.unique())
    again = platodef(*words, "-i", IMAGES, "--variant", PATCH, "-o", tmp_path / "again.safetensors")
    assert ", 0 computed" in again.last
    assert (tmp_path / "again.safetensors").read_bytes() == features.read_bytes()
    assert platodef("fit", features, "-o", head).code == 0
    assert platodef("score", features, "--head", head, "-o", tmp_path / "s.csv").code == 0
    assert platodef("purify", features, "--head", head, "-o", tmp_path / "p.safetensors").code == 0
    aligned = platodef("align", features)
    assert aligned.code == 0
    assert "source - clip-text" in aligned.out


def test_shapes_come_with_captions(models: Path, platodef: Call, tmp_path: Path) -> None:
    target = tmp_path / "features.safetensors"
    words = ("extract", models / "suspect", "-r", f"text:{models / 'clip'}", "-i", IMAGES, "-o", target)
    done = platodef(*words, "--captions", "column")
    assert done.code == 0, done.err
    assert "the sentences are the images' column 'caption'" in done.err
    stored = target.read_bytes()
    assert len(load_features(target).references["clip-text"].unique(dim=0)) > 12
    assert platodef(*words).code == 0  # where there is a column, it is the default
    assert target.read_bytes() == stored
    other = platodef(*words, "--caption-column", "title")
    assert (other.code, "has no column 'title'; its columns are caption" in other.last) == (2, True)


def test_shards_have_text_references(models: Path, platodef: Call, tmp_path: Path) -> None:
    """Blocks of rows and files: the features are those of one file, resumed by what the sentences are."""
    whole, folder = tmp_path / "whole.safetensors", tmp_path / "shards"
    words = ("extract", models / "suspect", "-r", models / "picture", "-r", f"text:{models / 'clip'}")
    common = (*words, "-i", IMAGES, "--variant", PATCH)
    assert platodef(*common, "-o", whole).code == 0
    blocks = (*common, "--shard-rows", "60", "-o", f"{folder}/")
    done = platodef(*blocks)
    assert done.code == 0, done.err
    assert "320 rows in 3 shards" in done.last
    assert "trusted like a reference" in done.err
    wanted, parts = load_features(whole), list(FeatureStream(folder).blocks())
    assert [list(part.references) for part in parts] == [["picture", "clip-text"]] * 3
    for name in wanted.references:
        clean = torch.cat([part.references[name][: len(part) // 2] for part in parts])
        torch.testing.assert_close(clean, wanted.references[name][:160], msg=name)
    text = parts[0].references["clip-text"]
    assert torch.equal(text[:60], text[60:])  # the sentence of the clean image stays
    assert "3 of them from an earlier run" in platodef(*blocks).last
    assert "0 of them from an earlier run" in platodef(*blocks, "--captions", "templates").last
    fewer = FeatureStream(folder).blocks()
    assert all(len(part.references["clip-text"].unique(dim=0)) <= 12 for part in fewer)
    head = tmp_path / "head"
    assert platodef("fit", folder, "--sample", "200", "-o", head).code == 0
    scored = platodef("score", folder, "--head", head, "-o", tmp_path / "s.json")
    assert scored.code == 0, scored.err
    assert len(json.loads((tmp_path / "s.json").read_text())["rows"]) == 320
    purified = platodef("purify", folder, "--head", head, "-o", f"{tmp_path / 'purified'}/")
    assert purified.code == 0, purified.err
    assert sum(len(part) for part in FeatureStream(tmp_path / "purified").blocks()) == 320


def test_files_of_images_have_captions_of_their_own(models: Path, platodef: Call, tmp_path: Path) -> None:
    source = open_source(IMAGES)
    (tmp_path / "images").mkdir()

    def write(number: int, said: list[str | None]) -> None:
        pictures = []
        for place in range(4 * number, 4 * number + 4):
            stream = io.BytesIO()
            source.open(place).save(stream, "PNG")
            pictures.append(stream.getvalue())
        table = pa.table({"image": pictures, "caption": pa.array(said, pa.string())})
        pq.write_table(table, tmp_path / "images" / f"{number}.parquet")

    write(0, ["a star", "a ring", "a star", "a bar"])
    write(1, ["a bar", "a star", "a bar", "a ring"])
    folder = tmp_path / "features"
    words = ("extract", models / "suspect", "-r", f"text:{models / 'clip'}", "-i", tmp_path / "images")
    words = (*words, "-o", f"{folder}/")
    unsaid = platodef(*words)
    assert (unsaid.code, "say where the sentences of all of them come from" in unsaid.last) == (2, True)
    asked = platodef(*words, "--captioner", "org/name")
    assert (asked.code, "write them with `platodef caption" in asked.last) == (2, True)
    assert not folder.exists()
    done = platodef(*words, "--captions", "column")
    assert done.code == 0, done.err
    first, second = (part.references["clip-text"] for part in FeatureStream(folder).blocks())
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[[3, 0, 3, 1]], second)
    assert not torch.equal(first[0], first[1])
    write(1, ["a bar", None, "a bar", "a ring"])
    lacking = platodef(*words, "--captions", "column")
    assert lacking.code == 2
    assert "1.parquet/row-000001' has no caption in column 'caption'" in lacking.last
    # another sentence of the same pixels is another shard
    write(1, ["a bar", "a ring", "a bar", "a ring"])
    again = platodef(*words, "--captions", "column")
    assert "2 shards" in again.last
    assert "1 of them from an earlier run" in again.last


def test_captions_that_a_model_made(models: Path, platodef: Call, tmp_path: Path) -> None:
    captions = tmp_path / "captions.parquet"
    words = ("caption", IMAGES, "--captioner", models / "blip", "--limit", "20")
    done = platodef(*words, "-o", captions)
    assert done.code == 0, done.err
    assert "0 were known, 20 are new" in done.last
    table = pq.read_table(captions)
    assert table.column_names == ["id", "sha256", "caption"]
    assert b"BlipForConditionalGeneration" in table.schema.metadata[b"platodef.captioner"]
    shown = platodef(*words, "--json")
    assert "20 were known, 0 are new" in shown.last
    assert list(json.loads(shown.out)["captions"].values()) == table["caption"].to_pylist()
    target = tmp_path / "features.safetensors"
    text = f"text:{models / 'siglip2'}"
    extract = ("extract", models / "suspect", "-r", text, "-i", IMAGES, "--limit", "20", "-o", target)
    assert platodef(*extract, "--captions", captions).code == 0
    from_file = target.read_bytes()
    assert platodef(*extract, "--captioner", models / "blip").code == 0
    assert load_features(target).references["siglip2-text"].shape == (20, 32)
    by_model = load_features(target).references
    target.write_bytes(from_file)
    assert torch.equal(by_model["siglip2-text"], load_features(target).references["siglip2-text"])
    fewer = platodef("extract", models / "suspect", "-r", text, "-i", IMAGES, "--captions", captions)
    assert fewer.code == 2
    assert "has no caption of image" in fewer.last


def test_captions_of_changed_images_are_made_again_on_demand(
    models: Path, platodef: Call, tmp_path: Path
) -> None:
    target = tmp_path / "features.safetensors"
    text = f"text:{models / 'clip'}"
    words = ("extract", models / "suspect", "-r", text, "-i", IMAGES, "--limit", "8", "-o", target)
    words = (*words, "--variant", PATCH, "--captioner", models / "qwen")
    assert platodef(*words).code == 0
    stays = load_features(target).references["clip-text"]
    assert torch.equal(stays[:8], stays[8:])
    done = platodef(*words, "--recaption")
    assert done.code == 0, done.err
    assert "made again from the changed ones" in done.err
    seen = load_features(target).references["clip-text"]
    assert torch.equal(seen[:8], stays[:8])
    # the tiny captioner sees the patch
    assert not torch.equal(seen[8:], stays[8:])


def test_what_cannot_work_is_said_first(models: Path, platodef: Call, tmp_path: Path) -> None:
    text = f"text:{models / 'clip'}"
    only = platodef("audit", "builtin:clean", "-r", text)
    assert (only.code, "add a visual reference" in only.last) == (2, True)
    suspect = platodef("audit", text, "-i", IMAGES)
    assert (suspect.code, "not a suspect" in suspect.last) == (2, True)
    lonely = platodef("audit", "builtin:clean", "--recaption")
    assert (lonely.code, "--captioner" in lonely.last) == (2, True)
    nothing = platodef("caption", IMAGES, "--captioner", models / "clip")
    assert (nothing.code, "no image-text-to-text model" in nothing.last) == (2, True)
    odd = platodef("caption", IMAGES, "--captioner", models / "blip", "-o", tmp_path / "x.csv")
    assert (odd.code, ".parquet" in odd.last) == (2, True)
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.slow
def test_an_audit_mixes_visual_and_text_references(models: Path, platodef: Call, tmp_path: Path) -> None:
    words = ("audit", "builtin:backdoored", "-r", "builtin:reference-vit", "-r", "builtin:reference-cnx")
    text = ("-r", f"text:{models / 'clip'}", "-i", "builtin:shapes?count=2000&seed=0", "--battery", "quick")
    done = platodef(*words, *text, "-o", f"json={tmp_path / 'r.json'}")
    assert done.code == 1, done.err
    report = read_report(tmp_path / "r.json")
    assert [record.reads_text for record in report.references] == [False, False, True]
    assert any("it has no vote in whether the references are aligned" in line for line in report.not_examined)
    assert any("trusted like a reference" in line for line in report.warnings)
    assert all("clip-text" not in probe.control_collapse for probe in report.probes)
    assert {record.encoder for record in report.searches} >= {"backdoored"}
    assert "clip-text" not in {record.encoder for record in report.searches}
