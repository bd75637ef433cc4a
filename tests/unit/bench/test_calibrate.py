"""The calibration: one departure per lineage, every audit once, and nothing written that was not measured."""

import hashlib
from pathlib import Path

import pytest

from platodef_cli.audit import calibration as packaged
from platodef_cli.audit.calibration import largest_by_lineage, summary
from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.verdict.error_rate import p_value
from platodef_cli.bench import calibrate as module
from platodef_cli.bench.calibrate import CalibrateConfig, calibrate, part_of
from platodef_cli.bench.calibration_page import draw
from platodef_cli.bench.zoo.card import BackdoorFacts, ZooCard
from platodef_cli.bench.zoo.manifest import Manifest, Planned, Zoo
from platodef_cli.errors import IncompleteError, InconclusiveError, UsageError
from platodef_cli.metrics.binomial import rate_metric
from platodef_cli.records import AuditReport, Calibration, FileRecord
from platodef_cli.search import SEARCH_KINDS

GATE = Path(__file__).parents[2] / "golden" / "gate"
RATE = rate_metric(95, 100, name="rate")
RESULTS = {
    "one": "clean",
    "one-pruned": "backdoored",  # a descendant that the limits fail
    "two": "clean",
    "random": None,
    "two-attack": "backdoored-frequency",
}


