"""The version of the package: in a file of its own, so that every other can read it."""

__version__ = "0.1.0"

PLACEHOLDER = "https://example.com/platodef"
"""Stands for the project's address while it has none that is public (RFC 2606); nothing answers there."""
HOME = PLACEHOLDER
"""Address below which the project is published, and the only place that says it.

Kinds of predicates and the identity of the verifier are made of it, so that it must not depend on how the
package was installed; where ``project.urls`` of pyproject.toml has a homepage, a test holds the two together.
What is below it resolves to the repository's ``examples``: ``HOME/schemas/X`` is ``examples/schemas/X``. The
package has these files, and ``platodef schema ADDRESS`` prints them.
"""
