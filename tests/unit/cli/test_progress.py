"""Progress on a terminal, silence elsewhere, warnings once."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from platodef_cli.cli.progress import EVERY_S, ConsoleProgress, _CountingTask
from platodef_cli.cli.session import ProgressMode, Session


def _progress(*, animate: bool, steps: bool) -> tuple[ConsoleProgress, io.StringIO, list[str]]:
    stream, warned = io.StringIO(), []
    console = Console(file=stream, force_terminal=animate, width=80, no_color=True)
    return ConsoleProgress(console, animate=animate, steps=steps, warn=warned.append), stream, warned


def test_silent_means_silent_but_for_warnings_once() -> None:
    progress, stream, warned = _progress(animate=False, steps=False)
    with progress.step("extracting", 3) as task:
        task.advance(2, note="loss 0.2")
        progress.warn("a GPU is unused")
        progress.warn("a GPU is unused")
        progress.warn("two images are broken")
    assert stream.getvalue() == ""
    assert warned == ["a GPU is unused", "two images are broken"]


def test_without_a_terminal_finished_steps_are_lines() -> None:
    progress, stream, _ = _progress(animate=False, steps=True)
    with progress.step("extracting [red]\x1b[31m", 3) as task:
        task.advance(3)
    assert stream.getvalue().startswith(r"  extracting [red]\x1b[31m  ")
    assert stream.getvalue().endswith(" s\n")
    assert len(stream.getvalue().splitlines()) == 1


def test_on_a_terminal_bars_are_drawn_nested_and_removed() -> None:
    progress, stream, _ = _progress(animate=True, steps=True)
    with progress.step("outer", 2) as outer:
        with progress.step("inner") as inner:
            inner.advance(note="loss [bold]0.1")
        outer.advance()
        progress._bars.refresh()
    text = stream.getvalue()
    assert "1/2" in text
    assert "inner" in text
    assert not progress._bars.live.is_started
    assert progress._bars.tasks == []


def test_steps_of_several_threads_leave_nothing_open() -> None:
    progress, _, warned = _progress(animate=True, steps=True)

    def work(number: int) -> None:
        for _ in range(20):
            with progress.step(f"search {number}", 2) as task:
                task.advance(2)
                progress.warn("slow")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert warned == ["slow"]
    assert progress._bars.tasks == []
    assert not progress._bars.live.is_started


def test_a_failing_step_closes_its_bar_and_claims_nothing() -> None:
    progress, stream, _ = _progress(animate=False, steps=True)
    with pytest.raises(ValueError, match="no"), progress.step("extracting", 1):
        raise ValueError("no")
    assert stream.getvalue() == ""
    assert progress._bars.tasks == []


@pytest.mark.parametrize(
    ("mode", "quiet", "shown"),
    [
        (ProgressMode.auto, False, False),
        (ProgressMode.on, False, True),
        (ProgressMode.on, True, False),
        (ProgressMode.off, False, False),
    ],
)
def test_session_decides(
    capsys: pytest.CaptureFixture[str], mode: ProgressMode, quiet: bool, shown: bool
) -> None:
    session = Session(progress_mode=mode, quiet=quiet)
    with session.progress.step("extracting", 1):
        pass
    session.progress.warn("careful")
    session.progress.warn("careful")
    err = capsys.readouterr().err
    assert ("extracting" in err) is shown
    assert err.count("warning: careful") == 1


def test_slow_steps_have_an_estimate() -> None:
    progress, _, _ = _progress(animate=True, steps=True)
    clock = [0.0]
    progress._bars.get_time = lambda: clock[0]
    with progress.step("training", 10) as task:
        for _ in range(3):  # a minute per epoch
            clock[0] += 60
            task.advance()
        (bar,) = progress._bars.tasks
        assert bar.time_remaining == pytest.approx(7 * 60, abs=1)


def test_without_a_terminal_a_long_step_tells_how_far_it_is() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=40)
    told, clock = threading.Event(), [0.0]
    progress = ConsoleProgress(
        console, animate=False, steps=True, warn=pytest.fail, every=0.01, clock=lambda: clock[0]
    )
    write = stream.write
    stream.write = lambda text: (write(text), told.set())[0]  # type: ignore[method-assign]
    with progress.step("searching for a trigger in an encoder", 200) as task:
        clock[0] = 60.0
        task.advance(50, note="patch 16% of the side, \x1b[31mcollapse 0.3")
        assert told.wait(30)
        with progress.step("decoding"):
            told.clear()
            assert told.wait(30)
    assert progress._teller is None
    lines = stream.getvalue().splitlines()
    first = "  searching for a trigger in an encoder: 25%, about 3 min 0 s left (patch 16% of the side, "
    assert any(line.startswith(first) for line in lines)  # on one line, however narrow
    assert "\x1b" not in stream.getvalue()
    assert any(line.startswith("  decoding: 0.0 s so far") for line in lines)
    assert lines[-1] == "  searching for a trigger in an encoder  1 min 0 s"


def test_lines_of_running_steps_come_at_least_every_half_minute() -> None:
    assert EVERY_S <= 30


def test_the_time_left_is_estimated_from_the_last_pace() -> None:
    clock = [0.0]
    task = _CountingTask("extracting", 1000, lambda: clock[0])
    task.advance(700)  # from the cache
    for _ in range(12):
        clock[0] += 20
        task.advance(10)
        line = task.line()
    assert line == "extracting: 82%, about 6 min 0 s left"
    clock[0] += 1000
    assert task.line().startswith("extracting: 82%, about ")
    assert _CountingTask("loading", None, lambda: clock[0]).line() == "loading: 0.0 s so far"


def test_lines_and_bars_tell_the_time_left_over_all_steps() -> None:
    for animate in (False, True):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=animate, width=200, no_color=True)
        progress = ConsoleProgress(console, animate=animate, steps=True, warn=print, every=0.01)
        progress.left = lambda: 754.0
        with progress.step("searching", 100) as task:
            task.advance(10)
            seen = threading.Event()
            while "whole audit: about 12 min 34 s left" not in stream.getvalue():
                seen.wait(0.01)
        assert "searching" in stream.getvalue()
