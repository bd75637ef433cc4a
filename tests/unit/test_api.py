"""The public Python API: small, light to import, the same as the command."""

import dataclasses
import inspect
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import platodef_cli
from platodef_cli import api, environment
from platodef_cli.audit.config import AuditConfig
from platodef_cli.records import AuditReport
from tests.unit.cli.calls import python
from tests.unit.test_registry import install

PUBLIC = {
    "AuditReport", "Guard", "GuardTransformer", "HubError", "IncompleteError", "InconclusiveError",
    "PlatodefError", "Policy", "Preflight", "RefusedError", "UsageError", "__version__",
    "audit", "preflight", "read_report", "render",
}  # fmt: skip
GOLDEN = Path(__file__).parents[1] / "golden"


def test_the_public_surface_is_exactly_this() -> None:
    assert set(platodef_cli.__all__) == PUBLIC
    for name in PUBLIC - {"__version__"}:
        assert inspect.getdoc(getattr(platodef_cli, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'torch'"):
        platodef_cli.torch  # noqa: B018


def test_importing_is_light_and_audit_can_be_called_in_any_order() -> None:
    code = (
        "import sys\n"
        "import platodef_cli\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'timm', 'datasets', 'matplotlib', 'rich'}\n"
        "heavy |= {'sklearn', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from platodef_cli import AuditReport, PlatodefError, Policy, audit, preflight, read_report, render\n"
        "assert callable(audit)\n"
        "from platodef_cli.audit.config import AuditConfig\n"
        "from platodef_cli import audit as again\n"
        "assert callable(again) and callable(platodef_cli.audit)\n"
        "for call in (audit, again):\n"
        "    try:\n"
        "        call('org/name', seed=-1)\n"
        "    except platodef_cli.UsageError as error:\n"
        "        assert 'seed' in str(error)\n"
        "    else:\n"
        "        raise AssertionError\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = python(code)
    assert done.code == 0, done.err


def test_every_argument_reaches_the_audit(
    monkeypatch: pytest.MonkeyPatch, golden_report: AuditReport, tmp_path: Path, site: Path
) -> None:
    seen: list[AuditConfig] = []

    def run(config: AuditConfig, *, progress: Any) -> AuditReport:
        seen.append(config)
        return golden_report

    monkeypatch.setattr("platodef_cli.environment.prepare", lambda: None)
    monkeypatch.setattr(import_module("platodef_cli.audit.run"), "audit", run)
    install(site, "own", {}, {"platodef.triggers": {"mine": "own:Mine"}})
    policy = platodef_cli.Policy(name="mine")
    given: dict[str, Any] = {
        "images": tmp_path, "references": ["a", tmp_path, "text:b"], "revision": "v1", "policy": policy,
        "head": tmp_path, "limit": 7, "seed": 5, "offline": True, "device": "cuda", "batch_size": 3,
        "image_column": "photo", "label_column": "kind", "use_labels": False, "require_isolation": True,
        "battery": "quick", "cache_dir": tmp_path, "use_cache": False, "dtype": "bfloat16",
        "detectors": ["knn", "decree"], "false_positive_rate": 0.1, "max_broken_share": 0.2,
        "memory_limit_gb": 2.0, "time_limit_s": 60.0, "purifier": "ridge", "probe_images": 50,
        "plugins": ["mine"], "pooling": ["mean"], "follow_links": True, "search_precision": "float32",
        "search_controls": "all", "precision": "float32", "sample": 300, "searches": ["patch"],
        "budget": "30m", "preset": "closed", "captions": None, "caption_column": "text",
        "templates": "photo", "captioner": "org/name", "recaption": True, "base": "org/base",
        "positive_controls": False,
    }  # fmt: skip
    assert set(given) == set(inspect.signature(api.audit).parameters) - {"model", "progress"}
    assert platodef_cli.audit(tmp_path, **given) is golden_report
    texts = {"images": str(tmp_path), "references": ("a", str(tmp_path), "text:b"), "head": str(tmp_path)}
    assert seen == [AuditConfig(str(tmp_path), **{**given, **texts})]
    platodef_cli.audit("org/name")
    assert seen[1] == AuditConfig("org/name")
    (tmp_path / "strict.toml").write_text("auroc = 0.7\n")
    for path in (tmp_path / "strict.toml", str(tmp_path / "strict.toml")):
        platodef_cli.audit("org/name", policy=path)
        assert seen[-1].policy.auroc == 0.7


def test_every_option_is_stated_once_and_reaches_command_and_function() -> None:
    """The command, the function and the configuration have the same options with the same defaults."""
    from platodef_cli.cli.audit import audit as command

    fields = {entry.name: entry for entry in dataclasses.fields(AuditConfig)}
    called = inspect.signature(platodef_cli.audit).parameters
    assert set(called) == {*fields, "progress"}
    assert {name for name, entry in called.items() if entry.kind is not entry.KEYWORD_ONLY} == {"model"}
    typed = inspect.signature(command).parameters
    assert {name for name, entry in fields.items() if entry.metadata} <= set(typed)
    for name, entry in fields.items():
        if entry.metadata:
            described = entry.metadata["option"].help
            assert f"{name}: " in inspect.getdoc(platodef_cli.audit)
            assert callable(described) or described in inspect.getdoc(platodef_cli.audit)
            switched = entry.metadata["option"].switches_off
            default = not entry.default if switched else entry.default
            if default is not dataclasses.MISSING and default != ():
                assert typed[name].default == default, name


def test_preflight_is_that_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platodef_cli.environment.prepare", lambda: None)
    checked = platodef_cli.preflight("builtin:clean")
    assert checked.backend == "timm"
    assert re.fullmatch("[0-9a-f]{64}", checked.digest)


def test_reading_and_rendering(tmp_path: Path) -> None:
    report = platodef_cli.read_report(GOLDEN / "report_v2.json")
    path = tmp_path / "again.json"
    path.write_text(platodef_cli.render(report, "json"))
    assert platodef_cli.read_report(path) == report
    with pytest.raises(platodef_cli.UsageError, match="unknown report format 'pdf'"):
        platodef_cli.render(report, "pdf")


def test_offline_holds_for_the_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    seen: list[str | None] = []
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    before = constants.HF_HUB_OFFLINE
    with environment.offline_while(True):
        seen += [os.environ["HF_HUB_OFFLINE"], os.environ["HF_DATASETS_OFFLINE"]]
    assert seen == ["1", "1"]
    assert "HF_HUB_OFFLINE" not in os.environ
    assert os.environ["HF_DATASETS_OFFLINE"] == "0"
    assert constants.HF_HUB_OFFLINE == before
