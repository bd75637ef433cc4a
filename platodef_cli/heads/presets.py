"""Names of the presets of heads; apart from their sizes, so that the command line need not load torch."""

from platodef_cli.errors import UnknownNameError

CLOSED = "closed"
"""The default preset: closed forms, no network."""
PRESETS: tuple[str, ...] = (CLOSED, "tiny", "small", "medium", "paper")
A_PRESET = "--preset tiny, small, medium or paper"
"""What fits networks, for messages."""


def check_preset(name: str) -> str:
    """Return the name of a preset.

    Raises:
        UnknownNameError: There is none of that name; the message lists the choices.
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return name
