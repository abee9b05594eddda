"""A root tree made of the distribution's packages, from the mirror that this machine itself uses."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fumehood.errors import SandboxUnavailableError

DEBOOTSTRAP = "debootstrap"
_PROGRAMS = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin"
_POCKETS = ("", "-updates", "-security")
_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)$")
# Nothing is synced, since an interrupted build is thrown away as a whole.
_DPKG = "force-unsafe-io\n" + "".join(
    f"path-exclude=/usr/share/{name}/*\n" for name in ("doc", "man", "info", "locale", "lintian")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One place that packages come from."""

    uri: str
    suite: str
    components: tuple[str, ...]
    keyring: str = ""


def codename(release: Path = Path("/etc/os-release")) -> str:
    """Return the suite that this machine runs, or raise where it is not of Debian's family."""
    try:
        lines = release.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    told = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    found = told.get("VERSION_CODENAME", "")
    if not found or not {told.get("ID"), *told.get("ID_LIKE", "").split()} & {"debian", "ubuntu"}:
        raise SandboxUnavailableError(
            "Images are built from the packages of Debian or Ubuntu, and this machine runs neither.",
            remedy="Build them from a base image of that family (python -m sandbox.image --base debian:bookworm-slim), "
            "load them from a machine that has them (docker save, docker load), or use --adapter local.",
            reason="no_image",
        )
    return found


def sources(suite: str, settings: Path = Path("/etc/apt")) -> list[Source]:
    """Return where this machine gets its own distribution's packages, the suite itself first."""
    found: list[Source] = []
    for place in [settings / "sources.list", *sorted((settings / "sources.list.d").glob("*"))]:
        if not place.is_file():
            continue
        text = place.read_text(encoding="utf-8", errors="replace")
        found += _stanzas(text) if place.suffix == ".sources" else _lines(text)
    wanted = [f"{suite}{pocket}" for pocket in _POCKETS]
    # Other people's packages use the same suite names, with components of their own.
    ours = [one for one in found if one.suite in wanted and "main" in one.components]
    ours.sort(key=lambda one: wanted.index(one.suite))
    if not ours or ours[0].suite != suite:
        raise SandboxUnavailableError(
            f"apt is not told where the packages of {suite} come from ({settings}).",
            remedy=f"Name a mirror of {suite} in {settings}/sources.list.",
            reason="no_image",
        )
    return ours


def require(path: str = _PROGRAMS) -> str:
    """Return where debootstrap is, or raise with the way to get it."""
    place = shutil.which(DEBOOTSTRAP, path=path)
    if place is None:
        raise SandboxUnavailableError(
            "Images are built with debootstrap, which is not installed.",
            remedy="Install it with: apt-get install --no-install-recommends debootstrap",
            reason="no_debootstrap",
        )
    return place


def make(tree: Path, packages: Sequence[str]) -> None:
    """Make a small root tree with these packages and every update that there is for it."""
    program, suite = require(), codename()
    places = sources(suite)
    _write_settings(tree)
    main = places[0]
    options = ["--variant=minbase", f"--include={','.join(packages)}", f"--components={','.join(main.components)}"]
    if main.keyring:
        options.append(f"--keyring={main.keyring}")
    # In a mount namespace of its own, so that no mount is left when it is killed.
    _run(["unshare", "--mount", program, *options, suite, str(tree), main.uri], "debootstrap")
    _write_sources(tree, places)
    apt(tree, "update")
    apt(tree, "upgrade")


