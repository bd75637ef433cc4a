"""Kill -9 at any moment: the next run goes on where the killed one was, and tells the same.

``PLATODEF_KILLS=N pytest -n 0 -m slow -s tests/e2e/test_kills.py`` kills N times, ``PLATODEF_KILLS_EACH``
times before an audit may end, ``PLATODEF_KILLS_SEED`` draws other moments, ``PLATODEF_KILLS_WORDS`` audits
something else; it prints what the interruptions cost.

The cost of a kill is what an audit that was killed and then resumed takes more in all, its processes
together, as a share of the same audit without kills, divided by the kills. That is processor time, which
other work on the machine changes little. It has two parts: what every start pays again (imports, opening and
measuring the encoders), which is the same seconds for a short audit and for a long one, and the work since
the last result that was stored. "At most 15 % more" is meant of the mean over all kills; the audit that is
killed by default is far shorter than a real one, so that its starts weigh more.
"""

import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from random import Random
from statistics import mean, median

import pytest

from platodef_cli.features.cache import FeatureCache
from tests.e2e.kills import Place, reaping

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has adoption"),
]
SEED = int(os.environ.get("PLATODEF_KILLS_SEED", "0"))
COUNT = int(os.environ.get("PLATODEF_KILLS", "2"))
EACH = int(os.environ.get("PLATODEF_KILLS_EACH", "2"))
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
        for number in range(COUNT // EACH):
            place = Place(tmp_path / str(number), WORDS, whole.home)
            moments: list[float] = []
            kept: dict[Path, float] = {}
            for _ in range(EACH):
                killed = place.run(1.1 * wall * random.random())
                assert killed.orphans == 0
                if killed.code != -signal.SIGKILL:
                    assert killed.code == done.code  # it was through: a moment near the end
                else:
                    assert not place.report.exists()
                entries = {entry.path: entry.modified for entry in FeatureCache(place.cache).entries()}
                assert kept.items() <= entries.items()
                kept = entries
                assert FeatureCache(place.cache).verify() == []
                moments.append(killed.seconds)
            resumed = place.run()
            assert (resumed.code, resumed.orphans) == (done.code, 0), resumed.stderr
            assert place.content() == expected
            assert {path.name for path in place.left_over()} == of_libraries
            assert {path: path.stat().st_mtime for path in kept} == kept
            spent = sum(moments) + resumed.seconds
            costs.append((spent / done.seconds - 1) / EACH)
            with capsys.disabled():
                print(
                    f"\naudit {number}: killed after {', '.join(f'{moment:.1f}' for moment in moments)} s, "
                    f"{len(kept)} entries kept, {resumed.seconds:.1f} s more, of {done.seconds:.1f} s "
                    f"without kills: {costs[-1]:+.0%} for each",
                    end="",
                )
            shutil.rmtree(place.folder)
    with capsys.disabled():
        print(
            f"\n{COUNT} kills, all reports as without: {mean(costs):+.1%} processor time for each kill, "
            f"median {median(costs):+.1%}"
        )
