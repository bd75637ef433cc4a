"""The engine of shards: whole files or none, resumed by content, one failure stops no other."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.jobs.pieces import JOURNAL, MANIFEST, Counts, Folder, InProcess, Made, Piece, Result, make


class Upper:
    """Writes the content of the input in capitals; fails on what says so."""

    def __init__(self, mark: str = ""):
        self.mark = mark
        self.made: list[str] = []
        self.started = self.closed = 0

    def settings(self) -> Mapping[str, Any]:
        return {"mark": self.mark}

    def start(self) -> "Upper":
        self.started += 1
        return self

    def make(self, piece: Piece, target: Path) -> Counts:
        self.made.append(piece.name)
        text = Path(piece.path).read_text() if piece.path else piece.key
        target.write_text(text[: len(text) // 2])
        if "fail" in text:
            raise UsageError(f"{piece.path} is bad")
        if "crash" in text:
            raise KeyboardInterrupt
        if "disk" in text:
            raise OSError(28, "No space left on device")
        target.write_text(text.upper() + self.mark)
        return {"rows": len(text)}

    def close(self) -> None:
        self.closed += 1


class Scene:
    def __init__(self, folder: Path):
        self.inputs, self.out = folder / "in", folder / "out"
        self.inputs.mkdir()
        for name in "abc":
            (self.inputs / name).write_text(f"text of {name}")

    def run(self, mark: str = "") -> Result:
        self.work = Upper(mark)
        pieces = [Piece(path.name, str(path)) for path in sorted(self.inputs.iterdir())]
        executor = InProcess()
        try:
            with Folder(self.out) as folder:
                return folder.run(self.work, pieces, executor)
        finally:
            executor.close()

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.out.iterdir() if not path.name.startswith((".lock", ".journal"))}


def append(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_all_are_made_once(scene: Scene) -> None:
    result = scene.run()
    assert result.total("rows") == 27
    assert (scene.out / "b").read_text() == "TEXT OF B"
    assert scene.files == {"a", "b", "c", MANIFEST}
    manifest = (scene.out / MANIFEST).read_bytes()
    assert [shard["name"] for shard in json.loads(manifest)["shards"]] == ["a", "b", "c"]
    again = scene.run()
    assert scene.work.made == []
    assert scene.work.started == 0  # nothing is loaded where nothing is left
    assert again.before == 3
    assert (scene.out / MANIFEST).read_bytes() == manifest


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda s: (s.inputs / "b").write_text("other"), ["b"]),
        (lambda s: (s.out / "b").write_text("other"), ["b"]),
        (lambda s: (s.out / "b").unlink(), ["b"]),
        (lambda s: (s.inputs / "b").touch(), []),
        (lambda s: (s.out / "b").touch(), []),
        (lambda s: (s.inputs / "d").write_text("more"), ["d"]),
        (lambda s: (s.inputs / "a").unlink(), []),
        (lambda s: (s.out / JOURNAL).unlink(), ["a", "b", "c"]),
        (lambda s: (s.out / MANIFEST).unlink(), []),
        (lambda s: (s.out / JOURNAL).write_bytes((s.out / JOURNAL).read_bytes()[:-40]), ["c"]),
        (lambda s: append(s.out / JOURNAL, b'{"name": "../b"}\n[1]\n\xff\n' + b"[" * 9999), []),
    ],
)
def test_what_changed_is_made_again(scene: Scene, change: Any, again: list[str]) -> None:
    scene.run()
    change(scene)
    result = scene.run()
    assert scene.work.made == again
    assert [made.name for made in result.made] == sorted(path.name for path in scene.inputs.iterdir())


def test_other_settings_make_everything_again(scene: Scene) -> None:
    scene.run()
    scene.run("!")
    assert scene.work.made == ["a", "b", "c"]
    assert (scene.out / "a").read_text() == "TEXT OF A!"


@pytest.mark.parametrize(("word", "kind"), [("fail", UsageError), ("disk", IncompleteError)])
def test_a_failure_stops_no_other_and_leaves_nothing(scene: Scene, word: str, kind: type[Exception]) -> None:
    (scene.inputs / "b").write_text(word)
    result = scene.run()
    assert scene.files == {"a", "c"}
    with pytest.raises(kind, match="1 of 3 shards failed"):
        result.check()
    (scene.inputs / "b").write_text("mended")
    scene.run().check()
    assert scene.work.made == ["b"]
    assert MANIFEST in scene.files


def test_a_run_that_was_killed_goes_on(scene: Scene) -> None:
    (scene.inputs / "b").write_text("crash")
    with pytest.raises(KeyboardInterrupt):
        scene.run()
    assert scene.files == {"a"}
    (scene.out / ".tmp-0123-b").write_text("half")  # of a process that could not tidy up
    (scene.inputs / "b").write_text("calm")
    scene.run()
    assert scene.work.made == ["b", "c"]
    assert scene.files == {"a", "b", "c", MANIFEST}


def test_one_run_at_a_time(scene: Scene) -> None:
    scene.run()
    with Folder(scene.out), pytest.raises(UsageError, match="another run works in"):
        scene.run()
    scene.run()


def test_two_inputs_of_one_name(scene: Scene) -> None:
    with Folder(scene.out) as folder, pytest.raises(UsageError, match="two inputs would become a"):
        folder.run(Upper(), [Piece("a", key="1"), Piece("a", key="2")], InProcess())


def test_an_input_that_grows_is_no_result(scene: Scene) -> None:
    class Grows(Upper):
        def make(self, piece: Piece, target: Path) -> Counts:
            counts = super().make(piece, target)
            Path(str(piece.path)).write_text("longer than before")
            return counts

    scene.out.mkdir()
    outcome = make(Grows(), Piece("a", str(scene.inputs / "a")), scene.out)
    assert not isinstance(outcome, Made)
    assert "changed while it was read" in outcome[1]
    assert list(scene.out.iterdir()) == []


def test_pieces_without_a_file_are_told_apart_by_their_key(tmp_path: Path) -> None:
    for keys, made in ((("1", "2"), ["a", "b"]), (("1", "2"), []), (("1", "3"), ["b"])):
        work = Upper()
        with Folder(tmp_path / "out") as folder:
            folder.run(work, [Piece("a", key=keys[0]), Piece("b", key=keys[1])], InProcess())
        assert work.made == made
