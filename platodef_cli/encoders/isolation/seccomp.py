"""A system call filter for the process of an isolated encoder (seccomp mode 2, ``seccomp(2)``).

Small enough to read: a classic BPF program that compares the number of every system call with a list. The
libraries for it need ``libseccomp`` of the operating system, which a plain installation does not bring.
"""

import ctypes
import errno
import os
import platform
import struct

from platodef_cli.encoders.isolation.syscalls import ALLOWED, FORBIDDEN, NUMBERS

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _JUMP_EQUAL, _JUMP_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_DENY, _ABSENT = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000  # the second numbering of x86-64, which would go round every comparison

Instruction = tuple[int, int, int, int]


def filter_system_calls(*, gpu: bool = False) -> str | None:
    """Filter the system calls of this process for good; call it before any thread exists.

    What is not allowed fails with EPERM. Threads can be made, processes cannot; signals reach this process
    only, and limits can be set for it only.

    Args:
        gpu: Drivers of GPUs use calls that nobody lists: then only what no encoder needs is forbidden.

    Returns:
        Why there is no filter, or None.
    """
    known = NUMBERS.get(platform.machine())
    if known is None:
        return f"there is no list of system calls for {platform.machine() or 'this machine'}"
    program = _program(*known, os.getpid(), gpu=gpu)
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(header), 0, 0):
        return os.strerror(ctypes.get_errno())
    return None


def _program(architecture: int, numbers: dict[str, int], own: int, *, gpu: bool) -> list[Instruction]:
    """Return the filter as (code, jump if true, jump if false, operand)."""
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _DENY),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _DENY),
        # glibc makes threads with clone where clone3 is absent; a filter cannot read the flags of clone3
        *_when(numbers["clone3"], [(_RETURN, 0, 0, _ABSENT)]),
        *_when(numbers["clone"], _if_argument(_JUMP_BITS, _CLONE_THREAD)),
        *_when(numbers["kill"], _if_argument(_JUMP_EQUAL, own)),
        *_when(numbers["tgkill"], _if_argument(_JUMP_EQUAL, own)),
        *_when(numbers["prlimit64"], _if_argument(_JUMP_EQUAL, 0)),
    ]
    listed, answer, otherwise = (FORBIDDEN, _DENY, _ALLOW) if gpu else (ALLOWED, _ALLOW, _DENY)
    for name in listed:
        if name in numbers:
            program += _when(numbers[name], [(_RETURN, 0, 0, answer)])
    return [*program, (_RETURN, 0, 0, otherwise)]


def _when(number: int, then: list[Instruction]) -> list[Instruction]:
    return [(_JUMP_EQUAL, 0, len(then), number), *then]


def _if_argument(comparison: int, operand: int) -> list[Instruction]:
    """Allow where the lower half of the first argument compares; numbers of processes and flags fit in it."""
    return [
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (comparison, 0, 1, operand),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
    ]
