"""A plug-in from a folder, used from the command line: nothing of platodef knows its names."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from platodef_cli.features.file import save_features
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.pretrained import HeadCard, save_heads
from platodef_cli.registry import installed_plugins
from tests.gaussian_world import GaussianWorld
from tests.unit.cli.calls import ROOT, Call, command
from tests.unit.encoders.folders import TIMM, folder
from tests.unit.heads.test_pretrained import encoder
from tests.unit.test_registry import install

DEFENCES = """
from platodef_cli.defences.interface import Access, DEFAULT_SETUP

class Length:
    name = "length"
    needs = frozenset({Access.features})
    bank = 0
    description = "Length of the feature."
    published = ""
    expected_auroc = None

    def __init__(self, heads, clean=None, setup=DEFAULT_SETUP):
        pass

    def score(self, tuples):
        return tuples.source.double().norm(dim=1)

class Halve:
    name = "halve"
    needs = frozenset({Access.features})
    description = "Halves the feature."
    evaluations = 0

    def __init__(self, heads, options):
        pass

    def purify(self, tuples, *, generator):
        return tuples.source / 2
"""
PICTURES = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Invert:
    share: float = 1.0

    @property
    def name(self):
        return f"invert-{self.share:g}"

    def __call__(self, pixels, seeds):
        out = pixels.clone()
        rows = round(self.share * pixels.shape[2])
        out[:, :, :rows] = 255 - out[:, :, :rows]
        return out

class Mirror(Invert):
    name = "mirror"

def open_mine(uri, *, limit, seed, offline):
    from platodef_cli.images.open import open_source
    return open_source("builtin:shapes?count=" + uri.partition("://")[2], limit=limit, seed=seed)
"""
REPORT = """
def render(report, options):
    return f"<<{report.verdict}>>\\n"
"""
BACKEND = """
from platodef_cli.encoders.backends.interface import RepositoryLayout

class Mine:
    def layouts(self, config, names):
        if "mine" in config:
            yield RepositoryLayout(("config.json",), config.get("file", "model.safetensors"))

    def architecture(self, configuration):
        return str(configuration["mine"])

    def builder(self):
        return build

def build(bundle, device, dtype):
    from torch import nn
    from platodef_cli.encoders.geometry import Geometry
    from platodef_cli.encoders.local import Tower, build_on_meta, freeze, load_strictly

    def create():
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))

    build_on_meta(create, bundle, "mine")
    network = create()
    load_strictly(network, bundle.state_dict(), str(bundle.directory))
    network = freeze(network, device, dtype, False)
    geometry = Geometry((8, 8), (8, 8), "bilinear")
    return Tower(network, network, geometry, (0.0,) * 3, (1.0,) * 3, "mine", "mean")
"""
ENTRIES = {
    "platodef.detectors": {"length": "my_defences:Length"},
    "platodef.purifiers": {"halve": "my_defences:Halve"},
    "platodef.triggers": {"invert": "my_pictures:Invert"},
    "platodef.controls": {"mirror": "my_pictures:Mirror"},
    "platodef.image_sources": {"mine": "my_pictures:open_mine"},
    "platodef.report_formats": {"short": "my_report:render"},
    "platodef.backends": {"mine": "my_backend:Mine"},
}
BROKEN = {
    "platodef.detectors": {"broken": "my_broken:Broken", "knn": "my_defences:Length", "silent": "json:loads"},
    "platodef.triggers": {"fault": "my_broken:Fault"},
    "platodef.backends": {"worse": "my_broken:Worse"},
    "platodef.detectorz": {"lost": "my_defences:Length"},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``pip install --target`` would leave of one working and one broken distribution."""
    folder = tmp_path_factory.mktemp("plugins") / "site"
    modules = {"my_defences": DEFENCES, "my_pictures": PICTURES, "my_report": REPORT, "my_backend": BACKEND}
    install(folder, "my-plugin", modules, ENTRIES)
    install(folder, "bad-plugin", {"my_broken": "import no_such_library\n"}, BROKEN)
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As ``site``, for commands in this process."""
    from platodef_cli.cli.doctor import open_registries

    def forget() -> None:
        installed_plugins.cache_clear()
        for table in open_registries():
            vars(table).pop("_added", None)

    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr("platodef_cli.registry._used", set())
    forget()
    yield
    monkeypatch.undo()
    forget()


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory, small_heads: Heads) -> Path:
    """Stored heads of the Gaussian world."""
    place = tmp_path_factory.mktemp("heads") / "heads"
    card = HeadCard(
        name="x",
        source=encoder("s", 8),
        references=(encoder("left", 4), encoder("right", 4)),
        trained_on="draws",
    )
    save_heads(place, small_heads, card=card)
    return place


