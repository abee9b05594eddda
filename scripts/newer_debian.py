"""Single programs of a newer Debian than this machine's, unpacked into `.setup/bin`: nothing of the system is touched.

They are static, or need only the C library; `python3 -B scripts/newer_debian.py` fetches all of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from common import STAMPS, give_up, must_run, set_stamp, stamp, timed

SUITE = "trixie"
PROGRAMS = {
    "docker-compose": "usr/libexec/docker/cli-plugins/docker-compose",
    "kustomize": "usr/bin/kustomize",
}
"""Package, and where its program lies in it."""
FOLDER = STAMPS / "bin"
APT = Path("/etc/apt")


def ensure(*names: str) -> None:
    """Fetch the programs that are not there yet."""
    key = f"{SUITE} {' '.join(sorted(PROGRAMS))}"
    missing = [name for name in names or PROGRAMS if not (FOLDER / name).exists() or stamp("newer-debian") != key]
    if not missing:
        return
    mirror = _mirror()
    if not shutil.which("apt-get") or not mirror:
        give_up(
            f"{', '.join(missing)} come from Debian's packages, and this machine knows no mirror of Debian;",
            f"please put them into {FOLDER} another way",
        )
    what = f"{', '.join(missing)} of Debian {SUITE}, into {FOLDER.relative_to(STAMPS.parent)}"
    with timed(what), tempfile.TemporaryDirectory(prefix="fumehood-apt-") as place:
        _fetch(Path(place), mirror, missing)
    set_stamp("newer-debian", key)


def compose() -> Path:
    """Return Docker Compose v2: the plugin that the engine's command knows, else the one fetched here."""
    if shutil.which("docker"):
        asked = ["docker", "info", "--format", "{{range .ClientInfo.Plugins}}{{.Path}} {{end}}"]
        told = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
        for place in told.split():
            if Path(place).name == "docker-compose":
                return Path(place)
    ensure("docker-compose")
    return FOLDER / "docker-compose"


def _mirror() -> str:
    """Return where this machine gets Debian's packages from."""
    for place in [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*"))]:
        text = place.read_text(encoding="utf-8", errors="replace") if place.is_file() else ""
        for found in re.findall(r"^(?:URIs:|deb(?:\s+\[[^]]*\])?)\s+(\S+/debian)/?(?:\s|$)", text, re.MULTILINE):
            return str(found)
    return ""


def _fetch(place: Path, mirror: str, names: list[str]) -> None:
    for folder in ("lists/partial", "cache/archives/partial", "root"):
        (place / folder).mkdir(parents=True)
    (place / "status").touch()
    (place / "sources.list").write_text(f"deb {mirror} {SUITE} main\n", encoding="utf-8")
    settings = {"Dir::Etc::sourcelist": place / "sources.list", "Dir::Etc::sourceparts": "-"}
    settings |= {"Dir::State::lists": place / "lists", "Dir::State::status": place / "status"}
    settings |= {"Dir::Cache": place / "cache", "APT::Sandbox::User": "root" if os.geteuid() == 0 else ""}
    (place / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    environment = {**os.environ, "APT_CONFIG": str(place / "apt.conf")}
    must_run(["apt-get", "-q", "update"], f"reading what Debian {SUITE} has", env=environment)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        # apt checks signatures and hashes, as for any other package.
        command: list[str | Path] = ["sh", "-c", f"cd {place} && apt-get -q download {name}"]
        must_run(command, f"fetching {name}", env=environment)
        (package,) = place.glob(f"{name}_*.deb")
        must_run(["dpkg-deb", "-x", package, place / "root"], f"unpacking {name}")
        fresh = FOLDER / f".{name}"
        shutil.copy2(place / "root" / PROGRAMS[name], fresh)
        fresh.replace(FOLDER / name)


if __name__ == "__main__":
    ensure()
