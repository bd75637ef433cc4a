"""The entry point: light help, exit codes, streams, one line per error."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from platodef_cli import environment
from platodef_cli.cli import exits
from platodef_cli.cli.app import app
from platodef_cli.cli.session import Session
from platodef_cli.errors import HubError, IncompleteError, InconclusiveError, RefusedError, UsageError
from tests.unit.cli.calls import LAUNCH, ROOT, Call, command, python

HEAVY = ("torch", "torchvision", "transformers", "timm", "open_clip", "datasets", "numpy", "huggingface_hub")


def commands() -> list[tuple[str, ...]]:
    """Every command and group of commands, as words."""
    found: list[tuple[str, ...]] = [()]
    for name, entry in get_command(app).commands.items():  # type: ignore[attr-defined]
        found.append((name,))
        found += [(name, inner) for inner in getattr(entry, "commands", {})]
    return found


def test_the_commands_of_the_contract_are_there() -> None:
    assert set(commands()) >= {
        *((name,) for name in ("audit", "preflight", "extract", "fit", "score", "purify", "align", "report")),
        *(("heads", name) for name in ("ls", "show", "verify", "pull")),
        *(("cache", name) for name in ("ls", "verify", "rm")),
        ("defences",),
        ("doctor",),
        ("schema",),
    }


def test_help_of_every_command_stays_light_and_documents_every_option() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from platodef_cli.cli.app import main\n"
        f"for words in {commands()!r}:\n"
        "    text = io.StringIO()\n"
        "    with contextlib.redirect_stdout(text):\n"
        "        assert main([*words, '--help']) == 0, words\n"
        "    assert 'Usage: platodef ' + ' '.join(words) in text.getvalue(), text.getvalue()\n"
        f"    loaded = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "    assert not loaded, (words, loaded)\n"
        "assert 'platodef_cli.records' not in sys.modules\n"
    )
    done = python(code)
    assert done.code == 0, done.err


def test_every_option_and_command_has_a_help_text() -> None:
    for words in commands():
        entry = get_command(app)
        for word in words:
            entry = entry.commands[word]  # type: ignore[attr-defined]
        assert entry.help, words
        for parameter in entry.params:
            assert getattr(parameter, "help", None) or parameter.name == "help" or parameter.hidden, (  # type: ignore[attr-defined]
                words,
                parameter.name,
            )


def test_version_names_the_libraries_without_importing_them() -> None:
    done = python(
        "import sys; from platodef_cli.cli.app import main; code = main(['--version'])\n"
        f"assert not set({HEAVY!r}) & set(sys.modules); sys.exit(code)"
    )
    assert done.code == 0
    assert re.match(r"platodef \d+\.\d+\.\d+ \(Python 3", done.out)
    assert re.search(r"^  torch 2\.", done.out, flags=re.MULTILINE)


def test_without_arguments_help_and_a_usage_error(platodef: Call) -> None:
    done = platodef()
    assert done.code == 2
    assert "Usage: platodef" in done.out
    assert done.last == "USAGE (2): a command is missing (see 'platodef --help')"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nope",), "No such command 'nope'. (see 'platodef --help')"),
        (("schema", "--nope"), "No such option: --nope"),
        (("schema", "2", "surplus"), "unexpected extra argument"),
        (("schema", "surplus"), "give one of the versions 1, 2, or one of urn:platodef:audit-report:v1"),
        (("schema", "3"), "'3' is no type of a report that is known here"),
        (("report",), "Missing argument 'REPORT.json'"),
        (("schema", "--progress", "maybe"), "'maybe' is not one of 'auto', 'on', 'off'"),
        (("audit", "m", "--limit", "0"), "Invalid value for '--limit'"),
        (("audit", "m", "--limit", "many"), "Invalid value for '--limit'"),
        (("audit", "m", "--seed", "-1"), "Invalid value for '--seed'"),
        (("audit", "m", "--dtype", "int4"), "'int4' is not one of"),
        (("audit", "m", "--device", "tpu"), "unknown device 'tpu'; choose cpu, cuda, cuda:N or mps"),
        (("audit", "m", "--fpr", "1.5"), "lies strictly between 0 and 1, got 1.5"),
        (("audit", "m", "--purifier", "mop"), "unknown purifier 'mop'"),
        (("audit", "m", "--detector", "rigde"), "unknown detector 'rigde' (did you mean 'ridge'?)"),
        (("audit", "m", "-o", "pdf"), "unknown report format 'pdf'"),
        (("audit", "m", "-o", "json="), "a path is missing after '='"),
        (
            ("audit", "m", "-o", "json=/no/such/folder/r.json"),
            "/no/such/folder of the output r.json does not",
        ),
        (("audit", "m", "-o", "json", "-o", "markdown"), "two results would go to stdout"),
        (("audit", "m", "--head", "/no/such"), "the heads folder /no/such does not exist"),
        (("schema", "2", "x\x1b[2J"), r"(x\x1b[2J)"),
        (("schema", "x\x1b[2J"), r"'x\x1b[2J' is no type"),
        (("audit", "m", "-o", "x\u202e"), r"unknown report format 'x\u202e'"),
    ],
)
def test_usage_errors_are_one_line_and_2(platodef: Call, words: tuple[str, ...], message: str) -> None:
    done = platodef(*words)
    assert done.code == 2
    assert done.out == ""
    assert len(done.err.strip().splitlines()) == 1
    assert done.last.startswith("USAGE (2): ")
    assert message in done.last
    assert "\x1b" not in done.err


@pytest.fixture
def failing(platodef: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run ``platodef schema`` with a body that raises the given error."""

    def call(error: BaseException, *words: str) -> object:
        def dumps(value: object) -> str:
            raise error

        monkeypatch.setattr("platodef_cli.report.json.dumps", dumps)
        return platodef("schema", *words)

    return call  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("bad value; do this"), 2, "USAGE (2): bad value; do this"),
        (RefusedError("x.bin: is a pickle"), 5, "REFUSED (5): x.bin: is a pickle"),
        (IncompleteError("disk full"), 3, "ERROR (3): disk full"),
        (HubError("no network"), 3, "ERROR (3): no network"),
        (InconclusiveError("60 images are too few"), 4, "INCONCLUSIVE (4): 60 images are too few"),
        (
            KeyboardInterrupt(),
            130,
            "INTERRUPTED (130): interrupted; run the same command again, finished work is cached",
        ),
        (MemoryError(), 3, "ERROR (3): not enough memory; try a smaller --batch-size or --limit"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            3,
            "ERROR (3): not enough memory; try a smaller --batch-size or --limit",
        ),
        (
            ZeroDivisionError("division by zero"),
            3,
            "ERROR (3): unexpected ZeroDivisionError: division by zero; use --debug for the traceback",
        ),
        (EOFError(), 3, "ERROR (3): unexpected EOFError; use --debug for the traceback"),
        (
            OSError(28, "No space left on device", "/x/y"),
            3,
            "ERROR (3): No space left on device: /x/y; free some space and run the same command again "
            "(use --debug for the traceback)",
        ),
        (
            BrokenPipeError(32, "Broken pipe"),
            3,
            "ERROR (3): the reader of the output closed it before everything was written",
        ),
        (
            UsageError("two\nlines \x1b[31m and colours"),
            2,
            r"USAGE (2): two lines \x1b[31m and colours",
        ),
    ],
)
def test_every_error_ends_in_one_line_and_its_code(
    failing: Call, error: BaseException, code: int, line: str
) -> None:
    done = failing(error)
    assert (done.code, done.err.strip()) == (code, line)


