"""The lineage of a suspect in a real audit: what it was made from, and a base that is given."""

import json
from pathlib import Path

import pytest

from platodef_cli.errors import EXIT_FAIL, EXIT_INCOMPLETE, EXIT_REFUSED, EXIT_USAGE
from platodef_cli.records import AuditReport, LineageRecord
from platodef_cli.report import render
from platodef_cli.report.interface import RenderOptions
from tests.unit.cli.calls import Call, Result, command
from tests.unit.encoders.folders import folder

QUICK = (
    "-r", "builtin:reference-vit", "-r", "builtin:reference-cnx", "-i", "builtin:shapes?seed=5&count=900",
    "--battery", "quick", "--probe-images", "60", "--search", "patch",
)  # fmt: skip


def environment(tmp_path: Path) -> dict[str, str]:
    return {"PLATODEF_CACHE_DIR": str(tmp_path / "cache"), "PLATODEF_LINEAGE_DIR": str(tmp_path / "index")}


def run(tmp_path: Path, *more: str) -> Result:
    return command("audit", "builtin:backdoored", *QUICK, *more, "-q", env=environment(tmp_path))


@pytest.fixture
def ended(platodef: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Run an audit that ends early, in this process."""
    for name, value in {**environment(tmp_path), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    return lambda *more: platodef("audit", "builtin:backdoored", *QUICK, *more, "-q")


def audit(tmp_path: Path, *more: str) -> tuple[Result, AuditReport]:
    path = tmp_path / "report.json"
    done = run(tmp_path, *more, "-o", f"json={path}")
    return done, AuditReport.model_validate_json(path.read_text())


def lineage(report: AuditReport) -> LineageRecord:
    assert report.context is not None
    assert report.context.lineage is not None
    return report.context.lineage


def test_a_planting_stays_near_its_base_until_the_trigger_comes(tmp_path: Path) -> None:
    # a damaged entry of the index costs nothing but a warning
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "broken.json").write_text(json.dumps({"format": "?"}))
    alone_done, alone = audit(tmp_path)
    done, beside = audit(tmp_path, "--base", "builtin:clean")
    assert (alone_done.code, done.code) == (EXIT_FAIL, EXIT_FAIL), done.err
    assert any("platodef lineage remove broken" in warning for warning in alone.warnings)
    assert lineage(alone).base == "clean"
    # evidence, which changes nothing of what is measured or judged
    same = (
        "verdict",
        "summary",
        "reasons",
        "findings",
        "metrics",
        "probes",
        "searches",
        "thresholds",
        "policy",
    )
    for name in same:
        assert getattr(alone, name) == getattr(beside, name), name
    assert "base" not in alone.configuration
    assert beside.configuration["base"] == "builtin:clean"
    record = lineage(beside)
    assert record.model_copy(update={"drift": None, "message": ""}) == lineage(alone).model_copy(
        update={"message": ""}
    )
    assert (record.base, record.base_uri) == ("clean", "builtin:clean")
    assert record.cosine is not None
    assert record.cosine > 0.9
    assert record.changed
    drift = record.drift
    assert drift is not None
    assert drift.clean.value > 0.9
    assert drift.worst.value < 0.5
    assert drift.own_collapse > 0.5 > drift.base_collapse
    assert drift.worst_change in drift.changes
    assert any("found" in probe.kind for probe in beside.probes)
    assert len(drift.changes) == len(beside.probes)
    for name in ("markdown", "html", "terminal"):
        text = render(beside, name, RenderOptions(details=True))
        assert "Lineage" in text
        assert "never an acquittal" in text


@pytest.mark.parametrize(
    "base", ["builtin:backdoored", "builtin:reference-vit", "builtin:nothing", "no/folder"]
)
def test_a_base_that_cannot_be_one_ends_before_anything_is_computed(
    base: str, ended: Call, tmp_path: Path
) -> None:
    done = ended("--base", base, "--offline")
    assert done.code == (EXIT_INCOMPLETE if base.startswith("no/") else EXIT_USAGE), done.err
    assert base.removeprefix("builtin:") in done.last
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_an_unsafe_base_is_refused_like_a_suspect(ended: Call, tmp_path: Path) -> None:
    unsafe = folder(tmp_path / "unsafe", {"model.safetensors": None, "pytorch_model.bin": b"\x80\x02."})
    done = ended("--base", str(unsafe))
    assert done.code == EXIT_REFUSED, done.err
    assert "unsafe" in done.last
