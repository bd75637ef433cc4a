"""The version of the package: in a file of its own, so that every other can read it."""

__version__ = "0.1.0"

HOME = "https://example.com/platodef"
"""Address below which the project is published; one for examples (RFC 2606) until it has its own.

What is below it resolves to the repository's ``examples``: ``HOME/schemas/X`` is ``examples/schemas/X``.
"""
