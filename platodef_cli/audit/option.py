"""What there is to say of a field of the configuration, so that it is an option of the command line."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Panel = Literal["Models", "Images", "Running", "Result"]


@dataclass(frozen=True)
class Option:
    """What there is to say of a field, apart from its type and its default.

    Attributes:
        help: One line, or a function that makes it: tables of plug-ins are not read at import.
        panel: Group in the help of the command.
        flags: Spellings; the field's name with dashes where there are none.
        metavar: What stands for the value.
        low: Smallest value.
        high: Largest value.
        check: Raises UsageError where a value is none.
        variable: Environment variable that gives the value too.
        completion: Function of :mod:`platodef_cli.cli.completion` that offers values.
        argument: It is a positional argument.
        folder: It is a folder, which need not exist.
        several: The option may be repeated.
        commas: A value may hold several between commas.
        switches_off: The flag sets the field, which is true, to false.
    """

    help: str | Callable[[], str]
    panel: Panel = "Running"
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    low: float | None = None
    high: float | None = None
    check: Callable[[Any], object] | None = None
    variable: str | None = None
    completion: str | None = None
    argument: bool = False
    folder: bool = False
    several: bool = False
    commas: bool = False
    switches_off: bool = False

    def text(self) -> str:
        """Return the help."""
        return self.help if isinstance(self.help, str) else self.help()


def option(
    default: Any, help: str | Callable[[], str], panel: Panel = "Running", *flags: str, **more: Any
) -> Any:
    """Return a field with its option; the arguments are those of :class:`Option`."""
    return field(default=default, metadata={"option": Option(help, panel, flags, **more)})
