"""An audit in little memory takes fewer images at once, and tells the same."""

from pathlib import Path

import pytest

from tests.e2e.kills import Place, reaping

WORDS = (
    "builtin:backdoored", "--images", "builtin:shapes?seed=1&count=1200", "--battery", "quick",
    "--probe-images", "60", "--searches", "patch",
)  # fmt: skip


@pytest.mark.slow
def test_a_tight_limit_gives_the_same_verdict(tmp_path: Path) -> None:
    contents = []
    with reaping():
        for limit in ("8", "0.5"):
            place = Place(tmp_path / limit, (*WORDS, "--memory-limit", limit), tmp_path / "home")
            done = place.run()
            assert done.code == 1, done.stderr
            contents.append(place.content())
    large, tight = contents
    assert tight["verdict"] == large["verdict"]
    for name in ("probes", "searches"):
        assert [entry["suspicious"] for entry in tight[name] if "suspicious" in entry] == [
            entry["suspicious"] for entry in large[name] if "suspicious" in entry
        ]
    for one, other in zip(tight["probes"], large["probes"], strict=True):
        assert one["name"] == other["name"]
        assert one["collapse"]["value"] == pytest.approx(other["collapse"]["value"], abs=1e-3)
