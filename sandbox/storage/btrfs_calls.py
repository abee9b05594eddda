"""The few system calls of btrfs: subvolumes, their quota groups, and what a file system is called."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

_SUBVOLUME_MAKE, _SUBVOLUME_DELETE = 0x5000940E, 0x5000940F
_LOOK_UP, _FILE_SYSTEM, _SYNC = 0xD0009412, 0x8400941F, 0x9408
_QUOTA, _GROUP_LIMIT = 0xC0109428, 0x8030942B
_ENABLE, _LIMITS_REFERENCED = 1, 1
_TOP_OF_SUBVOLUME = 256
"""The inode of every subvolume's own folder."""


def enable_quota(top: Path) -> None:
    """Have the file system count, and limit, what each subvolume refers to."""
    _call(top, _QUOTA, struct.pack("=QQ", _ENABLE, 0))


def make_subvolume(top: Path, name: str) -> int:
    """Make a subvolume; its number."""
    _call(top, _SUBVOLUME_MAKE, _named(name))
    return number(top / name)


def delete_subvolume(top: Path, name: str) -> None:
    """Delete a subvolume; the kernel gives its space back later."""
    _call(top, _SUBVOLUME_DELETE, _named(name))


def number(folder: Path) -> int:
    """Return the number of the subvolume that a folder belongs to."""
    told = _call(folder, _LOOK_UP, struct.pack("=QQ", 0, _TOP_OF_SUBVOLUME).ljust(4096, b"\0"))
    return int(struct.unpack_from("=Q", told)[0])


def limit(top: Path, subvolume: int, size: int) -> None:
    """Limit what a subvolume may refer to."""
    _call(top, _GROUP_LIMIT, struct.pack("=6Q", subvolume, _LIMITS_REFERENCED, size, 0, 0, 0))


def sync(top: Path) -> None:
    """Write everything down, and wake what drops deleted subvolumes."""
    _call(top, _SYNC, None)


def uuid(top: Path) -> str:
    """Return the name that a file system has below `/sys/fs/btrfs`."""
    told = _call(top, _FILE_SYSTEM, bytes(1024))[16:32].hex()
    return "-".join((told[:8], told[8:12], told[12:16], told[16:20], told[20:]))


def _named(name: str) -> bytes:
    return struct.pack("=q4088s", 0, os.fsencode(name))


def _call(folder: Path, request: int, told: bytes | None) -> bytearray:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        buffer = bytearray(told or b"")
        if told is None:
            fcntl.ioctl(descriptor, request)
        else:
            fcntl.ioctl(descriptor, request, buffer)
        return buffer
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    finally:
        os.close(descriptor)
