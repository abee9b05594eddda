"""What unpacked packages may not bring: code that runs unasked, and modules in the place of others."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import Distribution, distributions
from pathlib import Path

from fumehood.domain.extra_packages import normal
from fumehood.errors import BadInputError

_AT_START = frozenset({"sitecustomize", "usercustomize"})
_NO_MODULES = ("bin", "__pycache__")


def check(site: Path, lab: Path, own: Collection[str]) -> None:
    """Refuse packages that run code whenever Python starts, or hide modules of Python's `own` or of the lab.

    They lie last on the path of what runs an experiment's code, but before Python's own modules.
    """
    has = modules(lab)
    for place in sorted(site.iterdir()):
        module = place.name.split(".")[0]
        if place.suffix == ".pth" or module in _AT_START:
            why = f"would run code whenever Python starts ({place.name})"
        elif module in own and not _is_about(place):
            why = f"has a module {module}, which would hide Python's own"
        elif module in has and not _is_about(place):
            why = f"has a module {module}, which the lab has"
        else:
            continue
        raise BadInputError(f"The package {_owner(site, place)} {why}, so it is not taken.")


def modules(site: Path) -> frozenset[str]:
    """Return the names that can be imported from a folder of packages."""
    return frozenset(
        place.name.split(".")[0] for place in site.iterdir() if not _is_about(place) and place.name not in _NO_MODULES
    )


def packages(site: Path) -> list[str]:
    """Return `name==version` of every package in a folder."""
    return sorted(f"{_name(one)}=={one.version}" for one in distributions(path=[str(site)]))


def _is_about(place: Path) -> bool:
    return place.suffix in {".dist-info", ".egg-info"}


def _name(one: Distribution) -> str:
    return normal(one.metadata["Name"])


def _owner(site: Path, place: Path) -> str:
    for one in distributions(path=[str(site)]):
        if any(file.parts[0] == place.name or file.name == place.name for file in one.files or ()):
            return _name(one)
    return "that brings it"
