"""The few system calls that Python's library lacks: mounts, loop devices and preallocation."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, NOSYMFOLLOW, NOATIME, BIND = 1, 2, 4, 8, 32, 256, 1024, 4096
DETACH = 2

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_AUTOCLEAR = 4
_LOOP_MAJOR = 7
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system, as the kernel lists it."""

    source: str
    target: Path
    is_whole: bool = True
    """Whether it shows the file system's top, and not only a folder of it."""


def mount(source: Path, target: Path, kind: str, flags: int, options: str = "") -> None:
    """Mount, or raise OSError naming the target."""
    arguments = (os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())
    if _libc.mount(*arguments):
        _raise(target)


def bind(source: Path, target: Path, flags: int) -> None:
    """Show a folder at a second place, with flags of its own."""
    mount(source, target, "", BIND)
    mount(source, target, "", BIND | REMOUNT | flags)


def unmount(target: Path, *, lazily: bool = False) -> None:
    """Unmount; nothing happens where nothing is mounted."""
    if _libc.umount2(os.fsencode(target), DETACH if lazily else 0) and ctypes.get_errno() not in {
        errno.EINVAL,
        errno.ENOENT,
    }:
        _raise(target)


def mounts(below: Path) -> list[Mount]:
    """Return what is mounted below a folder, innermost last."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(" ")
        target = Path(_unescape(fields[4]))
        if below == target or below in target.parents:
            found.append(Mount(_unescape(fields[fields.index("-") + 2]), target, fields[3] == "/"))
    return found


def file_system(place: Path) -> tuple[str, tuple[str, ...]]:
    """Return the kind of the file system that a place lies on, and the options it has as a whole."""
    fields = _holding(place)
    end = fields.index("-")
    return fields[end + 1], tuple(fields[end + 3].split(","))


def device(place: Path) -> Path:
    """Return the device of the file system that a place lies on."""
    fields = _holding(place)
    return Path(_unescape(fields[fields.index("-") + 2]))


def preallocate(descriptor: int, size: int) -> bool:
    """Reserve a file's blocks at once; False where the file system has no way to, ENOSPC where it has no room."""
    if _libc.fallocate(descriptor, 0, ctypes.c_long(0), ctypes.c_long(size)) == 0:
        return True
    if ctypes.get_errno() in {errno.EOPNOTSUPP, errno.ENOSYS}:
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def attach(image: Path) -> tuple[Path, int]:
    """Show an image as a loop device that lets go of itself when its last user does; the device and that first use."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(50):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            device = Path(f"/dev/loop{number}")
            if not device.exists():
                os.mknod(device, 0o600 | 0o060000, os.makedev(_LOOP_MAJOR, number))
            descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(descriptor, _LOOP_CONFIGURE, _configuration(backing, image))
                return device, descriptor
            except OSError as error:
                os.close(descriptor)
                # Someone who does not hold our lock took it between the two calls.
                if error.errno != errno.EBUSY:
                    raise
        raise OSError(errno.EBUSY, "no free loop device after 50 tries")
    finally:
        os.close(backing)
        os.close(control)


def loops(below: Path) -> dict[Path, Path]:
    """Return the loop devices that show a file below a folder, with that file."""
    found = {}
    for place in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            shown = Path(place.read_text(encoding="utf-8", errors="surrogateescape").strip().removesuffix(" (deleted)"))
        except OSError:
            continue
        if below in shown.parents:
            found[Path("/dev") / place.parts[3]] = shown
    return found


def _holding(place: Path) -> list[str]:
    found = place.stat().st_dev
    number = f"{os.major(found)}:{os.minor(found)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(" ")
        if fields[2] == number:
            return fields
    # Its file system has a number of its own for each subvolume, as btrfs does.
    return ["", "", number, "/", "/", "", "-", "another file system", "none", ""]


def _configuration(backing: int, image: Path) -> bytearray:
    # struct loop_config: the file, the block size, struct loop_info64, eight reserved words.
    info = struct.pack("=5Q4I64s64s32s2Q", 0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR, os.fsencode(image)[-63:], b"", b"", 0, 0)
    return bytearray(struct.pack("=2I", backing, 0) + info + bytes(64))


def _unescape(text: str) -> str:
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")


def _raise(target: Path) -> None:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), str(target))
