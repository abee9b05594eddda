"""What a program printed, in pieces, while it is not yet collected."""

from __future__ import annotations

from dataclasses import dataclass

from fumehood.domain.ids import ExecutionId


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One piece of what an execution printed."""

    id: str
    """Made of the execution, its fence and the offset, so that a piece that is copied twice is one."""
    execution_id: ExecutionId
    fence: int
    offset: int
    """Where it begins, in bytes."""
    data: bytes
    """Whole characters where the program prints UTF-8; empty in the piece that marks the end."""
    at: float

    @property
    def end(self) -> int:
        """Where the next piece begins, in bytes."""
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A piece as it is shown."""

    place: int
    """Grows along everything that a run printed; who was cut off goes on after it."""
    execution_id: ExecutionId | None
    """None for the log of a baseline that an earlier direction measured."""
    offset: int | None
    """Where it begins, in bytes; None for the kept end of a log, which stands for all that came before."""
    text: str
    """What is no UTF-8 is shown by replacement characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """The last word on a run's output."""

    verdict: str
    """The execution's, or how the run's last attempt ended where nothing was executed."""
    exit_code: int | None = None
    truncated: bool = False
    """Whether the program printed more than is shown."""
