"""Calls of the command line, in this process and in one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
LAUNCH = "import sys; from platodef_cli.cli.app import main; sys.exit(main())"


@dataclass(frozen=True)
class Result:
    """What one call did."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return self.err.strip().splitlines()[-1]


Call = Callable[..., Result]


def python(code: str, *arguments: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> Result:
    """Run Python code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=stdin,
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **(env or {})},
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def command(*arguments: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> Result:
    """Run ``platodef`` in a process of its own."""
    return python(LAUNCH, *arguments, env=env, stdin=stdin)
