"""What the process that answers may not do, and what keeps it from the one that asks. Standard library only.

Both are of one user in one container. The one that asks hides its memory; the one that answers gives up its rights
and can make no file, so that nothing it has read outlives it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
_CAPABILITIES = 0x20080522
_FILTER = 2
"""SECCOMP_MODE_FILTER."""
_LOAD, _IS, _HAS, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _END, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Where they stand in `struct seccomp_data`; an argument has eight bytes, the low half first."""
_MAKES = (os.O_CREAT, 0o20000000)
"""O_CREAT, and the bit of O_TMPFILE that is its own."""
_FOREIGN = 0x40000000
"""From here on, a number of x86_64 means a call of another table."""
_OPENAT2 = 437
_NEW = (425, 452, 463)
"""io_uring_setup, fchmodat2 and setxattrat: newer calls have one number everywhere."""
_LIMITS = {"x86_64": 302, "aarch64": 261}
"""prlimit64, which also tells what a limit is; its third argument is the new one."""
_CALLS = {
    "x86_64": (
        0xC000003E,
        {2: 1, 257: 2},
        (
            *(85, 83, 258, 133, 259, 88, 266, 86, 265, 82, 264, 316),
            *(90, 91, 268, 92, 93, 94, 260, 132, 235, 261, 280, 188, 189, 190, 76),
            *(49, 29, 68, 64, 240, 248, 249, 250, 141, 142, 144, 203, 251, 314),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        {56: 2},
        (
            *(34, 33, 36, 37, 38, 276, 52, 53, 54, 55, 88, 5, 6, 7, 45, 200, 194, 186, 190, 180, 217, 218, 219),
            *(140, 118, 119, 122, 30, 274),
        ),
    ),
}
"""By machine: the filter's word for it; the calls that open, with the place of their flags; and the calls that leave
something: files, folders, links and their new names; modes, owners, times and attributes; sockets, shared memory,
queues and keys; and what another process is given of the processors, which those that it starts are given too."""
_ENDS_WITHIN_S = 10.0


class ConfinementError(Exception):
    """This kernel or machine cannot keep a text from the process that answers; the message says what is missing."""


def hide() -> None:
    """Let no process of this user read this one's memory, environment or descriptors, and inherit its orphans."""
    _prctl(PR_SET_DUMPABLE, 0)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def give_up() -> None:
    """Give up every right, in this process and all that it starts: no capability, and no file can be made.

    Raises:
        ConfinementError: Where the kernel takes one of it, or where the asking process can still be looked into.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _drop_capabilities()
    _make_nothing()
    _find_closed(os.getppid())


def close() -> None:
    """Let no process that is forked from this one look into it, or leave something here for the next.

    Raises:
        ConfinementError: Where this process has memory that those forked from it would share.
    """
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    if shared := [line for line in maps if line.split()[1].startswith("rw") and line.split()[1].endswith("s")]:
        raise ConfinementError(f"Processes that answer would share memory: {shared[0]}")
    _prctl(PR_SET_DUMPABLE, 0)


def begin_anew(parent: int, kept: Collection[int]) -> None:
    """Be in a forked process what one is that was started by itself, with no open file but those that are `kept`.

    It has the rights that its parent has given up for both, and ends with it. Of a file that both had open each could
    find what the other did to it.

    Raises:
        ConfinementError: Where the parent has ended, or can be looked into.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ConfinementError("The process that starts those that answer has ended.")
    _prctl(PR_SET_DUMPABLE, 1)
    for descriptor in {int(place.name) for place in Path("/proc/self/fd").iterdir()} - set(kept):
        with suppress(OSError):
            os.close(descriptor)
    _find_closed(parent)


def _find_closed(pid: int) -> None:
    for name in ("mem", "environ", "fd/0"):
        with suppress(PermissionError):
            os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY))
            raise ConfinementError(f"/proc/{pid}/{name} of the process that asks can be read.")


def end_descendants(spared: int = 0) -> None:
    """End every process below this one but one, whatever it did to get away, and wait until none is left."""
    deadline = time.monotonic() + _ENDS_WITHIN_S
    while found := [pid for pid in _descendants() if pid != spared]:
        if time.monotonic() > deadline:
            raise ConfinementError("A process that answered could not be ended.")
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.001)


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        code = ctypes.get_errno()
        raise ConfinementError(f"The kernel refuses prctl {option} ({os.strerror(code)}).")


def _drop_capabilities() -> None:
    header, none = struct.pack("=Ii", _CAPABILITIES, 0), bytes(24)
    if _libc().capset(header, none):
        code = ctypes.get_errno()
        raise ConfinementError(f"The kernel refuses to drop capabilities ({os.strerror(code)}).")


def _make_nothing() -> None:
    code = b"".join(struct.pack("=HBBI", *one) for one in _program(platform.machine()))
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
    if _libc().prctl(PR_SET_SECCOMP, ctypes.c_ulong(_FILTER), program, 0, 0):
        raise ConfinementError(f"The kernel refuses a filter of calls ({os.strerror(ctypes.get_errno())}).")


def _program(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the filter: instructions of a code, two jumps and a number."""
    if machine not in _CALLS:
        raise ConfinementError(f"No filter of calls is known for {machine}.")
    architecture, openers, makers = _CALLS[machine]
    read_only = (_RETURN, 0, 0, _ERROR | errno.EROFS)
    told = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IS, 1, 0, architecture),
        (_RETURN, 0, 0, _END),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _FOREIGN),
        (_RETURN, 0, 0, _END),
        (_IS, 0, 1, _OPENAT2),
        (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
    ]
    for number in (*makers, *_NEW):
        told += [(_IS, 0, 1, number), read_only]
    unasked = (_LOAD, 0, 0, _ARGUMENTS + 8 * 2), (_IS, 1, 0, 0), read_only
    half = (_LOAD, 0, 0, _ARGUMENTS + 8 * 2 + 4), (_IS, 1, 0, 0), read_only, (_RETURN, 0, 0, _ALLOW)
    told += [(_IS, 0, len(unasked) + len(half), _LIMITS[machine]), *unasked, *half]
    for number, place in openers.items():
        flags = [(_LOAD, 0, 0, _ARGUMENTS + 8 * place)]
        for bit in _MAKES:
            flags += [(_HAS, 0, 1, bit), read_only]
        flags += [(_RETURN, 0, 0, _ALLOW)]
        told += [(_IS, 0, len(flags), number), *flags]
    return [*told, (_RETURN, 0, 0, _ALLOW)]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _descendants() -> list[int]:
    """Return the processes below this one, zombies too."""
    parents: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                fields = Path(entry.path, "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
                parents[int(entry.name)] = int(fields.split()[1])
    found, level = [], {os.getpid()}
    while level := {pid for pid, parent in parents.items() if parent in level}:
        found += sorted(level)
    return found
