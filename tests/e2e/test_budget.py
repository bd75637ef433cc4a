"""A time budget: the audit that it chooses is the one of the options that it names."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.calls import Call
from tests.unit.cli.conftest import platodef as platodef

IMAGES = "builtin:shapes?seed=1&count=1500"


def report(path: Path) -> dict[str, Any]:
    """Return a report without what a budget, a cache and the clock change."""
    found: dict[str, Any] = json.loads(path.read_text())
    for key in ("timing", "warnings"):
        del found[key]
    del found["configuration"]["budget"]
    return found


@pytest.mark.slow
def test_a_budget_is_the_audit_of_the_options_that_it_names(platodef: Call, tmp_path: Path) -> None:
    words = ("audit", "builtin:clean", "--images", IMAGES, "--offline")
    # a time that does not let everything in, whatever the machine
    platodef(*words, "--plan", "-o", f"json={tmp_path / 'plan.json'}")
    seconds = json.loads((tmp_path / "plan.json").read_text())["seconds"]
    budget = f"{int(0.9 * seconds)}s"
    first = tmp_path / "first.json"
    done = platodef(*words, "--budget", budget, "-o", f"json={first}")
    assert done.code in (0, 4), done.err
    told = " ".join(done.err.split())
    assert f"to fit into {budget} this audit leaves out:" in told
    options = re.search(r"the same without a budget: ((?:--[a-z-]+ [\w,]+ ?)+)", told)
    assert options
    given = options[1].split()
    second = tmp_path / "second.json"
    again = platodef(*words, *given, "-o", f"json={second}")
    assert again.code == done.code
    chosen = report(first)
    named = json.loads(second.read_text())
    for key in ("timing", "warnings"):
        del named[key]
    # sizes that are those of the full audit are named by the budget only
    for key in ("sample", "searches"):
        chosen["configuration"].pop(key, None)
        named["configuration"].pop(key, None)
    assert chosen == named
