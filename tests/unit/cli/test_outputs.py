"""Outputs: refused before the work, whole or not at all afterwards."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from platodef_cli.cli.outputs import (
    Output,
    check_output,
    check_output_folder,
    parse_outputs,
    write_text,
)
from platodef_cli.disk import replacing
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.report import REPORTS


def test_parse(tmp_path: Path) -> None:
    outputs = parse_outputs([f"json={tmp_path}/a=b.json", "terminal", "markdown=-"], REPORTS, default="json")
    assert outputs == (
        Output("json", tmp_path / "a=b.json"),
        Output("terminal", None),
        Output("markdown", None),
    )
    assert parse_outputs([], REPORTS, default="terminal") == (Output("terminal", None),)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["json=x.json", "markdown=x.json"], r"two results would go to .*x\.json"),
        (["json=x.json", "markdown=./x.json"], r"two results would go to .*x\.json"),
        (["json", "markdown"], "two results would go to stdout"),
        (["json="], "a path is missing after '='"),
        (["json=folder"], "is a directory"),
        (["json=missing/x.json"], "folder missing of the output x.json does not exist"),
        (["json=file/x.json"], "folder file of the output x.json does not exist"),
    ],
)
def test_refused(specs: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=message):
        parse_outputs(specs, REPORTS, default="terminal")


def test_unknown_format_lists_the_choices() -> None:
    with pytest.raises(
        UnknownNameError,
        match="did you mean 'json'.*choose one of: .*json, junit, markdown, .*sarif, terminal",
    ):
        parse_outputs(["jsn"], REPORTS, default="terminal")


def test_read_only_places_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, whom permission bits do not stop, so the answer of the system is given.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UsageError, match="no permission to write"):
        check_output(tmp_path / "x.json")
    with pytest.raises(UsageError, match="no permission to write"):
        check_output_folder(tmp_path / "heads")


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    path.write_text("x")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(UsageError, match="would overwrite its own input"):
        check_output(tmp_path / "link", inputs=[path])
    assert check_output(tmp_path / "other", inputs=[path]) == tmp_path / "other"


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert check_output_folder(tmp_path / "new") == tmp_path / "new"
    assert check_output_folder(tmp_path) == tmp_path
    with pytest.raises(UsageError, match="is a file; name a folder"):
        check_output_folder(tmp_path / "file")
    with pytest.raises(UsageError, match="does not exist; create it first"):
        check_output_folder(tmp_path / "a" / "b")


def test_a_failure_leaves_the_old_file_and_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with suppress(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_keeps_the_mode_and_follows_links(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    path.chmod(0o640)
    (tmp_path / "link").symlink_to(path)
    write_text(tmp_path / "link", "new")
    assert path.read_text() == "new"
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_has_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_text(tmp_path / "ours", "ä")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "ours").read_bytes() == b"\xc3\xa4"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_text(path, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_folder_that_only_seems_writable_is_noticed_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path | None) -> None:
        raise OSError(errno.ENOENT, "No such file or directory", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UsageError, match=r"cannot write the output .*x\.json \(No such file"):
        check_output(tmp_path / "x.json")
