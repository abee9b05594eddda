"""Reading a git repository's newest commit as a program's folder: nothing of it is checked out, and nothing of it runs.

An `https://` address is fetched without history, tags and submodules into a temporary place; a bare repository on this
machine is read where it lies. Files come out of git's own store, so that no hook, no filter and no large-file
service is ever asked, and no link is ever made.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fumehood.errors import BadInputError
from fumehood.services import draft_data, templates

MOST_FETCHED_BYTES = 256 * 1024 * 1024
"""Of a fetch, as it lies on the disk."""
FETCH_S = 180.0
POLL_S = 0.05
_LARGE_FILE = b"version https://git-lfs.github.com/spec/"
_QUIET = (
    *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "credential.helper="),
    *("-c", "http.followRedirects=false", "-c", "protocol.version=2", "-c", "gc.auto=0"),
)
_FILE, _PROGRAM = "100644", "100755"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a repository holds."""

    files: Mapping[str, bytes]
    left_out: tuple[str, ...]
    """A sentence for each file that was not taken."""


def is_one(source: str) -> bool:
    """Say whether a source names a repository by address, or is a bare one on this machine."""
    if "://" in source or source.startswith("git@"):
        return True
    place = Path(source)
    try:
        return (place / "HEAD").is_file() and (place / "objects").is_dir() and (place / "refs").is_dir()
    except OSError:  # a topic may be longer than a path
        return False


def read(source: str, *, protocols: str = "https") -> Taken:
    """Return the files of a repository's newest commit; `BadInputError` says why it cannot be had or is too large."""
    if "://" not in source and not source.startswith("git@"):
        return _files(Path(source), source)
    parts = urlsplit(source)
    if parts.scheme not in protocols.split(":"):
        raise BadInputError(f"A repository is given by an https:// address or as a folder, not as {source!r}.")
    if parts.username or parts.password:
        raise BadInputError("The repository's address holds a name or a password, which would be kept: leave it out.")
    with tempfile.TemporaryDirectory(prefix="fumehood-repository-") as scratch:
        place = Path(scratch) / "it.git"
        _fetch(source, place, protocols)
        return _files(place, source)


def _fetch(address: str, place: Path, protocols: str) -> None:
    """Clone one commit as a bare repository, and end it where it grows too large or takes too long."""
    words = ("clone", "--bare", "--depth=1", "--single-branch", "--no-tags", "--no-recurse-submodules", "--template=")
    log = place.with_name("log")
    with log.open("wb") as said:
        child = _start([*words, "--", address, str(place)], place.parent, protocols, said.fileno())
        ends = time.monotonic() + FETCH_S
        try:
            while child.poll() is None:
                if _size(place) > MOST_FETCHED_BYTES:
                    raise BadInputError(
                        f"The repository {address} has more than {MOST_FETCHED_BYTES // 2**20} MiB in its newest"
                        " commit, so no template is drafted from it."
                    )
                if time.monotonic() > ends:
                    raise BadInputError(f"The repository {address} was not fetched within {FETCH_S:g} s.")
                time.sleep(POLL_S)
        finally:
            child.kill()
            child.wait()
    if child.returncode:
        raise BadInputError(
            f"The repository {address} could not be fetched ({_last(log.read_bytes())}). Where this machine has no"
            " network, bring a clone of it here and give its folder."
        )


def _files(place: Path, source: str) -> Taken:
    listed = _ask(place, source, "ls-tree", "-r", "-l", "-z", "HEAD")
    wanted: dict[str, str] = {}
    left_out = []
    total = 0
    for line in filter(None, listed.split(b"\0")):
        about, _, raw = line.partition(b"\t")
        mode, _, sha, size = about.decode().split()
        path = raw.decode(errors="replace")
        if any(part.startswith(".") or templates.SKIPPED.fullmatch(part) for part in path.split("/")):
            continue
        if mode not in {_FILE, _PROGRAM}:
            left_out.append(f"{path!r} is a link or a repository of its own, and is left out.")
        elif not draft_data.PATH.fullmatch(path):
            left_out.append(f"{path!r} has a name that no template's file may have, and is left out.")
        else:
            total += int(size)
            wanted[path] = sha
    if len(wanted) > templates.MAX_FILES or total > templates.MAX_FILE_BYTES:
        most = f"{templates.MAX_FILES} files or {templates.MAX_FILE_BYTES // 2**20} MiB"
        raise BadInputError(f"The repository {source} has more than {most}, so no template is drafted from it.")
    files = dict(zip(wanted, _contents(place, source, list(wanted.values())), strict=True))
    for path in [path for path, content in files.items() if content.startswith(_LARGE_FILE)]:
        del files[path]
        left_out.append(f"{path!r} lies with a large-file service, which is not asked, and is left out.")
    return Taken(files=files, left_out=tuple(left_out))


def _contents(place: Path, source: str, shas: list[str]) -> list[bytes]:
    told = _ask(place, source, "cat-file", "--batch", said="".join(f"{sha}\n" for sha in shas).encode())
    found, at = [], 0
    for _ in shas:
        end = told.index(b"\n", at)
        size = int(told[at:end].split()[2])
        found.append(told[end + 1 : end + 1 + size])
        at = end + size + 2
    return found


def _ask(place: Path, source: str, *words: str, said: bytes = b"") -> bytes:
    try:
        done = subprocess.run(
            ["git", *_QUIET, "--git-dir", str(place.absolute()), *words],
            env=_environment(place, "none"),
            input=said,
            capture_output=True,
            timeout=FETCH_S,
        )
    except FileNotFoundError as error:
        raise _no_git() from error
    except subprocess.TimeoutExpired as error:
        raise BadInputError(f"The repository {source} was not read within {FETCH_S:g} s.") from error
    if done.returncode:
        raise BadInputError(f"The repository {source} cannot be read ({_last(done.stderr)}).")
    return done.stdout


def _start(words: list[str], home: Path, protocols: str, log: int) -> subprocess.Popen[bytes]:
    command = ["git", *_QUIET, *words]
    try:
        return subprocess.Popen(
            command, env=_environment(home, protocols), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    except FileNotFoundError as error:
        raise _no_git() from error


def _environment(home: Path, protocols: str) -> dict[str, str]:
    """Return what git finds: no settings, keys or helpers of anybody's, and no protocol but these."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ALLOW_PROTOCOL": protocols,
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/true",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "LC_ALL": "C",
    }


def _size(place: Path) -> int:
    total = 0
    # git puts its files elsewhere meanwhile, and removes the folder where it fails; a walk passes over what is gone.
    for folder, _, names in os.walk(place):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(folder) / name).lstat().st_size
    return total


def _last(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    told = lines[-1].removeprefix("fatal: ") if lines else "git said nothing"
    return "".join(one for one in told if one.isprintable())[:300].rstrip(".")


def _no_git() -> BadInputError:
    return BadInputError("There is no git on this machine to read the repository with: give a folder of its files.")
