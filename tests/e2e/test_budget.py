"""An audit that a time budget made smaller runs to its end, and is the one that its own advice names."""

from pathlib import Path

import pytest

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.plan import budget
from platodef_cli.audit.run import audit

IMAGES = "builtin:shapes?seed=1&count=3000"


@pytest.mark.slow
def test_a_smaller_audit_runs_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes are given here: what a budget chooses depends on the speed of the machine."""
    sizes = budget.Sizes(500, 100, "quick", budget.CORE)
    monkeypatch.setattr(budget, "choose", lambda *given: sizes)
    common = {"images": IMAGES, "cache_dir": tmp_path}
    found = audit(AuditConfig("builtin:backdoored", budget="1h", **common))
    assert found.verdict == "fail"
    assert {search.kind for search in found.searches} == set(budget.CORE)
    (said,) = [warning for warning in found.warnings if "to fit into 1h" in warning]
    assert "2500 of 3000 images" in said
    assert "--sample 500 --probe-images 100 --battery quick --searches patch,universal" in said
    # families that were left out are no part of what the audit claims
    assert any("wanet" in line for line in found.not_examined)
    advised = audit(
        AuditConfig(
            "builtin:backdoored",
            sample=500,
            probe_images=100,
            battery="quick",
            searches=budget.CORE,
            **common,
        )
    )
    assert [reason.message for reason in advised.reasons] == [reason.message for reason in found.reasons]
    assert advised.searches == found.searches
    assert advised.probes == found.probes
