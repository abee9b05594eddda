# pathlib alone would be most of the relay's start.
# ruff: noqa: PTH101, PTH104, PTH118, PTH119, PTH120
"""What gateway and relay do alike as processes: give up every right, and end with their executions.

Standard library only, for the relay starts without site-packages.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import socket
import stat

GRACE_S = 5.0
"""An execution may be without its supervisor for so long; one of a container gets another."""
POLL_S = 0.2
NICE = 10
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_LIMITS = {"RLIMIT_NOFILE": 512, "RLIMIT_CORE": 0, "RLIMIT_FSIZE": 128 << 20, "RLIMIT_DATA": 512 << 20}


def create(path: str, mode: int = 0o644) -> int:
    """Open a file to append to, made if need be; never through a link that somebody laid there."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def tell_pid(path: str) -> None:
    """Write down which process this is."""
    descriptor = create(path)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    os.close(descriptor)


def listen(place: str, uid: int, backlog: int = 128) -> socket.socket:
    """Return a socket that only one uid may connect to, put in place at once over any older one."""
    listener = socket.socket(socket.AF_UNIX)
    temporary = f"{place}.{os.getpid()}"
    # A long path would not fit into the address; the folder's descriptor makes it short.
    folder = os.open(os.path.dirname(place), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{os.path.basename(temporary)}")
        os.chmod(temporary, stat.S_IRUSR | stat.S_IWUSR)
        os.chown(temporary, uid, uid)
        listener.listen(backlog)
        os.rename(temporary, place)
    finally:
        os.close(folder)
    return listener


def drop(uid: int) -> None:
    """Become a user that has nothing, for good."""
    for name, wanted in _LIMITS.items():
        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1]
        value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(kind, (value, value))
    # Whatever a program makes it do, it is not at the expense of others.
    os.nice(NICE)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
            raise OSError(ctypes.get_errno(), "prctl")


class Watched:
    """An execution seen through two open files, which need no right any more."""

    def __init__(self, folder: str) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = os.open(os.path.join(folder, "shim.lock"), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._alone_since: float | None = None

    def is_over(self, now: float) -> bool:
        """Tell whether it ended, was removed, or has been without a supervisor for long."""
        if os.fstat(self._folder).st_nlink == 0 or self._has("exit.json"):
            return True
        if self._is_supervised():
            self._alone_since = None
            return False
        if self._alone_since is None:
            self._alone_since = now
        return now > self._alone_since + GRACE_S

    def _has(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except OSError:
            return False
        return True

    def _is_supervised(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        return False
