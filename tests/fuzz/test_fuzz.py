"""Whatever a file holds, reading it succeeds or ends in the error tree, within bounded memory.

``PLATODEF_FUZZ=N pytest -m slow tests/fuzz`` reads N hostile files of all kinds together (100 000 by default)
and ``PLATODEF_FUZZ_SEED`` draws others.
"""

import io
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save

from platodef_cli.audit.policy.sources import policy_of
from platodef_cli.audit.policy.waiver_file import read_waivers
from platodef_cli.audit.verdict import Gate, judge_again
from platodef_cli.encoders.checks.preflight import preflight
from platodef_cli.errors import PlatodefError
from platodef_cli.features.file import load_features
from platodef_cli.images.parquet import ParquetSource
from platodef_cli.report import render
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.reading import read_report
from tests.fuzz.mutations import changed, damaged, header_bytes, json_bytes, toml_bytes
from tests.unit.encoders.folders import TIMM, WEIGHTS, folder, header

FEW = 60  # of every kind
SEED = int(os.environ.get("PLATODEF_FUZZ_SEED", "0"))
MOST_MEMORY = 2 * 2**30
GOLDEN = Path(__file__).parents[1] / "golden" / "report_v2.json"
VIT = {
    "model_type": "vit", "architectures": ["ViTModel"], "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "id2label": {"0": "a"}, "auto_map": {},
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "resample": 2,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 1 / 255, "do_resize": True,
}  # fmt: skip
CLIP = {
    "model_cfg": {"embed_dim": 24, "vision_cfg": {"layers": 2, "width": 32}, "text_cfg": {"vocab_size": 50}},
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": 0.5},
}
POLICY = {"name": "own", "auroc": 0.9, "alpha": 0.05, "min_test": 50, "fail_if": ["alignment < 0.1"]}
WAIVER = {"id": "x", "model": "a" * 64, "reason": "r", "owner": "o", "expires": "2027-01-31"}
HEADER = header({"conv.weight": ("F32", [4, 3]), "conv.bias": ("F32", [4])})
Reading = Callable[[Random, Path], None]


def configuration(random: Random, place: Path) -> None:
    files = random.choice(
        (
            {"config.json": json_bytes(random, TIMM)},
            {"config.json": json_bytes(random, VIT), "preprocessor_config.json": PROCESSOR},
            {
                "config.json": None,
                "open_clip_config.json": json_bytes(random, CLIP),
                "open_clip_model.safetensors": WEIGHTS,
            },
        )
    )
    preflight(folder(place, files))


def processor(random: Random, place: Path) -> None:
    files = {"config.json": VIT, "preprocessor_config.json": json_bytes(random, PROCESSOR)}
    if random.random() < 0.3:
        files["processor_config.json"] = json_bytes(random, {"image_processor": PROCESSOR})
    if random.random() < 0.3:
        files["modules.json"] = json_bytes(random, [{"path": "1_Pooling"}])
    preflight(folder(place, files))


def weights(random: Random, place: Path) -> None:
    files = {"model.safetensors": header_bytes(random, HEADER, bytes(64))}
    if random.random() < 0.3:
        index = {"metadata": {"total_size": 64}, "weight_map": dict.fromkeys(HEADER, "model-1.safetensors")}
        files = {
            "config.json": VIT,
            "preprocessor_config.json": PROCESSOR,
            "model.safetensors": None,
            "model.safetensors.index.json": json_bytes(random, index),
            "model-1.safetensors": WEIGHTS,
        }
    preflight(folder(place, files))


def features(random: Random, place: Path) -> None:
    data = save({"source": torch.ones(4, 2), "reference.a": torch.ones(4, 2), "label": torch.arange(4)})
    length = int.from_bytes(data[:8], "little")
    stored = json.loads(data[8 : 8 + length])
    stored["__metadata__"] = {"schema_version": "1", "references": '["a"]', "variants": '["clean"]'}
    content = header_bytes(random, stored, data[8 + length :])
    if random.random() < 0.5:
        load_features(io.BytesIO(content))
        return
    (place / "features.safetensors").write_bytes(content)
    load_features(place / "features.safetensors")


