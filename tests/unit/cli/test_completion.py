"""Completion as the shells ask for it; bash for real, zsh and fish through Typer's protocol."""

import subprocess
import sys
from pathlib import Path

import pytest

from platodef_cli.defences import DETECTORS, PURIFIERS
from platodef_cli.report import REPORTS
from tests.unit.cli.calls import LAUNCH, ROOT, command, python

FORMATS = {choice for name in REPORTS.names() for choice in (name, f"{name}=")}
HEADS = {path.name for path in (ROOT / "pretrained_heads").iterdir() if path.is_dir()}
ENCODERS = {f"builtin:{path.name}" for path in (ROOT / "examples" / "encoders").iterdir() if path.is_dir()}
ASKED = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell is named, not looked for
CASES = [
    ("audit --output ", FORMATS),
    ("report x.json -o ht", {"html", "html="}),
    ("audit --detector ", set(DETECTORS.names())),
    ("audit --purifier ", set(PURIFIERS.names())),
    ("audit --head ", HEADS),
    ("score x.safetensors --head builtin-b", {name for name in HEADS if name.startswith("builtin-b")}),
    ("audit ", ENCODERS),
    ("preflight ", ENCODERS),
    ("audit --reference builtin:ref", {name for name in ENCODERS if "reference" in name}),
    ("audit --images b", {"builtin:shapes"}),
    ("audit --battery ", {"quick", "standard"}),
    ("schem", {"schema"}),
    ("audit --exit-z", {"--exit-zero"}),
]


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_choices(line: str, expected: set[str]) -> None:
    words = f"platodef {line}"
    place = str(len(words.split()) - (0 if words.endswith(" ") else 1))
    done = command(env={"_PLATODEF_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place})
    assert set(done.out.split()) == expected, done.err


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(shell: str) -> None:
    environment = {
        "_PLATODEF_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "platodef audit --purifier h",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": "h",
    }
    assert "heun" in command(env=environment).out
    assert f"complete_{shell}" in command("--show-completion", shell, env=ASKED).out


def test_in_a_real_bash(tmp_path: Path) -> None:
    tool = tmp_path / "platodef"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{LAUNCH}" "$@"\n')
    tool.chmod(0o755)
    script = (
        "source <(platodef --show-completion bash)\n"
        "COMP_WORDS=(platodef audit --purifier he)\nCOMP_CWORD=3\n"
        '_platodef_completion platodef\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), **ASKED}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "heun\n", done.stderr


def test_installing_writes_below_the_home_only(tmp_path: Path) -> None:
    done = command("--install-completion", "bash", env={**ASKED, "HOME": str(tmp_path)})
    assert done.code == 0, done.err
    assert ".bash_completions/platodef.sh" in (tmp_path / ".bashrc").read_text()
    assert "_platodef_completion" in (tmp_path / ".bash_completions" / "platodef.sh").read_text()


def test_completing_is_light() -> None:
    code = (
        "import sys\n"
        "from platodef_cli.cli import completion\n"
        "for offer in ('formats', 'detectors', 'purifiers', 'heads', 'encoders', 'images'):\n"
        "    assert getattr(completion, offer)('')\n"
        "    assert getattr(completion, offer)('\\x00no') == []\n"
        "assert not {'torch', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
    )
    done = python(code)
    assert done.code == 0, done.err
