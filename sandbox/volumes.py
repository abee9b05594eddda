"""The workspace of one execution: an ext4 image on a loop device, so that its size is hard.

Inside lie `work/`, owned by the execution's uid, and `in/`, owned by root and readable by that uid's group only.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fumehood.domain.execution import MIB, Input, Limits
from fumehood.errors import BadInputError, SandboxUnavailableError
from sandbox import kernel
from sandbox import limits as translate
from sandbox.installation import Installation

BLOCK = 4096
INODE = 256
RESERVE = 64 * MIB
"""What the host's disk always keeps for itself."""
_OPTIONS = "noinit_itable,nobarrier,errors=remount-ro"


def missing() -> str:
    """Say why volumes cannot be made here, or return an empty string."""
    if shutil.which("mkfs.ext4", path=_PATH) is None:
        return "mkfs.ext4 is not installed (apt-get install e2fsprogs)"
    if not Path("/dev/loop-control").exists():
        return "there is no /dev/loop-control (modprobe loop; in a container, pass the host's /dev)"
    return ""


_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


def image_bytes(limits: Limits, inputs: Sequence[int]) -> int:
    """Return how large an image must be so that about `storage_mib` can be written beside the inputs."""
    files = translate.inodes(limits) + 2 * len(inputs)
    held = sum(-(-size // BLOCK) * BLOCK + BLOCK for size in inputs)
    tables = files * INODE
    groups = -(-(translate.storage_bytes(limits) + held + tables) // (128 * MIB))
    # Each group has two bitmaps, and about every other one a copy of the superblock and its descriptors.
    size = translate.storage_bytes(limits) + held + tables + groups * 4 * BLOCK + 64 * BLOCK
    return -(-size // MIB) * MIB


def make(
    installation: Installation, name: str, target: Path, limits: Limits, inputs: Sequence[Input], uid: int
) -> None:
    """Make and mount the volume at `target` with the inputs in it; nothing is left behind when that fails."""
    sizes = [_size(item) for item in inputs]
    image = installation.make_folder(installation.volumes, mode=0o700) / f"{name}.img"
    try:
        _make_image(image, image_bytes(limits, sizes), translate.inodes(limits) + 2 * len(inputs))
        _attach_and_mount(installation.run_dir, image, target)
        lay_out(target, inputs, uid)
    except BaseException:
        remove(installation, name, target)
        raise


def make_plain(installation: Installation, name: str, target: Path, inputs: Sequence[Input], uid: int) -> None:
    """Make a workspace without a quota (storage driver `none`): a folder of the state, shown at `target`."""
    folder = installation.make_folder(installation.volumes, mode=0o700) / name
    try:
        folder.mkdir(mode=0o711)
        kernel.bind(folder, target, kernel.NOSUID | kernel.NODEV)
        lay_out(target, inputs, uid)
    except BaseException:
        remove(installation, name, target)
        raise


def lay_out(target: Path, inputs: Sequence[Input], uid: int) -> None:
    """Fill a fresh volume: `work/` and `in/`, and each input at its place once its hash was right."""
    target.chmod(0o711)
    with suppress(FileNotFoundError):
        (target / "lost+found").rmdir()
    for part, owner, mode in (("work", uid, 0o700), ("in", 0, 0o750)):
        (target / part).mkdir(mode=mode)
        (target / part).chmod(mode)
        _own(target / part, owner, uid)
    for item in inputs:
        own = item.path.startswith("work/")
        _make_parents(target, item.path, uid if own else 0, uid)
        mode = (0o600 if own else 0o440) | (0o110 if item.executable else 0)
        copy_checked(item, target / item.path, mode)
        _own(target / item.path, uid if own else 0, uid)


def copy_checked(item: Input, place: Path, mode: int) -> None:
    """Copy an input in, and refuse it when its bytes are not those that were promised."""
    digest = hashlib.sha256()
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as copy, Path(item.source).open("rb") as source:
            while chunk := source.read(MIB):
                digest.update(chunk)
                copy.write(chunk)
            os.fchmod(copy.fileno(), mode)
    except FileExistsError as error:
        raise BadInputError(f"Two inputs have the place {item.path}.") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise SandboxUnavailableError("The inputs do not fit the volume.", reason="no_space") from error
        raise BadInputError(f"The input {item.path} cannot be read from {item.source} ({error.strerror}).") from error
    if digest.hexdigest() != item.sha256:
        raise BadInputError(f"The input {item.path} is not the file it was said to be: its SHA-256 differs.")


def changed(target: Path, inputs: Sequence[Input]) -> list[str]:
    """Return the read-only inputs whose bytes are no longer those that were put there."""
    found = []
    for item in inputs:
        if item.path.startswith("in/"):
            try:
                with (target / item.path).open("rb") as file:
                    same = hashlib.file_digest(file, "sha256").hexdigest() == item.sha256
            except OSError:
                same = False
            if not same:
                found.append(item.path)
    return found


def freeze(target: Path, patience_s: float = 5.0) -> None:
    """Make a volume read-only, with no link followed; what ran in it must be dead."""
    flags = kernel.RDONLY | kernel.NOSUID | kernel.NODEV | kernel.NOEXEC | kernel.NOSYMFOLLOW
    plain = not any(mount.source.startswith("/dev/loop") for mount in kernel.mounts(target))
    deadline = time.monotonic() + patience_s
    while True:
        try:
            kernel.mount(target, target, "", flags | kernel.REMOUNT | (kernel.BIND if plain else 0))
            return
        except OSError as error:
            # The mount namespace of the dead outlives them by a moment.
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def remove(installation: Installation, name: str, target: Path) -> None:
    """Unmount and delete; nothing happens where nothing is."""
    unmount(target)
    (installation.volumes / f"{name}.img").unlink(missing_ok=True)
    shutil.rmtree(installation.volumes / name, ignore_errors=True)


def unmount(target: Path, patience_s: float = 5.0) -> None:
    """Unmount everything at and below a folder, waiting for what is just dying."""
    deadline = time.monotonic() + patience_s
    for mount in reversed(kernel.mounts(target)):
        while True:
            try:
                kernel.unmount(mount.target, lazily=time.monotonic() > deadline)
                break
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                time.sleep(0.005)


def _size(item: Input) -> int:
    try:
        found = Path(item.source).stat()
    except OSError as error:
        raise BadInputError(f"The input {item.path} cannot be read from {item.source} ({error.strerror}).") from error
    if not stat.S_ISREG(found.st_mode):
        raise BadInputError(f"The input {item.path} is not a regular file at {item.source}.")
    return found.st_size


def _make_image(image: Path, size: int, files: int) -> None:
    image.unlink(missing_ok=True)
    with _locked(image.parent / ".lock"):
        _reserve(image, size)
    shape = f"-b {BLOCK} -m 0 -I {INODE} -N {files} -O ^has_journal,^resize_inode"
    how = "-q -F -E lazy_itable_init=1,nodiscard,root_owner=0:0"
    command = ["mkfs.ext4", *shape.split(), *how.split(), str(image)]
    done = subprocess.run(command, env={"PATH": _PATH}, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise SandboxUnavailableError(f"The volume could not be made ({said}).", reason="no_volume")


def _reserve(image: Path, size: int) -> None:
    """Take the blocks of an image from the disk at once; where that is impossible, count what others may yet take."""
    disk = os.statvfs(image.parent)
    free = disk.f_bavail * disk.f_frsize - RESERVE
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if size <= free:
            if kernel.preallocate(descriptor, size):
                return
            promised = sum(_promised(other) for other in image.parent.glob("*.img"))
            if size + promised <= free:
                os.ftruncate(descriptor, size)
                return
            free -= promised
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(descriptor)
    image.unlink()
    raise SandboxUnavailableError(
        f"A volume of {size // MIB} MiB does not fit {image.parent}: {max(0, free) // MIB} MiB can be promised there.",
        remedy="Free space there, lower the storage limit, or run `fumehood sandbox reap`.",
        reason="no_space",
    )


def _promised(image: Path) -> int:
    with suppress(FileNotFoundError):
        found = image.stat()
        return max(0, found.st_size - found.st_blocks * 512)
    return 0


def _attach_and_mount(run_dir: Path, image: Path, target: Path) -> None:
    try:
        # Two installations must not be handed the same free device.
        with _locked(run_dir / "loop.lock"):
            device, used = kernel.attach(image)
        try:
            kernel.mount(device, target, "ext4", kernel.NOSUID | kernel.NODEV | kernel.NOATIME, _OPTIONS)
        finally:
            os.close(used)
    except OSError as error:
        raise SandboxUnavailableError(
            f"The volume cannot be mounted on a loop device ({error.filename or image}: {error.strerror}).",
            remedy="Start it as root where loop devices can be used (modprobe loop).",
            reason="no_loop",
        ) from error


def _make_parents(target: Path, path: str, owner: int, group: int) -> None:
    parts = path.split("/")[:-1]
    for depth in range(2, len(parts) + 1):
        folder = target.joinpath(*parts[:depth])
        if not folder.is_dir():
            folder.mkdir()
            folder.chmod(0o700 if owner else 0o750)
            _own(folder, owner, group)


def _own(path: Path, owner: int, group: int) -> None:
    # Without root there is one user only; the fake adapter lives with that, the local one refuses before.
    if os.geteuid() == 0:
        os.chown(path, owner, group)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
