"""The driver `none`: a folder of the state with no quota, used only where it is asked for by name."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fumehood.domain.execution import Input, Limits
from sandbox import kernel
from sandbox.storage import layout
from sandbox.storage.driver import Home, Volume
from sandbox.storage.loop import statvfs_gauge


class Plain:
    """One folder for each workspace."""

    name = "none"
    mechanism = "not held: storage without a quota was asked for"
    enforces = False

    def __init__(self, home: Home) -> None:
        self._home = home

    def missing(self) -> str:
        """A folder can be made anywhere."""
        return ""

    def make(self, volume: Volume, limits: Limits, inputs: Sequence[Input]) -> None:  # noqa: ARG002 - it sets none
        """Make the folder, show it and fill it."""
        layout.sizes(inputs)
        show(self._folder(volume.name), volume.target)
        layout.lay_out(volume.target, inputs, volume.uid)

    def gauge(self, volume: Volume) -> dict[str, Any]:
        """What is left is what the disk has left."""
        return statvfs_gauge(volume.target)

    def on_disk(self, name: str) -> int:
        """Count what lies in the folder."""
        return tree_bytes(self._folder(name))

    def remove(self, name: str) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder(name), ignore_errors=True)

    def names(self) -> set[str]:
        """Every folder carries the name of its execution and this ending."""
        return {path.stem for path in self._home.folder.glob("*.none")}

    def clear(self) -> None:
        """Workspaces share nothing."""

    def _folder(self, name: str) -> Path:
        return self._home.folder / f"{name}.none"


def show(folder: Path, target: Path) -> None:
    """Make a folder and bind it to where executions are shown it."""
    folder.mkdir(mode=0o711)
    kernel.bind(folder, target, kernel.NOSUID | kernel.NODEV)


def tree_bytes(folder: Path) -> int:
    """Return the bytes that everything in a folder takes on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))