def test_debug_shows_the_traceback_and_the_same_last_line(failing: Call) -> None:
    done = failing(ZeroDivisionError("division by zero"), "--debug")
    assert done.code == 3
    assert "Traceback (most recent call last)" in done.err
    assert done.last.startswith("ERROR (3): unexpected ZeroDivisionError")


def test_debug_may_stand_before_the_command(monkeypatch: pytest.MonkeyPatch, platodef: Call) -> None:
    def dumps(value: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("platodef_cli.report.json.dumps", dumps)
    assert "Traceback" in platodef("--debug", "schema").err
    assert "Traceback" not in platodef("schema").err


def test_exit_codes_are_those_of_the_contract() -> None:
    assert exits.LABELS == {
        0: "OK",
        1: "FAIL",
        2: "USAGE",
        3: "ERROR",
        4: "INCONCLUSIVE",
        5: "REFUSED",
        130: "INTERRUPTED",
    }
    assert exits.explain(typer.Abort())[0] == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_are_130_in_a_real_process(number: signal.Signals) -> None:
    code = (
        "import sys, time, platodef_cli.report.json as module\n"
        "from platodef_cli.cli.app import main\n"
        "def dumps(value):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "module.dumps = dumps\n"
        "sys.exit(main(['schema']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err.decode().strip() == (
        "INTERRUPTED (130): interrupted; run the same command again, finished work is cached"
    )


CLOSED = (">&-", "2>&-", "2>/dev/full", "<&- >&- 2>&-", "| head -c 1")


@pytest.mark.parametrize(
    ("words", "code", "closed"),
    [
        *((*words, closed) for words in (("policy check", 0), ("schema --what", 2)) for closed in CLOSED),
        ("preflight builtin:clean", 0, CLOSED[3]),
        ("schema", 0, CLOSED[4]),
    ],
)
def test_closed_streams_never_change_the_code(words: str, code: int, closed: str) -> None:
    line = f"set -o pipefail; {shlex.quote(sys.executable)} -c {shlex.quote(LAUNCH)} {words} {closed}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr


def test_a_file_never_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    # the first descriptor that is free would be 1, and what is printed would end in the file
    opened = f"f = open({str(tmp_path / 'f')!r}, 'w'); print('x')"
    code = f"from platodef_cli.cli.streams import make_steady; make_steady(); {opened}"
    subprocess.run(
        ["bash", "-c", f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} >&-"],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (tmp_path / "f").read_text() == ""


def test_a_result_on_a_full_disk_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", LAUNCH, "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 3
    assert done.stderr.startswith("ERROR (3): No space left on device")


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {}])
def test_reports_survive_any_locale(locale: dict[str, str]) -> None:
    done = command("report", str(ROOT / "tests/golden/report_v2.json"), env=locale)
    assert done.code == 0, done.err
    assert "FAIL (1)" in done.err
    assert "Traceback" not in done.err


