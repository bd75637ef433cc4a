"""Kill -9 at any moment: the next run goes on where the killed one was, and tells the same.

``PLATODEF_KILLS=N pytest -n 0 -m slow -s tests/e2e/test_kills.py`` kills N audits, ``PLATODEF_KILLS_SEED``
draws other moments, ``PLATODEF_KILLS_WORDS`` audits something else; it prints what an interruption costs.
"""

import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from random import Random
from statistics import mean

import pytest

from platodef_cli.features.cache import FeatureCache
from tests.e2e.kills import Place, reaping

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has adoption"),
]
SEED = int(os.environ.get("PLATODEF_KILLS_SEED", "0"))
COUNT = int(os.environ.get("PLATODEF_KILLS", "2"))
WORDS = tuple(
    shlex.split(
        os.environ.get(
            "PLATODEF_KILLS_WORDS",
            "builtin:clean --images 'builtin:shapes?seed=1&count=1200' --battery quick --probe-images 60 "
            "--searches patch,universal",
        )
    )
)


def test_killed_audits_go_on_and_tell_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = Random(SEED)
    costs = []
    with reaping():
        whole = Place(tmp_path / "whole", WORDS, tmp_path / "home")
        assert whole.run(plan=True).code == 0  # what libraries make once is made
        done = whole.run()
        assert done.code in (0, 1, 4), done.stderr
        expected = whole.content()
        # torch makes folders of its own there, killed or not
        of_libraries = {path.name for path in whole.left_over()}
        assert not {name for name in of_libraries if "platodef" in name or name.startswith(".")}
        wall = json.loads(whole.report.read_text())["timing"]["seconds"]["total"]
        for number in range(COUNT):
            place = Place(tmp_path / str(number), WORDS, whole.home)
            killed = place.run(1.1 * wall * random.random())
            assert killed.orphans == 0
            if killed.code != -signal.SIGKILL:
                assert killed.code == done.code  # it was through: a moment near the end
            else:
                assert not place.report.exists()
            assert FeatureCache(place.cache).verify() == []
            kept = {entry.path: entry.modified for entry in FeatureCache(place.cache).entries()}
            resumed = place.run()
            assert (resumed.code, resumed.orphans) == (done.code, 0), resumed.stderr
            assert place.content() == expected
            assert {path.name for path in place.left_over()} == of_libraries
            assert {path: path.stat().st_mtime for path in kept} == kept
            costs.append((killed.seconds + resumed.seconds) / done.seconds - 1)
            with capsys.disabled():
                print(
                    f"\nkill {number}: after {killed.seconds:.1f} s of {done.seconds:.1f} s, {len(kept)} "
                    f"entries kept, {resumed.seconds:.1f} s more: {costs[-1]:+.0%}",
                    end="",
                )
            shutil.rmtree(place.folder)
    with capsys.disabled():
        print(
            f"\n{COUNT} kills, reports identical, no orphan, no left-over; {mean(costs):+.1%} processor time"
        )
