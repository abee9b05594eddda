"""The arguments of bwrap: which namespaces, which folders, nothing else of the host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fumehood.domain.execution import Limits
from sandbox import limits as translate

INSIDE = 65532
"""Uid and gid that a program sees as its own; on the host it has another, drawn from the pool."""
PATH = "/lab/bin:/usr/bin:/bin"
STARTER = ("/bin/sh", "-c", 'echo >&3; exec 3>&- "$@"', "sandbox")
"""Says through descriptor 3 that the program begins now, then becomes it: what fails earlier is our own failure."""

_NAMESPACES = ("user", "ipc", "pid", "net", "uts", "cgroup")
_ETC = {
    "passwd": "root:x:0:0:root:/:/usr/sbin/nologin\nexp:x:65532:65532:exp:/work:/bin/sh\n",
    "group": "root:x:0:\nexp:x:65532:\n",
    "resolv.conf": "# no network\n",
}


def write_etc(folder: Path) -> None:
    """Write the three files of `/etc` that an execution sees."""
    for name, text in _ETC.items():
        place = folder / name
        if not place.exists() or place.read_text(encoding="utf-8") != text:
            temporary = folder / f".{name}"
            temporary.write_text(text, encoding="utf-8")
            temporary.chmod(0o644)
            temporary.replace(place)


def arguments(
    *,
    volume: Path,
    etc: Path,
    folders: Mapping[str, Path],
    links: Mapping[str, str],
    environment: Mapping[str, str],
    limits: Limits,
    egress: Path | None = None,
) -> list[str]:
    """Return everything that bwrap is told before the command."""
    told = [f"--unshare-{name}" for name in _NAMESPACES]
    told += ["--disable-userns", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    told += ["--uid", str(INSIDE), "--gid", str(INSIDE), "--hostname", "exp", "--clearenv"]
    for name, value in {"PATH": PATH, "HOME": "/work", "LANG": "C.UTF-8", **environment}.items():
        told += ["--setenv", name, value]
    told += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        told += _top(Path("/") / name)
    told += _folder("/etc")
    for name in _ETC:
        told += ["--ro-bind", str(etc / name), f"/etc/{name}"]
    for place, source in folders.items():
        for parent in reversed(Path(place).parents[:-1]):
            told += _folder(str(parent))
        told += ["--ro-bind", str(source), place]
    # The host's own settings are EACCES for the run's uid already; this makes them EROFS too.
    told += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--remount-ro", "/proc", "--dev", "/dev"]
    told += ["--size", str(translate.shared_memory_bytes(limits)), "--perms", "1777", "--tmpfs", "/dev/shm"]  # noqa: S108
    told += ["--size", str(translate.tmp_bytes(limits)), "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108
    for place, target in links.items():
        for parent in reversed(Path(place).parents[:-1]):
            told += _folder(str(parent))
        told += ["--symlink", target, place]
    told += ["--ro-bind", str(volume / "in"), "/in", "--bind", str(volume / "work"), "/work", "--chdir", "/work"]
    if egress:
        told += ["--ro-bind", str(egress), "/egress"]
    return [*told, "--remount-ro", "/dev", "--remount-ro", "/"]


def _folder(place: str) -> list[str]:
    # Parents that bwrap makes by itself are 0700.
    return ["--perms", "0755", "--dir", place]


def _top(place: Path) -> list[str]:
    if place.is_symlink():
        return ["--symlink", str(place.readlink()), str(place)]
    return ["--ro-bind", str(place), str(place)] if place.is_dir() else []