def card(name: str, parent: str | None = None, attack: str | None = None) -> ZooCard:
    facts = None
    if attack is not None:
        facts = BackdoorFacts(
            attack=attack, attack_kind="unimodal", paper="", parameters={}, trigger="t", target=0,
            target_class="a", attack_success=RATE, attack_success_of_parent=RATE, target_rate=RATE,
            poisoned_accuracy=RATE,
        )  # fmt: skip
    digest = hashlib.sha256(name.encode()).hexdigest()
    return ZooCard(
        name=name, role="suspect", truth="backdoored" if attack else "clean", made="scratch",
        format="timm", architecture="densenet", family="densenet", parent=parent, seed=0, images="x", dim=4,
        parameters=1000, accuracy=RATE, backdoor=facts, recipe="calibration", digest=name, command="",
        files=(FileRecord(path="model.safetensors", sha256=digest, bytes=1),),
    )  # fmt: skip


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Replace the zoo and the audits; returns the names of the encoders that were audited."""
    cards = {
        "one": card("one"),
        "one-pruned": card("one-pruned", "one"),
        "two": card("two"),
        "random": card("random"),
        "two-attack": card("two-attack", "two", "ctrl"),
    }
    encoders = tuple(Planned(name=name, truth=each.truth, digest=name) for name, each in cards.items())
    manifest = Manifest(recipe="calibration", images="x", seed=0, classes=("a", "b"), encoders=encoders)
    done: list[str] = []

    def audit(config: AuditConfig, progress: object) -> AuditReport:
        name = Path(str(config.model)).name
        done.append(name)
        result = RESULTS[name]
        if result is None:
            raise InconclusiveError("not an encoder of these images")
        return AuditReport.model_validate_json((GATE / f"{result}.json").read_bytes())

    monkeypatch.setattr(module, "open_zoo", lambda root: Zoo(root, manifest, cards))
    monkeypatch.setattr(module, "audit", audit)
    return done


def config(folder: Path, **changes: object) -> CalibrateConfig:
    return CalibrateConfig(folder / "zoo", folder / "out", **changes)  # type: ignore[arg-type]


def test_a_lineage_counts_once_with_its_largest_departure(audits: list[str], tmp_path: Path) -> None:
    calibration = calibrate(config(tmp_path))
    by_name = {encoder.name: encoder for encoder in calibration.encoders}
    largest = largest_by_lineage(calibration)
    assert set(largest) == {"one", "two"}
    assert by_name["one-pruned"].departure is not None
    assert largest["one"] == by_name["one-pruned"].departure.value > 0 > largest["two"]
    assert (calibration.alarms.n_positive, calibration.alarms.n_negative) == (1, 1)
    assert by_name["random"].departure is None
    assert by_name["random"].note == "not an encoder of these images"
    assert by_name["two-attack"].attack == "attack"
    assert by_name["two-attack"].lineage == "two"
    assert by_name["two-attack"].verdict == "fail"
    assert calibration.planned >= 60
    short = summary(calibration, "d" * 64)
    assert short.departures == tuple(sorted(largest.values()))
    assert p_value(9.0, short.departures) == pytest.approx(1 / 3)
    page = draw(calibration)
    assert f"2 clean ones examined, of {calibration.planned} in the recipe" in page
    assert "| the limits alone, all lineages | 0.500 [0.013, 0.987], 1 of 2 |" in page
    assert "| attack | 1 | 1 | 0 | 0 |" in page
    assert "| random | not an encoder of these images |" in page
    assert "not reachable: it takes 99 lineages" in page


def test_every_audit_is_made_once_and_an_interrupted_run_goes_on(
    audits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = module.audit

    def interrupted(config: AuditConfig, progress: object) -> AuditReport:
        if len(audits) == 2:
            raise KeyboardInterrupt
        return given(config, progress=progress)

    monkeypatch.setattr(module, "audit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(config(tmp_path))
    monkeypatch.setattr(module, "audit", given)
    first = calibrate(config(tmp_path))
    assert audits == list(RESULTS)
    again = calibrate(config(tmp_path))
    assert audits == list(RESULTS)
    assert again == first
    # a report that somebody changed is made again
    (tmp_path / "out" / "reports" / "two.json").write_text("{}")
    assert calibrate(config(tmp_path)) == first
    assert audits == [*RESULTS, "two"]


def test_a_part_of_the_zoo_can_be_audited_first(audits: list[str], tmp_path: Path) -> None:
    part = calibrate(config(tmp_path, only=("two",)))
    assert [encoder.name for encoder in part.encoders] == ["two"]
    more = calibrate(config(tmp_path, only=("one*",)))
    assert [encoder.name for encoder in more.encoders] == ["one", "one-pruned", "two"]
    assert audits == ["two", "one", "one-pruned"]
    with pytest.raises(UsageError, match="no finished encoder of .* matches three; finished are: one, "):
        calibrate(config(tmp_path, only=("three",)))
    with pytest.raises(InconclusiveError, match="no clean encoder could be examined"):
        calibrate(CalibrateConfig(tmp_path, tmp_path / "other", only=("random",)))


def test_parts_measured_on_two_machines_count_together(audits: list[str], tmp_path: Path) -> None:
    whole = calibrate(config(tmp_path))
    part = calibrate(config(tmp_path / "there", only=("one*", "random")))
    there = tmp_path / "part.json"
    there.write_text(part.model_dump_json())
    joined = calibrate(config(tmp_path / "here", only=("one", "two*"), merged=(there,)))
    assert {encoder.name: encoder for encoder in joined.encoders} == {
        encoder.name: encoder for encoder in whole.encoders
    }
    assert joined.alarms == whole.alarms
    assert joined.encoders[-1].attack is not None
    assert draw(joined).count("\n| ") == draw(whole).count("\n| ")

    def refused(**changes: object) -> str:
        there.write_text(part.model_copy(update=changes).model_dump_json())
        with pytest.raises(UsageError) as caught:
            calibrate(config(tmp_path / "here", only=("one", "two*"), merged=(there,)))
        return str(caught.value)

    assert "measured otherwise (images_digest), " in refused(images_digest="other")
    moved = part.encoders[0].model_copy(update={"departure": None})
    assert "another departure of one than" in refused(encoders=(moved, *part.encoders[1:]))
    there.write_text("{}")
    with pytest.raises(UsageError, match=r"is no calibration \(\d+ errors\)"):
        calibrate(config(tmp_path / "here", only=("one",), merged=(there,)))
    with pytest.raises(UsageError, match="cannot be read"):
        calibrate(config(tmp_path / "here", only=("one",), merged=(tmp_path / "none.json",)))


def test_another_search_or_another_file_is_audited_again(
    audits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate(config(tmp_path, only=("two",)))
    calibrate(config(tmp_path, only=("two",), seed=1))
    monkeypatch.setattr(module, "SEARCH_VERSION", -1)
    calibrate(config(tmp_path, only=("two",)))
    assert audits == ["two"] * 3


def test_a_new_kind_of_search_takes_no_part_and_costs_no_audit(
    audits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(module.SEARCHES) < set(SEARCH_KINDS.built_in())  # `pairs` is newer than the calibration
    calibrate(config(tmp_path, only=("one",)))
    older = {kind: row for kind, row in SEARCH_KINDS._rows.items() if kind in module.SEARCHES}
    monkeypatch.setattr(SEARCH_KINDS, "_rows", older)
    calibrate(config(tmp_path, only=("one",)))
    assert audits == ["one"]
    asked = module._asked(config(tmp_path), module.open_zoo(tmp_path), card("one"))
    assert asked.searches == module.SEARCHES


def test_parts_are_fixed_by_the_name() -> None:
    names = [f"lineage-{number}" for number in range(400)]
    parts = [part_of(name) for name in names]
    assert parts == [part_of(name) for name in names]
    assert 150 < parts.count("testing") < 250


def test_the_packaged_calibration_is_read_or_named_as_damaged(
    audits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "data_dir", lambda name: tmp_path)
    packaged._read.cache_clear()
    assert packaged.shipped() is None
    calibration = calibrate(config(tmp_path))
    content = calibration.model_dump_json().encode()
    (tmp_path / packaged.FILE).write_bytes(content)
    packaged._read.cache_clear()
    found = packaged.shipped()
    assert found == summary(Calibration.model_validate_json(content), hashlib.sha256(content).hexdigest())
    (tmp_path / packaged.FILE).write_bytes(content[:-9])
    packaged._read.cache_clear()
    with pytest.raises(IncompleteError, match="is damaged"):
        packaged.shipped()
    packaged._read.cache_clear()
