"""The command line as tests/unit/cli calls it."""

from tests.unit.cli.conftest import platodef

__all__ = ["platodef"]
