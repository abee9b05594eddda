"""One container's life: what is asked of it, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fumehood.errors import BadInputError

NAME = re.compile(r"fh-[0-9a-hjkmnp-tv-z]{26}\Z")
"""`fh-` and the 26 lower-case Crockford characters of the execution's ULID."""

MIB = 1024 * 1024
MAX_ARTIFACTS, MAX_ARTIFACT_BYTES = 1000, 1024 * MIB
"""What may come out where nothing else is said."""


LLM = "llm"
"""The capability whose upstream is the platform's own gateway of models."""


class Kind(StrEnum):
    """What a container job is for."""

    PREPARE = "prepare"
    RUN = "run"
    QUERY = "query"
    EVALUATE = "evaluate"
    RESUME = "resume"
    """A stretch of a run's training once more, from a checkpoint that it left."""
    COMPARE = "compare"
    """What a run wrote down while it trained beside what its checkpoints answer and what a stretch once more gave."""
    PLOT = "plot"
    COMPILE = "compile"


class Verdict(StrEnum):
    """How an execution ended; exactly one."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_STORAGE = "out_of_storage"
    TOO_MANY_PROCESSES = "too_many_processes"
    TOO_MUCH_OUTPUT = "too_much_output"
    CANCELLED = "cancelled"
    LOST = "lost"
    """The platform could not run it; retried by the platform, never charged to the idea's attempts."""


class ExecutionState(StrEnum):
    """Where an execution stands."""

    WANTED = "wanted"
    LAUNCHED = "launched"
    ENDED = "ended"
    COLLECTED = "collected"
    REMOVED = "removed"


EXECUTION_MOVES: Mapping[ExecutionState, frozenset[ExecutionState]] = {
    ExecutionState.WANTED: frozenset({ExecutionState.LAUNCHED, ExecutionState.COLLECTED}),
    ExecutionState.LAUNCHED: frozenset({ExecutionState.WANTED, ExecutionState.ENDED, ExecutionState.COLLECTED}),
    ExecutionState.ENDED: frozenset({ExecutionState.COLLECTED, ExecutionState.WANTED}),
    ExecutionState.COLLECTED: frozenset({ExecutionState.REMOVED, ExecutionState.WANTED}),
    ExecutionState.REMOVED: frozenset(),
}
"""The allowed moves. Back to `wanted` is a `lost` execution tried again with a higher fence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The hard limits of one execution. Every one is enforced, or the execution does not start."""

    wall_s: float = 7200.0
    memory_mib: int = 4096
    processes: int = 256
    storage_mib: int = 1024
    """Everything writable under `/work`, in MiB; also the largest single file."""
    cpus: float = 2.0
    output_bytes: int = 1024 * 1024
    """Standard output and error together, in bytes."""

    def __post_init__(self) -> None:
        """Refuse values that no adapter can mean."""
        for name in self.__slots__:
            _check_range(name, getattr(self, name))


RANGES: Mapping[str, tuple[float, float]] = {
    "wall_s": (0.1, 30 * 86400.0),
    "memory_mib": (16, 4 * 1024 * 1024),
    "processes": (1, 65536),
    "storage_mib": (4, 4 * 1024 * 1024),
    "cpus": (0.05, 1024.0),
    "output_bytes": (1024, 1024 * MIB),
    "artifacts": (0, 1_000_000),
    "artifact_bytes": (0, 1024 * 1024 * MIB),
}
"""What each limit can be at all; an admin's ceilings lie inside."""


