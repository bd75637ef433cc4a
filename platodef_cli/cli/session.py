"""What one run of a command knows about its console."""

import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import catch_warnings, simplefilter

import typer

from platodef_cli.cli.exits import closing_line, explain, one_line
from platodef_cli.errors import EXIT_PASS

if TYPE_CHECKING:
    from rich.console import Console

    from platodef_cli.cli.progress import ConsoleProgress
    from platodef_cli.report.interface import RenderOptions


class ProgressMode(StrEnum):
    """When progress bars are drawn."""

    auto = "auto"
    on = "on"
    off = "off"


@dataclass
class Session:
    """Verbosity, colour and streams of one run; results go to stdout, everything else to stderr.

    Attributes:
        quiet: Say nothing but warnings, errors and the last line.
        verbose: 0, 1 (details, library warnings) or 2 (library logs).
        no_color: Never use colour; NO_COLOR and a stream that is not a terminal do the same.
        progress_mode: When progress bars are drawn.
        debug: Show the traceback of an error.
        anchor: File of the repository that code-scanning results are attached to; None looks for one.
        explained: An error is explained on stderr, or will be in a moment.
        told: The last line stands on stderr.
        on_error: Called with exit code, error, message and last line of an error before it is explained, so
            that a command can leave its results in files as well.
        set_aside: Path of a result that is still to be written -> where that of an earlier run is now.
    """

    quiet: bool = False
    verbose: int = 0
    no_color: bool = False
    progress_mode: ProgressMode = ProgressMode.auto
    debug: bool = False
    anchor: str | None = None
    explained: bool = False
    told: bool = False
    on_error: Callable[[int, BaseException, str, str], None] | None = field(default=None, repr=False)
    set_aside: dict[Path, Path] = field(default_factory=dict, repr=False)
    _progress: "ConsoleProgress | None" = field(default=None, repr=False)

    @cached_property
    def console(self) -> "Console":
        """The console on stderr."""
        from rich.console import Console

        return Console(
            stderr=True, no_color=self.no_color or None, markup=False, emoji=False, highlight=False
        )

    def say(self, text: str, style: str = "") -> None:
        """Write one line to stderr, whatever the verbosity."""
        from rich.text import Text

        self.console.print(Text(one_line(text), style=style), soft_wrap=True)

    def info(self, text: str) -> None:
        """Write one line to stderr unless the run is quiet."""
        if not self.quiet:
            self.say(text)

    def detail(self, text: str) -> None:
        """Write one line to stderr where details were asked for (``-v``)."""
        if self.verbose and not self.quiet:
            self.say(text, "dim")

    def mention_idle_gpu(self, device: str) -> None:
        """Tell that a GPU lies idle; one that is silently unused costs hours."""
        if device == "cpu":
            import torch

            if torch.cuda.is_available():
                self.info("a GPU is available and not used; --device cuda uses it")

    def warn(self, text: str) -> None:
        """Write a warning to stderr."""
        self.say(f"warning: {text}", "yellow")

    @property
    def progress(self) -> "ConsoleProgress":
        """The progress display of this run."""
        from platodef_cli.cli.progress import ConsoleProgress

        if self._progress is None:
            terminal = self.console.is_terminal and not self.console.is_dumb_terminal
            shown = not self.quiet and self.progress_mode is not ProgressMode.off
            self._progress = ConsoleProgress(
                self.console,
                animate=terminal,
                steps=shown and (terminal or self.verbose > 0 or self.progress_mode is ProgressMode.on),
                warn=self.warn,
            )
        return self._progress

    def render_options(self, *, width: int | None = None, color: bool | None = None) -> "RenderOptions":
        """Return how to draw a report: for stderr as it is, or for a file with the given settings."""
        from platodef_cli.report.interface import RenderOptions

        console = self.console
        on_terminal = console.is_terminal and not console.no_color and console.color_system is not None
        return RenderOptions(
            width=width or max(60, min(console.width, 120)),
            color=on_terminal if color is None else color,
            unicode=console.encoding.lower().startswith("utf") or color is not None,
            details=self.verbose > 0,
            anchor=self.anchor or _usual_anchor(),
        )

    def finish(self, message: str, code: int = EXIT_PASS) -> None:
        """Write the last line and end the command.

        Raises:
            typer.Exit: Always when ``code`` is not 0.
        """
        self.say(closing_line(code, message))
        self.told = True
        if code != EXIT_PASS:
            raise typer.Exit(code)

    def fail(self, error: BaseException) -> int:
        """Explain an error on stderr and return its exit code."""
        self.explained = True
        code, message = explain(error)
        if self.debug:
            traceback.print_exception(error, file=sys.stderr)
        line = closing_line(code, message)
        if self.on_error is not None:
            handle, self.on_error = self.on_error, None
            try:
                handle(code, error, message, line)
            except Exception as failure:  # the first error decides message and exit code
                self.warn(f"the report could not be written: {explain(failure)[1]}")
        for path, previous in self.set_aside.items():
            self.warn(f"{path} was not written; that of an earlier run is now {previous.name}")
        self.say(line)
        self.told = True
        return code

    @contextmanager
    def _library_noise(self) -> Iterator[None]:
        """Silence warnings and logs of libraries unless the user asked for details."""
        logger = logging.getLogger()
        if self.verbose:
            level = logging.DEBUG if self.verbose > 1 else logging.WARNING
            logging.basicConfig(stream=sys.stderr, level=level, format="%(name)s: %(message)s")
            yield
            return
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
        with catch_warnings():
            simplefilter("ignore")
            yield

    def run(self, command: Callable[[], None]) -> None:
        """Run a command; every error ends in one line and an exit code.

        Raises:
            typer.Exit: The command failed, or ended with a code of its own.
        """
        try:
            with self._library_noise():
                command()
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(self.fail(error)) from None


def _usual_anchor() -> str:
    """Return the file that holds the policy of most repositories: the first that is in this folder."""
    usual = ("platodef.toml", "pyproject.toml")
    return next((name for name in usual if Path(name).is_file()), usual[0])