def furnish(tree: Path, packages: Sequence[str]) -> None:
    """Bring the tree of a base image up to date and install packages of its own suite in it."""
    if not (tree / "usr" / "bin" / "apt-get").exists():
        raise SandboxUnavailableError(
            "The base image has no apt-get, with which packages are installed in it.",
            remedy="Name one of Debian's or Ubuntu's, such as debian:bookworm-slim.",
            reason="no_image",
        )
    suite = codename(tree / "etc" / "os-release")
    _write_settings(tree)
    _copy(tree, {"/etc/resolv.conf": "etc/resolv.conf"})
    try:
        places = sources(suite) if suite == codename() else []
    except SandboxUnavailableError:
        places = []
    if places:
        # This machine knows a mirror of the same suite that it reaches.
        for place in (tree / "etc" / "apt" / "sources.list.d").glob("*"):
            place.unlink()
    _write_sources(tree, places)
    apt(tree, "update")
    apt(tree, "upgrade")
    apt(tree, "install", *packages)


def apt(tree: Path, *words: str) -> None:
    """Run apt-get inside a tree, with this machine's own proxies and certificates."""
    chroot = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        f"--mount-proc={tree / 'proc'}",
        "chroot",
        str(tree),
    ]
    environment = ["env", "DEBIAN_FRONTEND=noninteractive", f"PATH={_PROGRAMS}"]
    told = ["-q", "-y", "--no-install-recommends", "-o", "APT::Sandbox::User=root", *_network()]
    _run([*chroot, *environment, "apt-get", *told, *words], f"apt-get {words[0]}")


def _network() -> list[str]:
    told = []
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, errors="replace").stdout
    for name, value in re.findall(r'^(Acquire::https?::Proxy[^ ]*) "(.+)";$', dumped, re.MULTILINE):
        told += ["-o", f"{name}={value}"]
    return [*told, "-o", "Acquire::https::CaInfo=/tmp/certificates.crt"]


def _write_sources(tree: Path, places: Sequence[Source]) -> None:
    lines = []
    for place in places:
        options = ""
        if place.keyring:
            copy = tree / place.keyring.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place.keyring, copy)
            options = f"[signed-by={place.keyring}] "
        lines.append(f"deb {options}{place.uri} {place.suite} {' '.join(place.components)}\n")
    if lines:
        (tree / "etc" / "apt" / "sources.list").write_text("".join(lines), encoding="utf-8")
    _copy(tree, {"/etc/hosts": "etc/hosts", "/etc/ssl/certs/ca-certificates.crt": "tmp/certificates.crt"})


def _write_settings(tree: Path) -> None:
    settings = tree / "etc" / "dpkg" / "dpkg.cfg.d" / "fumehood"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(_DPKG, encoding="utf-8")


def _copy(tree: Path, files: Mapping[str, str]) -> None:
    for host, inside in files.items():
        if Path(host).is_file():
            (tree / inside).unlink(missing_ok=True)
            shutil.copyfile(host, tree / inside)


def _run(command: list[str], what: str) -> None:
    begun = time.monotonic()
    # A person's path leaves out the folders in which some programs are that only root needs, such as `chroot`.
    command = ["env", f"PATH={_PROGRAMS}", *command]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if done.returncode:
        said = " ".join(line.strip() for line in done.stdout.splitlines()[-4:])
        raise SandboxUnavailableError(f"The image could not be built; {what} failed: {said}", reason="no_image")
    print(f"image: {what}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def _lines(text: str) -> list[Source]:
    found = []
    for line in text.splitlines():
        if told := _ONE_LINE.match(line.partition("#")[0].strip()):
            signed = re.search(r"signed-by=(/\S+)", told["options"] or "")
            components = tuple(told["components"].split())
            keyring = signed[1] if signed else ""
            found.append(Source(uri=told["uri"], suite=told["suite"], components=components, keyring=keyring))
    return found


def _stanzas(text: str) -> list[Source]:
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        told = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        if "deb" not in told.get("types", "").split() or told.get("enabled", "yes").lower() == "no":
            continue
        keyring = told.get("signed-by", "")
        found += [
            Source(
                uri=uri,
                suite=suite,
                components=tuple(told.get("components", "").split()),
                # A key may also stand in the file itself; the default ring then has to do.
                keyring=keyring if keyring.startswith("/") else "",
            )
            for uri in told.get("uris", "").split()
            for suite in told.get("suites", "").split()
        ]
    return found
