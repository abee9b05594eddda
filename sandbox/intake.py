"""What may come out of a workspace: regular files under declared globs, within caps; the rest is listed, with reasons.

The workspace was filled by a program that may be hostile. It is dead, and the volume is read-only and follows no
links; still every step goes through descriptors that never follow one.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fumehood.domain.execution import MIB, Artifact, Rejection
from sandbox.globs import Globs

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and signs, as Unicode counts them, that are drawn as nothing."""
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """How much may come out."""

    artifacts: int = 1000
    total_bytes: int = 1024 * MIB
    """As their sizes say, holes counted."""
    entries: int = 200_000
    """Things looked at, let out or not."""
    depth: int = 32
    name_bytes: int = 255
    path_bytes: int = 1024
    time_s: float = 300.0
    rejections: int = 1000
    """Rejections listed one by one; the last one counts the others."""


class Rules:
    """How things are looked at and opened, and what is refused; tests take one rule away to see that it matters."""

    def look(self, folder: int, raw: bytes) -> os.stat_result:
        """Return what a name stands for: of a link the link, never what it points to."""
        return os.stat(raw, dir_fd=folder, follow_symlinks=False)

    def open_folder(self, folder: int, raw: bytes) -> int:
        """Open a folder, never through a link."""
        return os.open(raw, _FOLDER, dir_fd=folder)

    def open_file(self, folder: int, raw: bytes) -> int:
        """Open a file, never through a link, and never waiting for a pipe's other end."""
        return os.open(raw, _FILE, dir_fd=folder)

    def bad_kind(self, found: os.stat_result) -> str:
        """Say why something is no regular file, or return an empty string."""
        if stat.S_ISREG(found.st_mode):
            return ""
        return _KINDS.get(stat.S_IFMT(found.st_mode), "not a regular file")

    def bad_name(self, name: str, path: str, caps: Caps) -> str:
        """Say why a name is refused, or return an empty string."""
        return _bad_name(name, path, caps)

    def bad_place(self, found: os.stat_result, device: int) -> str:
        """Say why a folder that is not on the workspace's own file system is refused, or return an empty string."""
        return "another file system" if found.st_dev != device else ""

    def bad_links(self, found: os.stat_result) -> str:
        """Say why a file that has other names is refused, or return an empty string."""
        return "it has more than one name (a hard link)" if found.st_nlink != 1 else ""

    def bad_size(self, found: os.stat_result) -> str:
        """Say why a file that is mostly holes is refused, or return an empty string."""
        is_sparse = found.st_blocks * 512 < found.st_size // 2 and found.st_size > MIB // 256
        return "it is sparse" if is_sparse else ""

    def fold(self, path: str) -> str:
        """Return the same text for all paths that are one on a file system that ignores upper and lower case."""
        return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


@dataclass(slots=True)
class _Walk:
    globs: Globs
    caps: Caps
    rules: Rules
    take: Callable[[str, int, os.stat_result], Artifact | str]
    clock: Callable[[], float]
    deadline: float
    artifacts: list[Artifact] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    unlisted: int = 0
    seen: int = 0
    folded: dict[str, str] = field(default_factory=dict)


def collect(
    workspace: Path,
    into: Path,
    patterns: Sequence[str],
    caps: Caps | None = None,
    *,
    owner: tuple[int, int] | None = None,
    clock: Callable[[], float] = time.monotonic,
    rules: Rules | None = None,
) -> tuple[tuple[Artifact, ...], tuple[Rejection, ...]]:
    """Copy what is declared and harmless from `workspace` to below `into`, and list the rest."""
    caps = caps or Caps()
    deadline = clock() + caps.time_s
    store = _Store(into, caps, owner, lambda: clock() > deadline)
    walk = _Walk(Globs(patterns), caps, rules or Rules(), store.take, clock, deadline)
    try:
        top = os.open(workspace, _FOLDER)
    except OSError as error:
        return (), (Rejection(path=".", reason=f"the workspace cannot be read ({error.strerror})"),)
    try:
        device = os.fstat(top).st_dev
        stopped = _walk(walk, top, "", device, 1)
    finally:
        os.close(top)
    if stopped:
        walk.rejected.append(Rejection(path=".", reason=stopped))
    if walk.unlisted:
        walk.rejected.append(Rejection(path=".", reason=f"{walk.unlisted} further things were not let out"))
    return tuple(walk.artifacts), tuple(walk.rejected)


def _walk(walk: _Walk, folder: int, prefix: str, device: int, depth: int) -> str:
    """Go through one folder; returns why the whole walk must stop, or an empty string."""
    for raw, name in _entries(folder, walk.caps.entries):
        walk.seen += 1
        if walk.seen > walk.caps.entries:
            return f"more than {walk.caps.entries} entries; the rest was not looked at"
        if walk.clock() > walk.deadline:
            return f"the walk took more than {walk.caps.time_s:g} s; the rest was not looked at"
        path = f"{prefix}{name}"
        if path == "lost+found":
            continue
        try:
            found = walk.rules.look(folder, raw)
        except OSError as error:
            _reject(walk, path, f"cannot be looked at ({error.strerror})")
            continue
        is_folder = stat.S_ISDIR(found.st_mode)
        is_link_on_the_way = stat.S_ISLNK(found.st_mode) and walk.globs.may_hold(path)
        is_wanted = walk.globs.may_hold(path) if is_folder else walk.globs.matches(path) or is_link_on_the_way
        if not is_wanted:
            continue
        reason = walk.rules.bad_name(name, path, walk.caps)
        if reason:
            _reject(walk, path, reason)
        elif not is_folder:
            _consider(walk, folder, raw, path, found)
        elif reason := walk.rules.bad_place(found, device):
            _reject(walk, path, reason)
        elif depth >= walk.caps.depth:
            _reject(walk, path, f"deeper than {walk.caps.depth} folders")
        else:
            stopped = _descend(walk, folder, raw, path, device, depth)
            if stopped:
                return stopped
    return ""


