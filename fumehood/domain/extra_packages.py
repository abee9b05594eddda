"""Packages that a template asks for beside those of the lab, and the lab that is derived for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from fumehood.errors import BadInputError

SITE = "/lab/site-packages"
"""Where an execution finds the lab's packages, and first."""
EXTRA = "/lab/extra"
"""Where it finds those of a derived lab, after all others."""
REQUEST = "extra_packages.json"
"""The file among a direction's template files that says what its lab has more; its hash names that lab."""
WHEELS = "wheels/"
"""Where among those files the wheels are that were given as files."""
LAB = "lab"
_DERIVED = "lab-"
_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)"
    r"(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})*)"
)
_BARE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_WHEEL = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._]*)-(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_]*)(-\d[A-Za-z0-9._]*)?(-[A-Za-z0-9._]+){3}\.whl"
)


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """One package in one version."""

    name: str
    """As packages are compared by: lower case, words joined by `-`."""
    version: str
    hashes: tuple[str, ...] = ()
    """SHA-256 of the wheels that may be taken for it; any when empty."""

    @property
    def line(self) -> str:
        """The pin as pip reads it."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{sha}" for sha in self.hashes)])


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraPackages:
    """What a lab is to have beside its own packages."""

    pins: tuple[Pin, ...] = ()
    wheels: Mapping[str, str] = field(default_factory=dict)
    """File name to SHA-256."""

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote."""
        told = json.loads(data)
        return cls(pins=tuple(pin(line) for line in told["packages"]), wheels=dict(told["wheels"]))

    def to_json(self) -> bytes:
        """Return the same bytes for the same packages, in whatever order they were asked for."""
        told = {"packages": [one.line for one in sorted(self.pins)], "wheels": dict(sorted(self.wheels.items()))}
        return json.dumps(told, indent=2).encode() + b"\n"

    @property
    def names(self) -> frozenset[str]:
        """The names of the packages that were asked for, not of those that these need."""
        return frozenset({*(one.name for one in self.pins), *(of_wheel(name).name for name in self.wheels)})

    def __bool__(self) -> bool:
        return bool(self.pins or self.wheels)


def merged(pins: Iterable[Pin], wheels: Mapping[str, str]) -> ExtraPackages:
    """Return what is asked for once; `BadInputError` where a package is asked for twice, in two ways."""
    found: dict[str, Pin] = {}
    for one in pins:
        if found.setdefault(one.name, one) != one:
            raise BadInputError(f"The package {one.name} is asked for twice: {found[one.name].line} and {one.line}.")
    for name in wheels:
        wheel = of_wheel(name)
        if wheel.name in found:
            raise BadInputError(f"The package {wheel.name} is asked for twice: by its name, and as the wheel {name}.")
        found[wheel.name] = wheel
    as_files = {of_wheel(name).name for name in wheels}
    return ExtraPackages(pins=tuple(sorted(one for one in found.values() if one.name not in as_files)), wheels=wheels)


def pin(text: str) -> Pin:
    """Return a pin as a person wrote it; `BadInputError` where it does not name exactly one version."""
    told = _PIN.fullmatch(text.strip())
    if told is None:
        raise BadInputError(f"An extra package is given as NAME==VERSION, not {text.strip()!r}.")
    hashes = tuple(sorted(part.removeprefix("--hash=sha256:") for part in told["hashes"].split()))
    return Pin(normal(told["name"]), told["version"], hashes)


def pins(listed: Iterable[str]) -> tuple[Pin, ...]:
    """Return the pins of lists, parted by commas or spaces; a hash belongs to what stands before it."""
    parts = (part for text in listed for part in re.split(r",|\s+(?!\s*--hash=)", text.strip()))
    return tuple(pin(part) for part in parts if part.strip())


def is_pinned(entry: str) -> bool:
    """Tell whether an entry of a template's `packages` is one more than the lab's; a bare name is of the lab."""
    return not _BARE.fullmatch(entry)


def normal(name: str) -> str:
    """Return a package's name as names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def of_wheel(file_name: str) -> Pin:
    """Return the package that a wheel's name says it holds; `BadInputError` where it is no wheel's name."""
    told = _WHEEL.fullmatch(file_name)
    if told is None:
        raise BadInputError(
            f"{file_name} is not a wheel's name (NAME-VERSION-...-....whl): only wheels are taken, since anything else"
            " would run code of its own to be installed."
        )
    return Pin(normal(told["name"]), told["version"])


def image_of(template_files: Mapping[str, str]) -> str:
    """Return the image in which the code of a direction's experiments runs: the lab, or one derived from it."""
    return f"{_DERIVED}{template_files[REQUEST]}" if REQUEST in template_files else LAB


def request_of(image: str) -> str:
    """Return the hash of what a derived image was asked for; empty for every other one."""
    return image.removeprefix(_DERIVED) if image.startswith(_DERIVED) else ""
