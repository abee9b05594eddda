"""The archive of an image: what of a tree and of a lab an execution may see, nobody's but root's."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from sandbox.image import choice, elf
from sandbox.lab import Root

FOLDERS: Mapping[str, tuple[str, ...]] = {
    "latex": ("etc/alternatives", "etc/fonts", "etc/texmf", "var/cache/fontconfig", "var/lib/texmf")
}
"""What an execution sees besides `/usr`."""
_TOP = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_MADE = {"dev": 0o755, "etc": 0o755, "in": 0o755, "lab": 0o755, "lab/bin": 0o755, "proc": 0o755, "sys": 0o755}
_MADE |= {"tmp": 0o1777, "work": 0o755}


def pack(file: IO[bytes], tree: Path, root: Root, packages: Sequence[str] = ()) -> None:
    """Write what an execution may see as one archive: nobody's but root's, and nothing setuid."""
    dropped = choice.left_out(tree, packages)
    of_tree = partial(_of_tree, tree, dropped)
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, mode in _MADE.items():
            _add_folder(archive, name, mode)
        for name in ("etc/passwd", "etc/group"):
            # Each execution has its own one mounted over it.
            archive.addfile(_owned_by_root(tarfile.TarInfo(name)))
        added = {"etc", "lab"}
        for name in [*_TOP, *FOLDERS.get(root.image, ())]:
            if (tree / name).is_symlink() or (tree / name).exists():
                _add_parents(archive, name, added)
                archive.add(tree / name, name, filter=of_tree)
        for inside, source in sorted(root.folders.items()):
            _add_parents(archive, inside.lstrip("/"), added)
            add_packages(archive, source, inside.lstrip("/"))
        for inside, target in sorted(root.links.items()):
            if not is_made_at_start(inside):
                link = tarfile.TarInfo(inside.lstrip("/"))
                link.type, link.linkname, link.mode = tarfile.SYMTYPE, target, 0o777
                archive.addfile(link)


def is_made_at_start(place: str) -> bool:
    """Tell whether a link lies below a folder that is empty at each start."""
    return PurePosixPath(place).is_relative_to("/tmp")  # noqa: S108 - inside, where it is the execution's own


def _add_parents(archive: tarfile.TarFile, name: str, added: set[str]) -> None:
    for parent in reversed(PurePosixPath(name).parents[:-1] if "/" in name else ()):
        if str(parent) not in added:
            _add_folder(archive, str(parent), 0o755)
            added.add(str(parent))


def _add_folder(archive: tarfile.TarFile, name: str, mode: int) -> None:
    folder = tarfile.TarInfo(name)
    folder.type, folder.mode = tarfile.DIRTYPE, mode
    archive.addfile(folder)


def _of_tree(tree: Path, dropped: frozenset[str], member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if choice.is_left_out(member.name, dropped):
        return None
    if member.islnk() and choice.is_left_out(member.linkname, dropped):
        # The other name of the same file stays out.
        member.type, member.size = tarfile.REGTYPE, (tree / member.name).stat().st_size
    if member.issym():
        member.linkname = choice.direct(tree, member.linkname, dropped)
        if not member.linkname:
            return None
    return _owned_by_root(member)


def add_packages(archive: tarfile.TarFile, source: Path, name: str) -> None:
    """Add a folder of packages without their tests, and its libraries without what only debuggers read."""
    if choice.is_test(name):
        return
    member = _owned_by_root(archive.gettarinfo(source, name))
    if member.isdir():
        archive.addfile(member)
        for place in sorted(source.iterdir()):
            add_packages(archive, place, f"{name}/{place.name}")
    elif member.isreg():
        with source.open("rb") as file:
            stripped = elf.strip(file) if ".so" in source.name else None
            if stripped:
                member.size = stripped.size
                archive.addfile(member, elf.Reader(file, stripped))
            else:
                file.seek(0)
                archive.addfile(member, file)
    else:
        archive.addfile(member)


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    # No program in an image may give rights; whoever may read a file may also be anybody.
    member.mode = (member.mode & 0o755) | 0o444 | (0o111 if member.isdir() else 0)
    return member