def environment(site: Path, tmp_path: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{ROOT}:{site}", "PLATODEF_CACHE_DIR": str(tmp_path / "cache")}


def test_a_detector(site: Path, heads: Path, world: GaussianWorld, tmp_path: Path) -> None:
    for name, seed in (("rows", 3), ("clean", 4)):
        save_features(tmp_path / f"{name}.safetensors", world.sample(40, seed))
    done = command(
        *("score", str(tmp_path / "rows.safetensors"), "--head", str(heads), "--detector", "length"),
        *("--calibrate", str(tmp_path / "clean.safetensors")),
        env=environment(site, tmp_path),
    )
    assert done.code == 0, done.err
    scores = json.loads(done.out)
    expected = world.sample(40, 3).source.double().norm(dim=1).tolist()
    assert (scores["detector"], [row["score"] for row in scores["rows"]]) == ("length", expected)


def test_help_names_plugins_and_survives_broken_ones(site: Path, tmp_path: Path) -> None:
    done = command("score", "--help", env=environment(site, tmp_path))
    assert done.code == 0, done.err
    text = " ".join(done.out.replace("│", " ").split())
    assert "beatrix, broken, length" in text
    assert done.err == ""


def test_a_report_format(site: Path, golden_json: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(golden_json)
    done = command(
        "report", str(path), "-o", "short", "-o", f"short={tmp_path / 'x'}", env=environment(site, tmp_path)
    )
    verdict = json.loads(golden_json)["verdict"]
    assert done.out == (tmp_path / "x").read_text() == f"<<{verdict}>>\n", done.err


@pytest.mark.usefixtures("installed")
def test_a_trigger(platodef: Call, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "a.png")
    done = platodef(
        "bench", "trigger", "invert", tmp_path / "a.png", "-p", "share=0.5", "-o", tmp_path / "b.png"
    )
    assert done.code == 0, done.err
    with Image.open(tmp_path / "b.png") as image:
        assert (image.getpixel((0, 1)), image.getpixel((0, 2))) == ((245, 235, 225), (10, 20, 30))
    rows = {row["name"]: row["parameters"] for row in json.loads(platodef("bench", "trigger", "--json").out)}
    assert rows["invert"] == "share=1"
    assert "the plug-in bad-plugin 1.2" in rows["fault"]
    assert "colour=white" in rows["patch"]


@pytest.mark.usefixtures("installed")
def test_a_trigger_is_tried_by_audits(site: Path) -> None:
    from platodef_cli.errors import UsageError
    from platodef_cli.triggers import TRIGGERS
    from platodef_cli.triggers.battery import battery

    assert "invert-1" not in {item.variant.name for item in battery("quick")}
    with pytest.raises(UsageError, match="bad-plugin"):
        battery("standard")
    del TRIGGERS._added["fault"]
    items = [(item.family, item.kind, item.parameters) for item in battery("standard")[-2:]]
    assert items == [("invert", "trigger", {"share": 1.0}), ("mirror", "control", {"share": 1.0})]


@pytest.mark.usefixtures("installed")
def test_a_purifier(platodef: Call, heads: Path, world: GaussianWorld, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save_features(tmp_path / "rows.safetensors", world.sample(20, 3))
    out = tmp_path / "out.safetensors"
    done = platodef(
        "purify", tmp_path / "rows.safetensors", "--head", heads, "--method", "halve", "--all", "-o", out
    )
    assert done.code == 0, done.err
    assert load_file(out)["source"].tolist() == (world.sample(20, 3).source / 2).tolist()


@pytest.mark.usefixtures("installed")
def test_an_image_source() -> None:
    from platodef_cli.images.open import open_source

    assert len(open_source("mine://30").refs) == 30
    assert len(open_source("mine://30", limit=5).refs) == 5


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("isolate", [False, True])
def test_an_encoder_backend(tmp_path: Path, isolate: bool) -> None:
    import torch
    from safetensors.torch import save

    from platodef_cli.encoders.load import open_encoder

    weights = save({"2.weight": torch.eye(4, 3), "2.bias": torch.zeros(4)})
    place = folder(tmp_path / "model", {"config.json": {"mine": "tiny"}, "model.safetensors": weights})
    with open_encoder(str(place), isolate=isolate) as encoder:
        features = encoder.embed(torch.full((2, 3, 8, 8), 51, dtype=torch.uint8))
    assert (encoder.record.backend, encoder.record.architecture) == ("mine", "mine")
    assert features.flatten().tolist() == pytest.approx([0.2, 0.2, 0.2, 0.0] * 2)


@pytest.mark.usefixtures("installed")
def test_an_encoder_backend_changes_nothing_for_other_folders_nor_the_rules(
    platodef: Call, tmp_path: Path
) -> None:
    both = folder(tmp_path / "both", {"config.json": {**TIMM, "mine": "x"}})
    assert json.loads(platodef("preflight", both, "--json").out)["backend"] == "timm"
    assert json.loads(platodef("preflight", folder(tmp_path / "timm"), "--json").out)["backend"] == "timm"
    for config, code, message in (
        ({"mine": "x", "auto_map": {"a": "b"}}, 5, "auto_map"),
        ({"mine": "x", "file": "../model.safetensors"}, 2, "has a configuration but no model.safetensors"),
        ({"mine": "x", "file": "weights.bin"}, 2, "asks for 'weights.bin'; only"),
        ({"other": "x"}, 2, "holds no model.*the plug-in bad-plugin 1.2 .platodef.backends: worse"),
    ):
        done = platodef("preflight", folder(tmp_path / "model", {"config.json": config}))
        assert done.code == code, done.err
        assert re.search(message, " ".join(done.err.split())), done.err


@pytest.mark.usefixtures("installed")
def test_the_doctor_lists_plugins_and_what_is_wrong_with_them(platodef: Call) -> None:
    done = platodef("doctor", "--json")
    rows = json.loads(done.out)
    assert rows["platodef.detectors: length (my-plugin)"] == {"state": "ok", "detail": "my-plugin 1.2"}
    clash = rows["platodef.detectors: knn (bad-plugin)"]
    assert (clash["state"], "platodef has its own detector" in clash["detail"]) == ("note", True)
    assert "no group of that name" in rows["platodef.detectorz: lost (bad-plugin)"]["detail"]
    broken = rows["platodef.detectors: broken (bad-plugin)"]
    assert (broken["state"], "no_such_library" in broken["detail"]) == ("missing", True)
    assert done.code == 3


@pytest.mark.usefixtures("installed")
def test_the_list_of_defences_has_plugins_too_broken_ones_with_the_reason(platodef: Call) -> None:
    done = platodef("defences", "--json")
    entries = {(entry["kind"], entry["name"]): entry for entry in json.loads(done.out)}
    assert done.code == 0
    assert entries["purifier", "halve"]["needs"] == ["features"]
    assert entries["purifier", "halve"]["error"] is None
    assert "no_such_library" in entries["detector", "broken"]["error"]
    assert entries["detector", "silent"]["error"] == "the detector 'silent' does not say what it needs"
    assert done.last.endswith("; 2 of them cannot be used")
    table = platodef("defences").out
    assert "the plug-in bad-plugin 1.2 (platodef.detectors: broken = my_broken:Broken)" in table


@pytest.mark.usefixtures("installed")
def test_a_report_names_the_plugins_that_were_used() -> None:
    from platodef_cli.audit.partial_report import libraries
    from platodef_cli.defences import DETECTORS

    before = libraries()
    DETECTORS.load("length")
    assert libraries() == {**before, "my-plugin": "1.2"}
    assert "my-plugin" not in before


def test_the_example_of_the_readme(heads: Path, world: GaussianWorld, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- example:plugin -->\n```python\n(.*?)\n```", readme, re.DOTALL)
    assert len(code.splitlines()) <= 25
    (entry,) = re.findall(
        r'\[project\.entry-points\."(platodef\.\w+)"\]` `([\w-]+) = "(long_features:\w+)"`', readme
    )
    group, name, place = entry
    site = tmp_path / "site"
    install(site, name, {"long_features": code}, {group: {name: place}})
    save_features(tmp_path / "rows.safetensors", world.sample(30, 3))
    done = command(
        *("score", str(tmp_path / "rows.safetensors"), "--head", str(heads), "--detector", name),
        *("--calibrate", str(tmp_path / "rows.safetensors")),
        env=environment(site, tmp_path),
    )
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["rows"]) == 30