def _check_range(name: str, value: object) -> None:
    low, high = RANGES[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise BadInputError(f"The limit {name} must be a number from {low} to {high}, not {value!r}.")
    if isinstance(low, int) and not isinstance(value, int):
        raise BadInputError(f"The limit {name} must be a whole number, not {value!r}.")


STORAGE = ("quota", "none", "loop", "btrfs", "xfs")
"""A hard size by the installation's own driver, none at all, or a hard size by a driver that is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One file that the execution reads: `path` below `/in` or `/work`, and where its bytes lie."""

    path: str
    """Relative to the sandbox's root, such as `in/data/circle.npz` or `work/experiment.py`."""
    sha256: str
    source: str
    """Absolute path of a readable file on the host; its hash is checked while it is copied in."""
    executable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What is asked of the sandbox. The same name with the same spec is the same execution."""

    name: str
    kind: Kind
    command: tuple[str, ...]
    image: str
    """`lab` or `latex`: which set of programs the execution sees."""
    inputs: tuple[Input, ...] = ()
    collect: tuple[str, ...] = ()
    """Globs below `/work` of what may come out; `**` crosses folders, `*` does not."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The whole environment besides PATH, HOME and LANG."""
    limits: Limits = field(default_factory=Limits)
    network: str = "none"
    """`none`, or `allow:NAME,...` of capabilities."""
    gpus: tuple[str, ...] = ()
    storage: str = "quota"
    """One of `STORAGE`; what held it stands in the outcome and in every record."""
    fence: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    max_artifacts: int = MAX_ARTIFACTS
    max_artifact_bytes: int = MAX_ARTIFACT_BYTES

    @property
    def has_data(self) -> bool:
        """Whether its workspace has a `data` folder, which it then finds at `/data` too, where `../../data` leads."""
        return any(item.path.startswith("work/data/") for item in self.inputs)

    def __post_init__(self) -> None:
        """Refuse what could name a foreign thing."""
        if not NAME.fullmatch(self.name):
            raise BadInputError(f"An execution's name is fh- and 26 characters of a ULID, not {self.name!r}.")
        if not self.command:
            raise BadInputError("An execution needs a command.")
        if self.storage not in STORAGE:
            raise BadInputError(f"Storage is one of {', '.join(STORAGE)}, not {self.storage!r}.")
        _check_range("artifacts", self.max_artifacts)
        _check_range("artifact_bytes", self.max_artifact_bytes)
        for item in self.inputs:
            parts = item.path.split("/")
            if parts[0] not in {"in", "work"} or len(parts) < 2 or any(part in {"", ".", ".."} for part in parts):
                raise BadInputError(f"An input must lie below in/ or work/, not at {item.path!r}.")


def granted_names(network: str) -> tuple[str, ...]:
    """Return the names of the capabilities that a spec's `network` asks for; none for what asks for no capability."""
    kind, _, names = network.partition(":")
    return tuple(names.split(",")) if kind == "allow" else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A regular file that came out of the sandbox."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Something in the workspace that was not let out, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """One request of a program to a network capability, and how it was answered."""

    method: str
    capability: str
    """Empty where none was named."""
    path: str
    status: int
    bytes: int
    cached: bool
    """Whether the answer was found on disk and nothing went up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an execution used."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_mib: float = 0.0
    peak_storage_mib: float = 0.0
    gpu_s: float = 0.0
    told_gpu_memory_mib: float = 0.0
    """The most of a GPU's memory, as the program says it itself: no gauge of ours sees it. 0 where it says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The execution has not ended."""

    started_at: float | None
    """Unix time, or None before the program itself began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The execution ended; `verdict` is final."""

    verdict: Verdict
    exit_code: int | None
    started_at: float | None
    ended_at: float
    usage: Usage
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What an execution computed on, as exactly as it changes what it comes to; empty where that is not known."""

    processor: str = ""
    """Its model, and the instructions that libraries choose their arithmetic by."""
    gpu: str = ""
    """Models and driver: of its own GPUs or, where it has none, of those that others of its worker are given."""

    @property
    def has_one_kind(self) -> bool:
        """Whether all those GPUs are of one model, so that it is known which an execution will get."""
        return bool(self.gpu) and " + " not in self.gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an execution: how it ended, what it used, what it left."""

    name: str
    verdict: Verdict
    exit_code: int | None
    usage: Usage
    output_tail: str
    truncated: bool
    artifacts: tuple[Artifact, ...]
    rejected: tuple[Rejection, ...]
    image: str
    """The digest or content hash of what the execution saw."""
    device: Device = Device()
    isolation: Mapping[str, str] = field(default_factory=dict)
    """Promise (`S1` ...) to the mechanism that held it."""
    detail: str = ""
    storage: str = ""
    """The driver that held the size of its workspace; `none` where nothing did."""
    egress: tuple[Egress, ...] = ()
    """Every request to a network capability, also those that were refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """Whether an adapter holds one promise here, and by what."""

    promise: str
    held: bool
    mechanism: str