def test_environment_is_set_before_libraries_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    done = python(
        "import os, sys; from platodef_cli.cli.app import main; main(['--version'])\n"
        "print([os.environ[name] for name in ('HF_HUB_DISABLE_TELEMETRY', 'HF_HUB_DISABLE_PROGRESS_BARS',"
        " 'TOKENIZERS_PARALLELISM', 'DISABLE_SAFETENSORS_CONVERSION')])",
        env={"HF_HUB_DISABLE_TELEMETRY": "0"},
    )
    assert done.out.splitlines()[-1] == "['1', '1', 'false', '1']"


@pytest.mark.parametrize(
    ("text", "cpus"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_cpu_limit_of_a_container(tmp_path: Path, text: str, cpus: int | None) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert environment.container_cpus(file) == cpus
    assert environment.container_cpus(tmp_path / "absent") is None


def test_help_mentions_exit_codes_and_what_a_pass_means(platodef: Call) -> None:
    text = " ".join(platodef("--help").out.split())
    assert "0 pass, 1 suspicious, 2 usage, 3 could not complete, 4 inconclusive, 5 refused" in text
    assert "not that a model is safe" in text


def test_quiet_shows_only_the_last_line(platodef: Call) -> None:
    done = platodef("report", ROOT / "tests/golden/report_v2.json", "-q")
    assert done.code == 0
    assert len(done.err.strip().splitlines()) == 1


def test_an_idle_gpu_is_mentioned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    Session().mention_idle_gpu("cuda")
    Session(quiet=True).mention_idle_gpu("cpu")
    assert capsys.readouterr().err == ""
    Session().mention_idle_gpu("cpu")
    assert capsys.readouterr().err == "a GPU is available and not used; --device cuda uses it\n"


def test_the_parents_signal_handler_comes_back(platodef: Call) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert platodef("schema").code == 0
    assert signal.getsignal(signal.SIGTERM) is before
