"""Memory of the machine and of the container: what is free is known, and what is too much is said."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from platodef_cli.audit import free_memory as module
from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.free_memory import LEAST, check_room, free_memory
from platodef_cli.audit.inputs import open_inputs
from platodef_cli.errors import OutOfMemoryError, UsageError
from platodef_cli.progress import SILENT
from platodef_cli.texts.names import MOST_REFERENCES

GB = 2**30
running = import_module("platodef_cli.audit.run")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of a kernel that has 8 GB free."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {8 * GB // 1024} kB\n")
    monkeypatch.setattr(module, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    return tmp_path


def container(system: Path, most: str, used: int, spare: int) -> None:
    (system / "memory.max").write_text(most + "\n")
    (system / "memory.current").write_text(f"{used}\n")
    (system / "memory.stat").write_text(f"anon 5\ninactive_file {spare}\nactive_file 7\n")


def test_the_smaller_of_machine_and_container(system: Path) -> None:
    assert free_memory() == 8 * GB
    container(system, str(4 * GB), 3 * GB, GB)
    assert free_memory() == 2 * GB
    container(system, "max", 3 * GB, GB)
    assert free_memory() == 8 * GB
    container(system, str(GB), 2 * GB, 0)  # for a moment it may have more than its limit
    assert free_memory() == 0


@pytest.mark.parametrize("text", ["", "MemAvailable:\n", "MemAvailable: x kB\n"])
def test_a_system_that_does_not_tell_stops_nobody(system: Path, text: str) -> None:
    (system / "meminfo").write_text(text)
    assert free_memory() is None
    check_room(1, 300)


def test_this_machine_tells() -> None:
    if not Path("/proc/meminfo").is_file():
        pytest.skip("no Linux")
    assert (free_memory() or 0) > 0


def test_the_last_encoder_may_take_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda: LEAST - 1)
    check_room(3, 3)
    with pytest.raises(
        OutOfMemoryError, match=r"0\.5 GB of memory are free after 2 of 3 encoders; give fewer"
    ):
        check_room(2, 3)


def test_an_audit_stops_before_the_kernel_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda: LEAST - 1)
    with (
        pytest.raises(OutOfMemoryError, match="after 1 of 3 encoders"),
        open_inputs(AuditConfig(model="builtin:clean", use_cache=False), SILENT),
    ):
        pass


def test_three_hundred_references_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    references = [str(tmp_path / str(number)) for number in range(300)]
    with pytest.raises(UsageError, match=f"300 references are more than {MOST_REFERENCES}"):
        AuditConfig(model="m", references=references)
    AuditConfig(model="m", references=references[:MOST_REFERENCES])


@pytest.mark.parametrize(("free", "told"), [(3 * GB, 0), (GB, 1), (None, 0)])
def test_an_audit_that_needs_more_than_is_free_says_so(
    free: int | None, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(running, "free_memory", lambda: free)
    running._warn_of_memory(SimpleNamespace(memory_mb=2048.0), SimpleNamespace(warn=warnings.append))
    assert len(warnings) == told
    assert all("takes about 2.0 GB of memory and 1.0 GB are free; a smaller" in line for line in warnings)