def _descend(walk: _Walk, folder: int, raw: bytes, path: str, device: int, depth: int) -> str:
    try:
        below = walk.rules.open_folder(folder, raw)
    except OSError as error:
        _reject(walk, path, f"cannot be opened ({error.strerror})")
        return ""
    try:
        return _walk(walk, below, f"{path}/", device, depth + 1)
    finally:
        os.close(below)


def _consider(walk: _Walk, folder: int, raw: bytes, path: str, found: os.stat_result) -> None:
    if reason := walk.rules.bad_kind(found):
        _reject(walk, path, reason)
        return
    if len(walk.artifacts) >= walk.caps.artifacts:
        _reject(walk, path, f"more than {walk.caps.artifacts} files")
        return
    if same := _same_name(walk, path):
        _reject(walk, path, f"differs from {same} only in upper and lower case")
        return
    try:
        descriptor = walk.rules.open_file(folder, raw)
    except OSError as error:
        _reject(walk, path, f"cannot be opened ({error.strerror})")
        return
    try:
        found = os.fstat(descriptor)
        rules = walk.rules
        if reason := rules.bad_kind(found) or rules.bad_links(found) or rules.bad_size(found):
            _reject(walk, path, reason)
            return
        taken = walk.take(path, descriptor, found)
    finally:
        os.close(descriptor)
    if isinstance(taken, str):
        _reject(walk, path, taken)
    else:
        walk.artifacts.append(taken)


def _same_name(walk: _Walk, path: str) -> str:
    """Return what has the same name but for upper and lower case, be it a file or a folder on the way to one."""
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        part = "/".join(parts[:depth])
        same = walk.folded.setdefault(walk.rules.fold(part), part)
        if same != part:
            return same
    return ""


@dataclass(slots=True)
class _Store:
    into: Path
    caps: Caps
    owner: tuple[int, int] | None
    is_over: Callable[[], bool]
    """Whether the time for the whole walk is up."""
    used: int = 0

    def take(self, path: str, descriptor: int, found: os.stat_result) -> Artifact | str:
        """Copy one file out; the reason when it is too large."""
        room = self.caps.total_bytes - self.used
        if found.st_size > room:
            return f"more than {self.caps.total_bytes} bytes in all"
        place = self.into / path
        self._make_folder(place.parent)
        temporary = place.with_name(f".intake.{secrets.token_hex(8)}")
        digest, size = hashlib.sha256(), 0
        target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with os.fdopen(target, "wb") as copy:
                # One byte more than it said it has would show that it grows.
                while chunk := os.read(descriptor, min(MIB, found.st_size + 1 - size)):
                    size += len(chunk)
                    if size > found.st_size:
                        return "changed while it was read"
                    if self.is_over():
                        return f"its copy was not done after {self.caps.time_s:g} s"
                    digest.update(chunk)
                    copy.write(chunk)
                if size != found.st_size:
                    return "changed while it was read"
                if self.owner:
                    os.fchown(copy.fileno(), *self.owner)
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
        self.used += size
        return Artifact(path=path, bytes=size, sha256=digest.hexdigest())

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            if self.owner:
                os.chown(folder, *self.owner)


def _entries(folder: int, most: int) -> Iterator[tuple[bytes, str]]:
    """Yield the names of a folder in a fixed order, without holding more of them than are ever looked at."""
    names: list[bytes] = []
    with os.scandir(folder) as listing:
        for entry in listing:
            names.append(os.fsencode(entry.name))
            if len(names) > most:
                break
    for raw in sorted(names):
        yield raw, os.fsdecode(raw)


def _reject(walk: _Walk, path: str, reason: str) -> None:
    if len(walk.rejected) >= walk.caps.rejections:
        walk.unlisted += 1
        return
    # What is shown of a bad name must not be able to do what the name was refused for.
    shown = path.encode("utf-8", "backslashreplace").decode("utf-8")
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in shown)
    walk.rejected.append(Rejection(path=shown[:1024], reason=reason))


def _bad_name(name: str, path: str, caps: Caps) -> str:
    try:
        size = len(name.encode("utf-8"))
        path_size = len(path.encode("utf-8"))
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if any(_is_unseen(char) for char in name):
        return "its name holds characters that cannot be seen"
    if unicodedata.normalize("NFC", name) != name:
        return "its name is not in Unicode's composed form"
    if "\\" in name or name in {"", ".", ".."}:
        return "its name means something else on other systems"
    if size > caps.name_bytes or path_size > caps.path_bytes:
        return "its name is too long"
    return ""


def _is_unseen(char: str) -> bool:
    kind = unicodedata.category(char)
    return kind in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} or (kind == "Zs" and char != " ") or char in _FILLERS
