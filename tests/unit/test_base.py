"""Errors, registry, progress, resources and records: what everything stands on."""

import ast
import importlib
import pickle
import pkgutil
import re
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

import platodef_cli
from platodef_cli import errors, records, resources
from platodef_cli.errors import IncompleteError, NotApplicable, PlatodefError, UnknownNameError, UsageError
from platodef_cli.images.decode import ImageError
from platodef_cli.progress import SILENT
from platodef_cli.records import AuditReport
from platodef_cli.registry import Registry

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.PlatodefError, 3),
        (errors.UsageError, 2),
        (errors.UnknownNameError, 2),
        (errors.RefusedError, 5),
        (errors.IncompleteError, 3),
        (errors.HubError, 3),
        (errors.InconclusiveError, 4),
    ],
)
def test_every_error_class_has_the_code_of_the_tree(kind: type[PlatodefError], code: int) -> None:
    assert kind.exit_code == code


def test_the_tree_in_the_docstring_names_every_class_and_its_code() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, PlatodefError)
    ]
    lines = (errors.__doc__ or "").splitlines()
    for kind in classes:
        line = next(line for line in lines if kind.__name__ in line)
        assert str(kind.exit_code) in line.split()


def test_unknown_name_lists_choices_and_guesses() -> None:
    table = Registry("detector", {"ridge": "math:pi", "energy": "math:e"})
    with pytest.raises(UnknownNameError) as caught:
        table.load("rigde")
    assert (
        str(caught.value) == "unknown detector 'rigde' (did you mean 'ridge'?); choose one of: energy, ridge"
    )
    with pytest.raises(UnknownNameError) as caught:
        table.load("zzz")
    assert str(caught.value) == "unknown detector 'zzz'; choose one of: energy, ridge"


def _kinds(base: type[PlatodefError] = PlatodefError) -> list[type[PlatodefError]]:
    return [base, *(kind for below in base.__subclasses__() for kind in _kinds(below))]


COMPOSED = {
    UnknownNameError: UnknownNameError("metric", "auroc", ["auc"]),
    NotApplicable: NotApplicable("there are no images"),
    ImageError: ImageError("a.png", "it is empty", transient=True),
}


@pytest.mark.parametrize("kind", dict.fromkeys(_kinds()), ids=lambda kind: kind.__name__)
def test_every_error_survives_the_way_out_of_a_worker_process(kind: type[PlatodefError]) -> None:
    error = COMPOSED[kind] if kind in COMPOSED else kind("message")
    error.add_note("from a worker")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_table_keeps_its_order_and_imports_on_load_only() -> None:
    table = Registry("thing", {"b": "no.such.module:x", "a": "math:pi"})
    assert table.names() == ("b", "a")
    assert "b" in table
    assert "c" not in table
    assert table.load("a") == pytest.approx(3.14159265)
    with pytest.raises(ModuleNotFoundError):
        table.load("b")


def _tables() -> list[tuple[str, Registry]]:
    found = []
    for module in pkgutil.iter_modules(platodef_cli.__path__, "platodef_cli."):
        if module.ispkg:
            loaded = importlib.import_module(module.name)
            found += [
                (f"{module.name}.{name}", t) for name, t in vars(loaded).items() if isinstance(t, Registry)
            ]
    return found


@pytest.mark.parametrize(("table", "row"), [(name, row) for name, t in _tables() for row in t.names()])
def test_every_row_of_every_table_can_be_loaded(table: str, row: str) -> None:
    assert callable(dict(_tables())[table].load(row))


def test_silent_progress_takes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    with SILENT.step("work", 3) as task:
        task.advance()
        task.advance(2, note="loss 0.1")
    SILENT.warn("careful")
    assert capsys.readouterr() == ("", "")


def test_missing_embedded_data_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "_PLACES", {"encoders": (tmp_path / "a", tmp_path / "b")})
    with pytest.raises(IncompleteError, match="embedded encoders are missing.*reinstall"):
        resources.data_dir("encoders")
    (tmp_path / "b").mkdir()
    assert resources.data_dir("encoders") == tmp_path / "b"


def test_report_round_trips_without_loss(golden_report: AuditReport, golden_json: str) -> None:
    again = AuditReport.model_validate_json(golden_report.model_dump_json())
    assert again == golden_report
    assert AuditReport.model_validate_json(golden_json) == golden_report


def test_records_are_frozen_and_closed(golden_report: AuditReport) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        golden_report.verdict = "pass"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        AuditReport.model_validate({**golden_report.model_dump(), "surprise": 1})


def test_golden_report_fills_every_field(golden_report: AuditReport) -> None:
    """A field that the fixture leaves empty would be rendered and round-tripped by no test."""
    # tests/unit/report/test_context.py fills the context, test_power.py what the searches find
    may_be_empty = {"waivers", "context", "search_power"}
    empty = {name for name in AuditReport.model_fields if getattr(golden_report, name) in (None, (), {}, "")}
    assert empty <= may_be_empty


def test_every_record_field_of_the_report_is_documented_or_named_plainly() -> None:
    schema = AuditReport.model_json_schema()
    assert set(schema["required"]) >= {
        "verdict",
        "exit_code",
        "summary",
        "reasons",
        "target",
        "images",
        "timing",
    }
    assert records.SCHEMA_VERSION == schema["properties"]["schema_version"]["default"]


def test_usage_errors_do_not_look_like_crashes() -> None:
    assert issubclass(UsageError, PlatodefError)
    assert not issubclass(UsageError, ValueError)


def test_version_floors_of_the_doctor_are_those_of_the_package() -> None:
    from platodef_cli.cli.versions import FLOORS

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = dict(line.split(">=") for line in project["dependencies"])
    assert FLOORS == {name: declared[name] for name in FLOORS}


DISTRIBUTIONS = {"PIL": "pillow", "open_clip": "open_clip_torch", "sklearn": "scikit-learn"}
DISTRIBUTIONS |= {"model_signing": "model-signing", "yaml": "pyyaml", "mlflow": "mlflow-skinny"}
OPTIONAL = {
    "blake3": {"attestation/oms.py"},
    "cryptography": {"attestation/certificates.py", "attestation/dsse.py"},
    "model-signing": {"attestation/oms.py"},
    "sigstore": {"attestation/signers.py"},
    "diffusers": {"defences/zip.py"},
    "mlflow-skinny": {"encoders/stores/registry.py"},
    "pyautoattack": {"bench/attacks/auto_attack.py"},
}
"""Distributions of an extra -> the files that may import them."""


def _imported(path: Path) -> set[str]:
    """Return the distributions that a file imports, wherever in the file it does."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module or "")
    own = {"platodef_cli", *sys.stdlib_module_names}
    names = {module.partition(".")[0] for module in modules} - own
    return {DISTRIBUTIONS.get(name, name) for name in names}


def test_everything_that_is_imported_is_declared() -> None:
    package = ROOT / "platodef_cli"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[>=\[]", line)[0] for line in project["dependencies"]}
    extras = {
        re.split(r"[>=\[]", line)[0]
        for name, lines in project["optional-dependencies"].items()
        if name != "dev"
        for line in lines
    }
    used = {str(path.relative_to(package)): _imported(path) for path in package.rglob("*.py")}
    missing = {
        file: names - declared - {name for name, files in OPTIONAL.items() if file in files}
        for file, names in used.items()
    }
    assert {file: names for file, names in missing.items() if names} == {}
    assert set(OPTIONAL) - declared <= extras
    assert declared <= set().union(*used.values())
