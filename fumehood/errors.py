"""The errors of the platform.

FumehoodError                   anything this project raises on purpose
 ├─ BadInputError               the caller gave something unusable            exit 2
 ├─ NotFoundError               no such thing, for this caller                exit 2
 ├─ ConflictError               the thing is not in a state that allows this  exit 2
 ├─ MachineUnfitError           this machine cannot do it; says how to mend   exit 3
 │   ├─ SandboxUnavailableError the sandbox cannot apply what the spec asks   exit 3
 │   ├─ StoreUnavailableError   the database does not answer now              exit 3
 │   └─ ArtifactsUnavailableError the store of artifacts does not serve us now exit 3
 ├─ OverBudgetError             a quota or a budget refuses                   exit 4
 ├─ PolicyError                 the admin's policy refuses, or wants a person exit 4
 ├─ ModelUnavailableError       no usable answer from the model's side        exit 1
 ├─ WorkFailedError             the research itself ended badly               exit 1
 └─ TamperedError               a signature, hash or number does not hold     exit 1

A program that fails in the sandbox is a value (`Outcome`), never one of these.
"""

from __future__ import annotations


class FumehoodError(Exception):
    """Anything this project raises on purpose; `str(error)` is one clear sentence for a person."""

    exit_status = 1


class BadInputError(FumehoodError):
    """The caller gave something unusable."""

    exit_status = 2


class NotFoundError(FumehoodError):
    """There is no such thing, or not for this caller."""

    exit_status = 2


class ConflictError(FumehoodError):
    """The thing is not in a state that allows what was asked."""

    exit_status = 2


class MachineUnfitError(FumehoodError):
    """This machine cannot do it; `remedy` is the exact way to make it able."""

    exit_status = 3

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.remedy = remedy


class SandboxUnavailableError(MachineUnfitError):
    """The sandbox cannot apply what the spec asks, so nothing was started."""

    def __init__(self, message: str, *, remedy: str = "", reason: str = "unavailable") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class StoreUnavailableError(MachineUnfitError):
    """The database does not answer now; whether a commit under way came through is not known."""


class ArtifactsUnavailableError(MachineUnfitError):
    """The store of artifacts does not answer, or refuses us; nothing is lost, and the same may be asked again."""


class OverBudgetError(FumehoodError):
    """A quota or a budget refuses; `is_directions` says that it stops all of a direction, not one experiment.

    `cap` names whose cap it is, where a call of a model was refused: a word of `domain.caps.Cap`.
    """

    exit_status = 4

    def __init__(self, message: str = "", *, is_directions: bool = False, cap: str = "") -> None:
        super().__init__(message)
        self.is_directions = is_directions
        self.cap = cap


class PolicyError(FumehoodError):
    """The admin's policy refuses, or wants an admin to look first; the sentence names the rule."""

    exit_status = 4


class ModelUnavailableError(FumehoodError):
    """The model's side gave no usable answer.

    `retryable` says whether waiting may help, `mendable` whether a person can help, as with a key that is refused.
    """

    def __init__(self, message: str, *, retryable: bool = False, mendable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.mendable = mendable


class WorkFailedError(FumehoodError):
    """The research itself ended badly."""


class TamperedError(FumehoodError):
    """A signature, hash or number does not hold."""
