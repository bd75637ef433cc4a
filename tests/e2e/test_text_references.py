"""Text references as a user gives them: captions, extract, fit, score, purify, align, audit."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from platodef_cli import read_report
from platodef_cli.features.file import load_features
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
