"""Where Python packages come from, and what installs them: pip's settings handed on to uv, which does not read them."""

from __future__ import annotations

import configparser
import contextlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import system_packages
from common import STAMPS, must_run, set_stamp, stamp, timed

UV_VERSION = "0.13.9"
QUICK = ("--compile-bytecode",)
"""Else each process that is begun compiles what it imports anew, where it may not write that down."""


@dataclass(frozen=True, kw_only=True)
class PackageSources:
    """Where this machine gets packages from, as pip was told."""

    index: str = ""
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    certificates: str = ""
    no_index: bool = False

    def options(self) -> list[str]:
        """Return the same for uv's command line."""
        options = ["--no-index"] if self.no_index else []
        if self.index:
            options += ["--default-index", self.index]
        for place in self.extra_indexes:
            options += ["--index", place]
        for place in self.find_links:
            options += ["--find-links", place]
        for host in self.trusted_hosts:
            options += ["--allow-insecure-host", host]
        if self.extra_indexes:
            # pip takes the best version of all indexes; uv would stop at the first index that knows the name
            options += ["--index-strategy", "unsafe-best-match"]
        return options

    def environment(self) -> dict[str, str]:
        """Return the environment uv runs in: the certificates are those pip, else the system, was told to trust."""
        environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        if self.certificates:
            environment.setdefault("SSL_CERT_FILE", self.certificates)
        if "SSL_CERT_FILE" not in environment and Path("/etc/ssl/certs/ca-certificates.crt").exists():
            environment.setdefault("UV_SYSTEM_CERTS", "true")
        environment.setdefault("UV_HTTP_TIMEOUT", "180")
        environment.setdefault("UV_NO_PROGRESS", "1")
        return environment


def package_sources() -> PackageSources:
    """Read pip's settings files and PIP_ variables, the later ones over the earlier ones, as pip does."""
    told: dict[str, str] = {}
    home_config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    shared = [Path(folder) / "pip/pip.conf" for folder in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
    places = [*shared, Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", home_config / "pip/pip.conf"]
    named = os.environ.get("PIP_CONFIG_FILE", "")
    if named:
        # pip's own way to say "no settings files at all" is to name the null device
        places = [] if named == os.devnull else [*places, Path(named)]
    for place in places:
        parser = configparser.RawConfigParser()
        with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
            parser.read_string(place.read_text(encoding="utf-8"))
        for section in ("global", "install"):
            if parser.has_section(section):
                told |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    given = {name: value for name, value in os.environ.items() if name.startswith("PIP_") and value}
    told |= {name.removeprefix("PIP_").lower().replace("_", "-"): value for name, value in given.items()}
    return PackageSources(
        index=told.get("index-url", ""),
        extra_indexes=tuple(told.get("extra-index-url", "").split()),
        find_links=tuple(told.get("find-links", "").split()),
        trusted_hosts=tuple(told.get("trusted-host", "").split()),
        certificates=told.get("cert", ""),
        no_index=told.get("no-index", "").lower() in {"1", "true", "yes", "on"},
    )


def uv() -> Path:
    """Return uv, from the package index into a small environment of its own where it is not there yet."""
    program = STAMPS / "uv/bin/uv"
    if stamp("uv-version") == UV_VERSION and program.exists():
        return program
    system_packages.install(system_packages.venv_module(), "making Python environments")
    with timed(f"uv {UV_VERSION}, which installs Python packages, into .setup/uv"):
        folder = STAMPS / "uv"
        must_run([sys.executable, "-m", "venv", "--clear", folder], "making an environment for uv")
        pip = [folder / "bin/python", "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        must_run([*pip, f"uv=={UV_VERSION}"], "installing uv")
    set_stamp("uv-version", UV_VERSION)
    return program


def version_of(interpreter: Path) -> tuple[int, int] | None:
    """Return the version of an interpreter, or None where it does not start."""
    asked = [interpreter, "-Ic", "import sys; print(*sys.version_info[:2])"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError:
        return None
    if told.returncode:
        return None
    major, minor = told.stdout.split()
    return int(major), int(minor)


def interpreters(versions: tuple[tuple[int, int], ...]) -> list[Path]:
    """Return the interpreters of these versions; the system's own come first, since every sandbox sees /usr."""
    found: list[Path] = []
    names = [f"python{major}.{minor}" for major, minor in versions]
    candidates = [Path("/usr/bin") / name for name in names]
    candidates += [Path(sys.executable).resolve()]
    candidates += [Path(place) for name in names if (place := shutil.which(name))]
    for place in candidates:
        if place.exists() and place not in found and version_of(place) in versions:
            found.append(place)
    return found
