"""What a storage driver is asked for: a workspace with a hard size, and how the supervisor reads what is left of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fumehood.domain.execution import Input, Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where drivers keep things."""

    folder: Path
    """On the disk of the state folder; private."""
    pool: Path
    """Where a pool is mounted; no execution can reach it."""
    locks: Path
    """Shared by all installations of this host."""
    pool_mib: int = 0
    """How large a pool is made; 0 leaves it to the driver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One execution's workspace: its name, where it is shown, and the host user who may write to it."""

    name: str
    target: Path
    uid: int


class Driver(Protocol):
    """Makes workspaces of a hard size.

    Every verb but `make` may be repeated, and does nothing where nothing is.
    """

    name: str
    mechanism: str
    """What holds S5, for a person."""
    enforces: bool

    def missing(self) -> str:
        """Say why it cannot be used here, or return an empty string; a probe proves the rest."""
        ...

    def make(self, volume: Volume, limits: Limits, inputs: Sequence[Input]) -> None:
        """Make the workspace, show it at its target and lay the inputs out in it.

        Raises:
            SandboxUnavailableError: `no_space` when other volumes of this installation hold the room,
                `disk_full` when something else does, `too_large` when it could never fit.
            BadInputError: An input is not what it was said to be.

        Whatever it raises, the caller removes what was begun.
        """
        ...

    def gauge(self, volume: Volume) -> dict[str, Any]:
        """Return, as plain data, how a supervisor reads what is left; see `sandbox.supervisor.left`."""
        ...

    def on_disk(self, name: str) -> int:
        """Return the bytes that the host's disk lost, or promised, to the workspace and to what it shares."""
        ...

    def remove(self, name: str) -> None:
        """Delete the workspace, which is shown nowhere any more."""
        ...

    def names(self) -> set[str]:
        """Return the names of all workspaces that it holds."""
        ...

    def clear(self) -> None:
        """Give back what workspaces share, when there is none."""
        ...
