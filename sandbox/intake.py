"""What may come out of a workspace: regular files under declared globs, within caps; the rest is listed, with reasons.

The workspace was filled by a program that may be hostile. It is dead, and the volume is read-only and follows no
links; still every step goes through descriptors that never follow one.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import secrets
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fumehood.domain.execution import MIB, Artifact, Rejection
from fumehood.errors import BadInputError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
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
    entries: int = 200_000
    """Things looked at, let out or not."""
    depth: int = 32
    name_bytes: int = 255
    path_bytes: int = 1024
    time_s: float = 300.0
    rejections: int = 1000
    """Rejections listed one by one; the last one counts the others."""


class Globs:
    """Patterns relative to the workspace: `**` crosses folders, `*`, `?` and `[...]` do not."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [_segments(pattern) for pattern in patterns]

    def matches(self, path: str) -> bool:
        """Tell whether a file's path is declared."""
        parts = path.split("/")
        return any(_match(pattern, parts) for pattern in self._patterns)

    def may_hold(self, folder: str) -> bool:
        """Tell whether anything declared can lie below a folder."""
        parts = folder.split("/")
        return any(_leads(pattern, parts) for pattern in self._patterns)


@dataclass(slots=True)
class _Walk:
    globs: Globs
    caps: Caps
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
) -> tuple[tuple[Artifact, ...], tuple[Rejection, ...]]:
    """Copy what is declared and harmless from `workspace` to below `into`, and list the rest."""
    caps = caps or Caps()
    store = _Store(into, caps, owner)
    walk = _Walk(Globs(patterns), caps, store.take, clock, clock() + caps.time_s)
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


def check_patterns(patterns: Sequence[str]) -> None:
    """Refuse globs that could mean anything outside the workspace."""
    for pattern in patterns:
        _segments(pattern)


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
            found = os.stat(raw, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            _reject(walk, path, f"cannot be looked at ({error.strerror})")
            continue
        is_folder = stat.S_ISDIR(found.st_mode)
        is_link_on_the_way = stat.S_ISLNK(found.st_mode) and walk.globs.may_hold(path)
        is_wanted = walk.globs.may_hold(path) if is_folder else walk.globs.matches(path) or is_link_on_the_way
        if not is_wanted:
            continue
        reason = _bad_name(name, path, walk.caps)
        if reason:
            _reject(walk, path, reason)
        elif not is_folder:
            _consider(walk, folder, raw, path, found)
        elif found.st_dev != device:
            _reject(walk, path, "another file system")
        elif depth >= walk.caps.depth:
            _reject(walk, path, f"deeper than {walk.caps.depth} folders")
        else:
            stopped = _descend(walk, folder, raw, path, device, depth)
            if stopped:
                return stopped
    return ""


def _descend(walk: _Walk, folder: int, raw: bytes, path: str, device: int, depth: int) -> str:
    try:
        below = os.open(raw, _FOLDER, dir_fd=folder)
    except OSError as error:
        _reject(walk, path, f"cannot be opened ({error.strerror})")
        return ""
    try:
        return _walk(walk, below, f"{path}/", device, depth + 1)
    finally:
        os.close(below)


def _consider(walk: _Walk, folder: int, raw: bytes, path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        _reject(walk, path, _KINDS.get(stat.S_IFMT(found.st_mode), "not a regular file"))
        return
    if len(walk.artifacts) >= walk.caps.artifacts:
        _reject(walk, path, f"more than {walk.caps.artifacts} files")
        return
    same = walk.folded.setdefault(path.casefold(), path)
    if same != path:
        _reject(walk, path, f"differs from {same} only in upper and lower case")
        return
    try:
        descriptor = os.open(raw, _FILE, dir_fd=folder)
    except OSError as error:
        _reject(walk, path, f"cannot be opened ({error.strerror})")
        return
    try:
        found = os.fstat(descriptor)
        reason = _bad_file(found)
        if reason:
            _reject(walk, path, reason)
            return
        taken = walk.take(path, descriptor, found)
    finally:
        os.close(descriptor)
    if isinstance(taken, str):
        _reject(walk, path, taken)
    else:
        walk.artifacts.append(taken)


@dataclass(slots=True)
class _Store:
    into: Path
    caps: Caps
    owner: tuple[int, int] | None
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
    if any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} for char in name):
        return "its name holds characters that cannot be seen"
    if unicodedata.normalize("NFC", name) != name:
        return "its name is not in Unicode's composed form"
    if "\\" in name or name in {"", ".", ".."}:
        return "its name means something else on other systems"
    if size > caps.name_bytes or path_size > caps.path_bytes:
        return "its name is too long"
    return ""


def _bad_file(found: os.stat_result) -> str:
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    if found.st_nlink != 1:
        return "it has more than one name (a hard link)"
    if found.st_blocks * 512 < found.st_size // 2 and found.st_size > MIB // 256:
        return "it is sparse"
    return ""


def _segments(pattern: str) -> tuple[str | re.Pattern[str], ...]:
    parts = pattern.removeprefix("./").split("/")
    if not pattern or pattern.startswith("/") or any(part in {"", ".", ".."} for part in parts):
        raise BadInputError(f"A glob is relative to the workspace and stays in it; {pattern!r} does not.")
    return tuple("**" if part == "**" else re.compile(fnmatch.translate(part)) for part in parts)


def _match(pattern: Sequence[str | re.Pattern[str]], parts: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    first = pattern[0]
    if isinstance(first, str):
        # A last `**` means every file below, and needs at least one.
        if len(pattern) == 1:
            return bool(parts)
        return any(_match(pattern[1:], parts[skip:]) for skip in range(len(parts) + 1))
    return bool(parts) and first.match(parts[0]) is not None and _match(pattern[1:], parts[1:])


def _leads(pattern: Sequence[str | re.Pattern[str]], parts: Sequence[str]) -> bool:
    """Tell whether a folder with these parts may hold a match, being shorter than it."""
    for position, part in enumerate(parts):
        if position >= len(pattern):
            return False
        segment = pattern[position]
        if isinstance(segment, str):
            return True
        if segment.match(part) is None:
            return False
    return len(pattern) > len(parts)
