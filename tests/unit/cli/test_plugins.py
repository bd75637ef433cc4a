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
from tests.gaussian_tuples import GaussianTuples
from tests.unit.cli.calls import ROOT, Call, command
from tests.unit.encoders.folders import TIMM, folder
from tests.unit.heads.test_pretrained import encoder
from tests.unit.test_registry import forget_installed, install

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
MISSHAPEN = """
from my_backend import Mine, RepositoryLayout
from my_defences import Halve, Length
from my_pictures import Invert

class Unscored:
    name, needs, bank = "unscored", frozenset(), 0

class Words(Length):
    name = "words"

    def score(self, tuples):
        return "many"

class Confused(Length):
    name = "confused"

    def __init__(self, heads, clean=None, setup=None):
        heads.no_such_thing

class Nothing(Halve):
    name = "nothing"

    def purify(self, tuples, *, generator):
        return None

class Needy(Invert):
    def __init__(self, share):
        pass

class Grey(Invert):
    def __call__(self, pixels, seeds):
        return pixels[:, :1]

class Twin(Invert):
    name = "blur-0.025"

class Vague:
    def layouts(self, config, names):
        return [config["vague"]]

    def architecture(self, configuration):
        return "vague"

    def builder(self):
        return self.no_such_thing

class Empty(Mine):
    def layouts(self, config, names):
        if "empty" in config:
            yield RepositoryLayout(("config.json",), "model.safetensors")

    def architecture(self, configuration):
        return "empty"

    def builder(self):
        return None

class Hollow(Empty):
    def layouts(self, config, names):
        if "hollow" in config:
            yield RepositoryLayout(("config.json",), "model.safetensors")

    def builder(self):
        return lambda bundle, device, dtype: "tower"

def open_none(uri, *, limit, seed, offline):
    return None

def number(report, options):
    return 3

def fails(report, options):
    return report.no_such_thing

def narrow(report):
    return ""
"""
MISSHAPEN_ENTRIES = {
    "platodef.detectors": {
        name.lower(): f"my_misshapen:{name}" for name in ("Unscored", "Words", "Confused")
    },
    "platodef.purifiers": {"nothing": "my_misshapen:Nothing"},
    "platodef.triggers": {name.lower(): f"my_misshapen:{name}" for name in ("Needy", "Grey", "Twin")},
    "platodef.backends": {name.lower(): f"my_misshapen:{name}" for name in ("Vague", "Empty", "Hollow")},
    "platodef.image_sources": {"none": "my_misshapen:open_none"},
    "platodef.report_formats": {name: f"my_misshapen:{name}" for name in ("number", "fails", "narrow")},
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
    install(folder, "odd-plugin", {"my_misshapen": MISSHAPEN}, MISSHAPEN_ENTRIES)
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As ``site``, for commands in this process."""
    monkeypatch.syspath_prepend(str(site))
    forget_installed()
    yield
    monkeypatch.undo()
    forget_installed()


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory, small_heads: Heads) -> Path:
    """Stored heads of Gaussian tuples."""
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


def test_a_detector(site: Path, heads: Path, gaussian: GaussianTuples, tmp_path: Path) -> None:
    for name, seed in (("rows", 3), ("clean", 4)):
        save_features(tmp_path / f"{name}.safetensors", gaussian.sample(40, seed))
    done = command(
        *("score", str(tmp_path / "rows.safetensors"), "--head", str(heads), "--detector", "length"),
        *("--calibrate", str(tmp_path / "clean.safetensors")),
        env=environment(site, tmp_path),
    )
    assert done.code == 0, done.err
    scores = json.loads(done.out)
    expected = gaussian.sample(40, 3).source.double().norm(dim=1).tolist()
    assert (scores["detector"], [row["score"] for row in scores["rows"]]) == ("length", expected)


def test_help_names_plugins_and_survives_broken_ones(site: Path, tmp_path: Path) -> None:
    done = command("score", "--help", env=environment(site, tmp_path))
    assert done.code == 0, done.err
    text = " ".join(done.out.replace("│", " ").split())
    assert "beatrix, masking, broken, confused, length" in text
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
def test_a_trigger_is_tried_by_audits_that_name_it() -> None:
    from platodef_cli.errors import UsageError
    from platodef_cli.triggers.battery import battery

    for kind in ("standard", "quick"):
        assert not {"invert", "mirror", "fault"} & {item.family for item in battery(kind)}
        assert battery(kind, ["length"]) == battery(kind)
        items = battery(kind, ["mirror", "invert"])
        assert items[:-2] == battery(kind)
        added = [(item.family, item.kind, item.parameters) for item in items[-2:]]
        assert added == [("invert", "trigger", {"share": 1.0}), ("mirror", "control", {"share": 1.0})]
    with pytest.raises(UsageError, match="the plug-in bad-plugin 1.2"):
        battery("standard", ["fault"])


@pytest.mark.usefixtures("installed")
def test_a_purifier(platodef: Call, heads: Path, gaussian: GaussianTuples, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save_features(tmp_path / "rows.safetensors", gaussian.sample(20, 3))
    out = tmp_path / "out.safetensors"
    done = platodef(
        "purify", tmp_path / "rows.safetensors", "--head", heads, "--method", "halve", "--all", "-o", out
    )
    assert done.code == 0, done.err
    assert load_file(out)["source"].tolist() == (gaussian.sample(20, 3).source / 2).tolist()


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
    assert "it has no 'needs'" in entries["detector", "silent"]["error"]
    unusable = {name for (_, name), entry in entries.items() if entry["error"] is not None}
    assert unusable == {"broken", "silent", "unscored"}
    assert done.last.endswith("; 3 of them cannot be used")
    table = platodef("defences").out
    assert "the plug-in bad-plugin 1.2 (platodef.detectors: broken = my_broken:Broken)" in table


@pytest.mark.usefixtures("installed")
def test_a_report_names_the_plugins_that_were_used() -> None:
    from platodef_cli.audit.provenance import libraries
    from platodef_cli.defences import DETECTORS
    from platodef_cli.plugins import Plugin, recording

    used: set[Plugin] = set()
    with recording(used):
        DETECTORS.load("length")
    assert libraries(used) == {**libraries(), "plug-in my-plugin": "1.2"}
    assert not any("plugin" in name for name in libraries())


def test_the_example_of_the_readme(heads: Path, gaussian: GaussianTuples, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- example:plugin -->\n```python\n(.*?)\n```", readme, re.DOTALL)
    assert len(code.splitlines()) <= 25
    (entry,) = re.findall(
        r'\[project\.entry-points\."(platodef\.\w+)"\]` `([\w-]+) = "(long_features:\w+)"`', readme
    )
    group, name, place = entry
    site = tmp_path / "site"
    install(site, name, {"long_features": code}, {group: {name: place}})
    save_features(tmp_path / "rows.safetensors", gaussian.sample(30, 3))
    done = command(
        *("score", str(tmp_path / "rows.safetensors"), "--head", str(heads), "--detector", name),
        *("--calibrate", str(tmp_path / "rows.safetensors")),
        env=environment(site, tmp_path),
    )
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["rows"]) == 30


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["score", "--detector", "unscored"], 2, "detectors: unscored = .* it has no 'description'"),
        (["score", "--detector", "words"], 3, "detectors: words = .* failed .TypeError: it gave str, not"),
        (["score", "--detector", "confused"], 3, "detectors: confused = .* failed .AttributeError"),
        (["purify", "--method", "nothing", "--all"], 3, "purifiers: nothing = .* it gave NoneType, not"),
    ],
)
def test_a_misshapen_defence_is_named(
    platodef: Call,
    heads: Path,
    gaussian: GaussianTuples,
    tmp_path: Path,
    words: list[str],
    code: int,
    message: str,
) -> None:
    rows = tmp_path / "rows.safetensors"
    save_features(rows, gaussian.sample(40, 3))
    more = ["--calibrate", rows] if words[0] == "score" else ["-o", tmp_path / "out.safetensors"]
    done = platodef(words[0], rows, *words[1:], "--head", heads, *more)
    assert done.code == code, done.err
    error = " ".join(done.err.split())
    assert re.search(message, error), error
    assert "odd-plugin 1.2" in error
    assert "unexpected" not in error


@pytest.mark.usefixtures("installed")
def test_a_misshapen_trigger_is_named(platodef: Call, tmp_path: Path) -> None:
    from platodef_cli.errors import UsageError
    from platodef_cli.triggers.battery import battery

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for name, message in (
        ("needy", "triggers: needy = .* is no trigger: it cannot be called with ()"),
        ("grey", "triggers: grey = .* it gives torch.uint8 .2, 1, 64, 64. for uint8 .2, 3, 64, 64."),
    ):
        done = platodef("bench", "trigger", name, tmp_path / "a.png", "-o", tmp_path / "b.png")
        assert done.code == 2, done.err
        assert re.search(message.replace("()", r"\(\)"), " ".join(done.err.split())), done.err
    rows = {row["name"]: row["parameters"] for row in json.loads(platodef("bench", "trigger", "--json").out)}
    assert all("odd-plugin 1.2" in rows[name] for name in ("needy", "grey"))
    for kind in ("standard", "quick"):
        with pytest.raises(UsageError, match="odd-plugin .* its trigger is called 'blur-0.025', as another"):
            battery(kind, ["twin"])


@pytest.mark.usefixtures("installed")
def test_a_misshapen_backend_or_image_source_is_named(platodef: Call, tmp_path: Path) -> None:
    from platodef_cli.errors import IncompleteError
    from platodef_cli.images.open import open_source

    vague = folder(tmp_path / "vague", {"config.json": {"vague": 3}})
    done = platodef("preflight", vague)
    assert done.code == 2, done.err
    assert "it gave int, not a RepositoryLayout" in " ".join(done.err.split())
    with pytest.raises(IncompleteError, match="odd-plugin .* what it opened is no image source: it has no"):
        open_source("none://x")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("isolate", [False, True])
def test_a_backend_that_builds_nothing_is_no_fault_of_the_model(tmp_path: Path, isolate: bool) -> None:
    import torch
    from safetensors.torch import save

    from platodef_cli.encoders.load import open_encoder
    from platodef_cli.errors import IncompleteError

    for name, message in (("empty", "its builder is NoneType"), ("hollow", "built str, not a Tower")):
        files = {"config.json": {name: 1}, "model.safetensors": save({"x": torch.ones(1)})}
        place = folder(tmp_path / name, files)
        with pytest.raises(IncompleteError, match=f"odd-plugin 1.2 .platodef.backends: {name} .* {message}"):
            open_encoder(str(place), isolate=isolate)


@pytest.mark.usefixtures("installed")
def test_a_report_format_that_fails_costs_no_other_output(
    platodef: Call, golden_json: str, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    path.write_text(golden_json)
    for form, message in (
        ("number", "gave int for a report, not a text"),
        ("fails", "failed .AttributeError"),
        ("narrow", "is no report format: it cannot be called with .report, options."),
    ):
        page = tmp_path / f"{form}.html"
        done = platodef("report", path, "-o", f"{form}={tmp_path / 'x'}", "-o", f"html={page}", "-o", "json")
        assert done.code == 3, done.err
        error = " ".join(done.err.split())
        assert re.search(f"odd-plugin 1.2 .platodef.report_formats: {form} = .* {message}", error), error
        assert "unexpected" not in error
        assert page.is_file()
        assert json.loads(done.out)["verdict"] == json.loads(golden_json)["verdict"]
        assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("installed")
def test_the_doctor_says_what_is_misshapen_or_unreadable(platodef: Call, site: Path) -> None:
    info = site / "torn-1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "entry_points.txt").write_bytes(b"[platodef.detectors]\n\xff")
    forget_installed()
    rows = json.loads(platodef("doctor", "--json").out)
    for row, text in (
        ("detectors: unscored", "it has no 'description'"),
        ("triggers: grey", "it gives torch.uint8"),
        ("report_formats: narrow", "it cannot be called with (report, options)"),
    ):
        found = rows[f"platodef.{row} (odd-plugin)"]
        assert (found["state"], text in found["detail"]) == ("missing", True)
    torn = rows[str(info)]
    assert (torn["state"], "metadata cannot be read" in torn["detail"]) == ("note", True)


@pytest.mark.usefixtures("installed")
def test_extraction_takes_a_trigger_by_the_name_of_its_row() -> None:
    from platodef_cli.errors import UnknownNameError
    from platodef_cli.jobs.extraction import named_variants

    assert [variant.name for variant in named_variants(("blur-0.025", "invert"))] == [
        "blur-0.025",
        "invert-1",
    ]
    with pytest.raises(UnknownNameError):
        named_variants(("length",))


@pytest.mark.usefixtures("installed")
def test_keys_of_caches_tell_versions_of_plugins_apart() -> None:
    from types import SimpleNamespace
    from typing import Any

    from platodef_cli.features.keys import plugin_key
    from platodef_cli.images.open import open_source
    from platodef_cli.triggers import TRIGGERS

    def encoder(backend: str) -> Any:
        return SimpleNamespace(record=SimpleNamespace(backend=backend))

    own: Any = SimpleNamespace(uri="mine://30")
    shapes, patch = open_source("builtin:shapes?count=30"), TRIGGERS.load("patch")()
    assert plugin_key(encoder("timm"), shapes, patch, None) == {}
    named = {"plug-ins": ["my-plugin 1.2"]}
    assert plugin_key(encoder("mine"), shapes, patch) == named
    assert plugin_key(encoder("timm"), own, None) == named
    assert plugin_key(encoder("mine"), own, TRIGGERS.load("invert")()) == named


@pytest.mark.usefixtures("installed")
def test_an_audit_names_its_plugins() -> None:
    from platodef_cli.audit.config import AuditConfig
    from platodef_cli.errors import UnknownNameError

    config = AuditConfig(model="m", plugins=["mirror,invert", "mirror"])
    assert config.plugins == config.to_json()["plugins"] == ("mirror", "invert")
    assert "plugins" not in AuditConfig(model="m").to_json()
    with pytest.raises(
        UnknownNameError, match="unknown plug-in 'length'; choose one of: fault, grey, invert"
    ):
        AuditConfig(model="m", plugins=["length"])


@pytest.mark.usefixtures("installed")
def test_the_option_of_the_audit_reaches_its_configuration(
    platodef: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The audit itself ends at the first thing that it does; its report says what was loaded until then."""
    from platodef_cli.audit import run
    from platodef_cli.errors import IncompleteError

    def stop(*_: object) -> None:
        raise IncompleteError("enough")

    monkeypatch.setattr(run, "open_inputs", stop)
    words = ("audit", "m", "--images", "builtin:shapes", "--no-cache", "-o", f"json={tmp_path / 'r.json'}")
    done = platodef(*words, "--plugin", "invert", "--plugin", "mirror")
    assert done.code == 3, done.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["configuration"]["plugins"] == ["invert", "mirror"]
    assert report["libraries"]["plug-in my-plugin"] == "1.2"
    assert platodef(*words).code == 3
    assert "plug-in" not in (tmp_path / "r.json").read_text()
    broken = platodef(*words, "--plugin", "fault")
    assert (broken.code, "the plug-in bad-plugin 1.2" in " ".join(broken.err.split())) == (2, True)
