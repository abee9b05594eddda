"""The driver `loop`: an ext4 image on a loop device, preallocated, so that its size and its count of files are hard."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fumehood.domain.execution import MIB, Input, Limits
from fumehood.errors import SandboxUnavailableError
from sandbox import kernel
from sandbox import limits as translate
from sandbox.storage import disk, layout
from sandbox.storage.driver import Home, Volume

PROGRAMS = "/usr/sbin:/sbin:/usr/bin:/bin"
NO_LOOPS = "there is no /dev/loop-control (modprobe loop; in a container, pass the host's /dev)"
_INODE = 256
_OPTIONS = "noinit_itable,nobarrier,errors=remount-ro"


def image_bytes(limits: Limits, inputs: Sequence[int]) -> int:
    """Return how large an image must be so that about `storage_mib` can be written beside the inputs."""
    files = translate.inodes(limits) + 2 * len(inputs)
    held, tables = layout.held(inputs), files * _INODE
    groups = -(-(translate.storage_bytes(limits) + held + tables) // (128 * MIB))
    # Each group has two bitmaps, and about every other one a copy of the superblock and its descriptors.
    size = translate.storage_bytes(limits) + held + tables + groups * 4 * layout.BLOCK + 64 * layout.BLOCK
    return -(-size // MIB) * MIB


class Loop:
    """One image for each workspace."""

    name = "loop"
    mechanism = "ext4 on a loop device, preallocated, with an inode limit"
    enforces = True

    def __init__(self, home: Home) -> None:
        self._home = home

    def missing(self) -> str:
        """Say why images cannot be made and mounted."""
        if shutil.which("mkfs.ext4", path=PROGRAMS) is None:
            return "mkfs.ext4 is not installed (apt-get install e2fsprogs)"
        return "" if Path("/dev/loop-control").exists() else NO_LOOPS

    def make(self, volume: Volume, limits: Limits, inputs: Sequence[Input]) -> None:
        """Make the image, mount it and fill it."""
        sizes, image = layout.sizes(inputs), self._image(volume.name)
        self._make_image(image, image_bytes(limits, sizes), translate.inodes(limits) + 2 * len(inputs))
        flags = kernel.NOSUID | kernel.NODEV | kernel.NOATIME
        attach_and_mount(self._home.locks, image, volume.target, "ext4", flags, _OPTIONS)
        layout.lay_out(volume.target, inputs, volume.uid)

    def gauge(self, volume: Volume) -> dict[str, Any]:
        """The volume is a file system of its own, so it tells the truth itself."""
        return statvfs_gauge(volume.target)

    def on_disk(self, name: str) -> int:
        """An image takes all its blocks at once."""
        return disk.taken(self._image(name))

    def remove(self, name: str) -> None:
        """Delete the image; its device let go of it with the mount."""
        self._image(name).unlink(missing_ok=True)

    def names(self) -> set[str]:
        """Every image carries the name of its execution."""
        return {path.stem for path in self._home.folder.glob("*.img")}

    def clear(self) -> None:
        """Workspaces share nothing."""

    def _image(self, name: str) -> Path:
        return self._home.folder / f"{name}.img"

    def _make_image(self, image: Path, size: int, files: int) -> None:
        image.unlink(missing_ok=True)
        with disk.locked(self._home.folder / disk.LOCK):
            disk.reserve(image, size)
        shape = f"-b {layout.BLOCK} -m 0 -I {_INODE} -N {files} -O ^has_journal,^resize_inode"
        how = "-q -F -E lazy_itable_init=1,nodiscard,root_owner=0:0"
        make_file_system(["mkfs.ext4", *shape.split(), *how.split(), str(image)])


def statvfs_gauge(target: Path) -> dict[str, Any]:
    """Return how to read what is left where the file system itself says so."""
    found = os.statvfs(target)
    return {"kind": "statvfs", "path": str(target), "free": found.f_bfree * found.f_frsize}


def make_file_system(command: list[str]) -> None:
    """Run one of mkfs's family, or raise with what it said."""
    done = subprocess.run(command, env={"PATH": PROGRAMS}, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise SandboxUnavailableError(f"The volume could not be made ({said}).", reason="no_volume")


def attach_and_mount(locks: Path, image: Path, target: Path, kind: str, flags: int, options: str) -> None:
    """Mount an image through a loop device that goes with the mount."""
    try:
        # Two installations must not be handed the same free device.
        with disk.locked(locks / "loop.lock"):
            device, used = kernel.attach(image)
        try:
            kernel.mount(device, target, kind, flags, options)
        finally:
            os.close(used)
    except OSError as error:
        # Which device helps whoever reads it; where our own image lies does not.
        device_name = f"{error.filename}: " if str(error.filename).startswith("/dev/") else ""
        raise SandboxUnavailableError(
            f"The volume cannot be mounted on a loop device ({device_name}{error.strerror}).",
            remedy="Start it as root where loop devices can be used (modprobe loop).",
            reason="no_loop",
        ) from error