def table(random: Random, place: Path) -> None:
    cells = [random.choice((b"", b"x", b"\x89PNG", None)) for _ in range(3)]
    kinds = [cells, [{"bytes": cell, "path": "/etc/passwd"} for cell in cells], [str(cell) for cell in cells]]
    labels = ([0, 1, -1], ["a", None, "b"], cells)
    names = [random.choice(("image", "img", "label", "image.x")) for _ in range(2)]
    columns = [
        pa.array(random.choice(kinds)),
        pa.array(random.choice(labels)),
    ]
    names_of = {"info": {"features": {"label": {"names": ["a", "b"]}}}}
    made = pa.table(columns, names=names).replace_schema_metadata(
        {"huggingface": json_bytes(random, names_of)}
    )
    stream = io.BytesIO()
    pq.write_table(made, stream)
    path = place / "images.parquet"
    path.write_bytes(damaged(random, stream.getvalue()))
    ParquetSource(path)


def report(random: Random, place: Path) -> None:
    path = place / "report.json"
    value = json.loads(GOLDEN.read_bytes())
    if random.random() < 0.3:
        path.write_bytes(json_bytes(random, value))
    else:  # inside one part, so that more of them can still be read
        part = random.choice(list(value))
        value[part] = changed(random, value[part])
        path.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")
    found = read_report(path)
    render(
        found,
        random.choice(("terminal", "json", "markdown", "html", "sarif", "junit", "cyclonedx")),
        RenderOptions(),
    )
    (place / "policy.toml").write_text("auroc = 0.9\n")
    judge_again(found, Gate(policy_of(place / "policy.toml")))


def policy(random: Random, place: Path) -> None:
    path = place / "policy.toml"
    if random.random() < 0.7:
        path.write_bytes(toml_bytes(random, POLICY))
        policy_of(path)
    else:
        path.write_bytes(b"[[waiver]]\n" + toml_bytes(random, WAIVER))
        read_waivers(path)


KINDS: dict[str, Reading] = {
    kind.__name__: kind for kind in (configuration, processor, weights, features, table, report, policy)
}


def read(kind: str, number: int, place: Path) -> str:
    """Read one hostile file and return how that ended: ``""``, or the class of an error of the tree."""
    for old in place.iterdir():
        old.unlink()
    ended: PlatodefError | None = None
    try:
        KINDS[kind](Random(f"{SEED} {kind} {number}"), place)
    except PlatodefError as error:
        ended = error
    except Exception as error:
        raise AssertionError(f"{kind} number {number} of seed {SEED} left the error tree") from error
    if ended is None:
        return ""
    assert ended.exit_code in (2, 3, 4, 5)
    assert str(ended)
    return type(ended).__name__


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_read_or_ends_in_the_error_tree(kind: str, tmp_path: Path) -> None:
    ends = [read(kind, number, tmp_path) for number in range(FEW)]
    assert any(ends)


@pytest.mark.parametrize(
    ("kind", "number"),
    [("table", 41493), ("report", 46093), ("report", 59295), ("report", 90977)],
)
def test_files_that_once_left_the_error_tree(
    kind: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than row groups hold; numbers in quotes that are none."""
    monkeypatch.setitem(globals(), "SEED", 0)
    assert read(kind, number, tmp_path) == "UsageError"


@pytest.mark.slow
def test_many_files(tmp_path: Path) -> None:
    count = int(os.environ.get("PLATODEF_FUZZ", "100000"))
    kinds = tuple(KINDS)
    for number in range(count):
        read(kinds[number % len(kinds)], number, tmp_path)
        if number % 1000 == 0:
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MOST_MEMORY, number
