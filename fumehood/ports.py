"""What the services need from the world, as protocols; adapters carry the technology in their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel

from fumehood.domain.admission import Admission
from fumehood.domain.audit import AuditEntry
from fumehood.domain.catalogue import Entry
from fumehood.domain.direction import Direction
from fumehood.domain.execution import Capability, Ended, Outcome, Running, Spec
from fumehood.domain.experiment import Execution, Experiment, Run
from fumehood.domain.feedback import Feedback
from fumehood.domain.figures import Figures
from fumehood.domain.idea import Idea
from fumehood.domain.ids import DirectionId, ExecutionId, TenantId
from fumehood.domain.ledger import CallText, Claims, LedgerEntry, ModelCall
from fumehood.domain.literature import Hit, Work
from fumehood.domain.log import Leaf, TreeHead
from fumehood.domain.machine import Lease, Peak
from fumehood.domain.output import Output
from fumehood.domain.quota import Balance
from fumehood.domain.reply import Reply
from fumehood.domain.step import Event, Side, Step
from fumehood.domain.tenant import Key, Switch, Tenant
from fumehood.domain.token import Revocation
from fumehood.domain.worker import Worker

T = TypeVar("T")
Shape = TypeVar("Shape", bound=BaseModel)


class Sandbox(Protocol):
    """Runs untrusted programs inside hard limits, or refuses.

    A program's failure is a value (`Outcome`). The only error an adapter raises for its own sake is
    `SandboxUnavailableError`: a limit that this machine cannot apply, an engine that does not answer.
    State lives in the engine and in `STATE_DIR/executions/<name>/{spec,intent,exit}.json`, never in memory:
    every verb may be called from another process than the one that launched, and after any crash.
    """

    def launch(self, spec: Spec) -> None:
        """Start the execution and return at once; a second launch of the same spec adopts the first.

        Intent is written before effect. Raises `SandboxUnavailableError` when a limit cannot be applied, and
        `ConflictError` when the name is taken by another spec; nothing is left behind in either case. Waiting helps
        where the reason is `no_space`: executions of this installation hold the room. It may with `disk_full`, where
        something else does, and never with `too_large`.
        """

    def inspect(self, name: str) -> Running | Ended:
        """Tell from the engine and the state folder whether it ended and how; `NotFoundError` when unknown."""

    def follow(self, name: str, offset: int = 0) -> bytes:
        """Return what the program printed from byte `offset` on; also after the end."""

    def stop(self, name: str, reason: str) -> None:
        """End the whole process tree; `reason` (a verdict's value) is stored before the signal. Idempotent."""

    def collect(self, name: str, into: Path) -> Outcome:
        """Let the declared regular files out, below `into`, and tell what came of it. Repeatable.

        Raises `ConflictError` while it runs.
        """

    def remove(self, name: str) -> None:
        """Leave nothing of it: processes, mounts, volumes, cgroups, state. Idempotent."""

    def reap(self, older_than_s: float = 0.0, keep: Sequence[str] = ()) -> tuple[str, ...]:
        """Remove what belongs to this installation and is not in `keep`; return the names removed.

        What is younger than `older_than_s` stays, but for what no row stands for and whose launching process is dead.
        """

    def traces(self) -> Mapping[str, tuple[str, ...]]:
        """Return what is on this machine of each execution of this installation: `state`, `mount`, `container` ..."""

    def held(self) -> tuple[str, ...]:
        """Return the executions whose launching process still lives; `reap` by hand keeps these.

        Those labelled as a row's (`execution`) are not among them: the row says whether they are needed.
        """

    def capabilities(self) -> tuple[Capability, ...]:
        """Say for each promise whether it is held here, and by what."""


class Artifacts(Protocol):
    """Bytes by their SHA-256. What was put is never changed; putting it again is free."""

    def put(self, data: bytes) -> str:
        """Keep the bytes and return their SHA-256 in hex; durable when this returns."""

    def put_file(self, path: Path) -> str:
        """Keep a file's bytes and return their SHA-256; the file is not touched."""

    def get(self, sha256: str) -> bytes:
        """Return the bytes; `NotFoundError` when absent, `TamperedError` when they no longer match their hash."""

    def path(self, sha256: str) -> Path:
        """Return a readable local file with these bytes; `NotFoundError` when absent. Never write to it."""

    def probe(self, *, writes: bool = False) -> None:
        """Return when it answers now, and with `writes` also takes bytes; else raise `ArtifactsUnavailableError`."""


class Collection(Protocol[T]):
    """The stored values of one kind, by id."""

    def get(self, key: str) -> T:
        """Return the value; `NotFoundError` when there is none."""

    def find(self, **equal: object) -> tuple[T, ...]:
        """Return the values whose columns equal these, in the order they were first saved."""

    def page(self, after: str | None, limit: int, **equal: object) -> tuple[T, ...]:
        """Return at most `limit` of what `find` returns, from the one that follows the id `after`.

        The cost does not grow with what comes before. `NotFoundError` when there is no value with that id.
        """

    def count(self, **equal: object) -> int:
        """Return how many values `find` would return."""

    def save(self, *values: T) -> None:
        """Insert the values, or replace those with their ids; many at once cost little more than one."""


class Steps(Protocol):
    """The table of steps, which is the queue's truth and its outbox."""

    def get(self, key: str) -> Step:
        """Return a step by its id; `NotFoundError` when there is none."""

    def find(self, **equal: object) -> tuple[Step, ...]:
        """Return the steps whose columns equal these, oldest first."""

    def add(self, *steps: Step) -> int:
        """Insert the steps whose `key` no other has, and return how many those were; many cost little more than one."""

    def claim(
        self,
        side: Side,
        *,
        now: float,
        lease_s: float,
        direction_id: DirectionId | None = None,
        apart_from: frozenset[DirectionId] = frozenset(),
    ) -> Step | None:
        """Take a due step of a side whose direction and experiment are not held, nor their tenant paused.

        The oldest due step says whose turn it is: of that tenant's, the one is taken that is oldest when each counts
        `PRIORITY_S` older for a point of its direction's priority. So priorities never pass another tenant's turn, and
        nothing waits for ever.

        With `direction_id`, only of that direction, and with `apart_from`, of none of those; the steps that clear the
        machine (`CLEARING`) are taken of any.

        A claimed step whose lease ran out is due again. The claim raises `fence` and `tries` in one conditional
        update, so that two workers never hold the same step.
        """

    def renew(self, step: Step, *, until: float) -> bool:
        """Lengthen the lease; False when somebody else has claimed the step since."""

    def finish(self, step: Step) -> bool:
        """Store the step's new state if its fence is still the newest; else False, and the caller rolls back."""

    def wake(self, *, now: float) -> int:
        """Make due each waiting step whose executions are all collected; return how many."""

    def hasten(self, waited: str, tenant: TenantId, *, now: float, most: int) -> int:
        """Make due launches that would be due later, after no error, and whose payload has `waited`; return how many.

        These are a tenant's oldest, counted as claims count priorities, and the oldest of all others: at most `most` of
        each, so that a long queue costs whoever hastens it little, and one tenant's never hides another's.
        """


class Events(Protocol):
    """What happened, in order."""

    def append(self, *events: Event) -> None:
        """Add events in this order; their `seq` are given here."""

    def since(self, direction_id: DirectionId, seq: int = 0, limit: int = 1000) -> tuple[Event, ...]:
        """Return the events after `seq`."""

    def newest(self, direction_id: DirectionId) -> int:
        """Return the `seq` of a direction's newest event; 0 where it has none."""


class Audit(Protocol):
    """Who changed what, in order. Entries are added and sealed once, never changed."""

    def append(self, *entries: AuditEntry) -> None:
        """Add entries in this order; their `seq` are given here."""

    def since(self, seq: int = 0, limit: int = 1000) -> tuple[AuditEntry, ...]:
        """Return the entries after `seq`."""

    def unsealed(self, limit: int = 1000) -> tuple[AuditEntry, ...]:
        """Return the first entries that have no seal yet."""

    def last_seal(self) -> str:
        """Return the newest seal, or nothing where there is none."""

    def seal(self, seq: int, seal: str) -> None:
        """Set the seal of an entry that has none; `ConflictError` where it has."""


class Log(Protocol):
    """What was measured and tried, in a tree of hashes. Leaves and tree heads are added, never changed."""

    def append(self, leaf: Leaf) -> None:
        """Add a leaf; `ConflictError` where its index is not the log's size."""

    def size(self) -> int:
        """Return how many leaves there are."""

    def at(self, index: int) -> Leaf:
        """Return the leaf at an index, from 0; `NotFoundError` where there is none."""

    def of(self, scope: str) -> tuple[Leaf, ...]:
        """Return the leaves of an experiment, or of a run that belongs to none, oldest first."""

    def count(self, scope: str) -> int:
        """Return how many leaves `of` would return."""

    def add_head(self, head: TreeHead) -> None:
        """Keep a signed tree head; `ConflictError` where there is one of its size."""

    def newest_head(self) -> TreeHead | None:
        """Return the tree head of the largest size, or None."""


class Ledger(Protocol):
    """What was spent. Entries are added, never changed."""

    def add(self, entry: LedgerEntry) -> None:
        """Add a line, and count it in its accounts' balances; `ConflictError` when its id is there already."""

    def entry(self, key: str) -> LedgerEntry | None:
        """Return the line with this id, or None."""

    def of_call(self, call_id: str) -> tuple[LedgerEntry, ...]:
        """Return the lines of one call or execution, oldest first."""

    def open_calls(self) -> tuple[LedgerEntry, ...]:
        """Return the reservations of model calls that no other line has closed, oldest first."""

    def balance(self, account: str) -> Balance:
        """Return the sum over an account: a direction, and the others that `ledger.accounts` names."""

    def admission(self, claims: Claims, day: str) -> Admission | None:
        """Return how it stands with what a token names; None where there is no such direction."""

    def spent_usd(self, direction_id: DirectionId) -> float:
        """Return the sum over a direction, open reservations included."""

    def entries(self, direction_id: DirectionId) -> tuple[LedgerEntry, ...]:
        """Return the lines of a direction, oldest first."""


class Workers(Collection[Worker], Protocol):
    """The worker processes, each as it was last seen."""

    def forget(self, *, before: float) -> None:
        """Remove those that were last seen before that time."""


class Outputs(Collection[Output], Protocol):
    """What programs that are not yet collected have printed, in pieces."""

    def after(self, execution_id: ExecutionId, fence: int, offset: int, limit: int) -> tuple[Output, ...]:
        """Return at most `limit` pieces that are not empty and begin at `offset` or later, in order."""

    def end(self, execution_id: ExecutionId, fence: int) -> int:
        """Return where the next piece begins, in bytes."""

    def left(self, *, before: float) -> tuple[ExecutionId, ...]:
        """Return the executions that are over, or gone, and whose newest piece was copied before that time."""

    def forget(self, execution_id: ExecutionId) -> None:
        """Remove every piece of an execution."""


class Leases(Collection[Lease], Protocol):
    """What executions hold of the machine, and held; those without an end hold it now."""

    def during(self, since: float, until: float) -> tuple[Lease, ...]:
        """Return those that held something at any time between these two."""


class Replies(Collection[Reply], Protocol):
    """What requests with an idempotency key made."""

    def forget(self, key: str, *, before: float, most: int) -> None:
        """Remove, of the first `most` and the one with this id, those that were made before that time.

        Who forgets an old one before it is saved anew keeps all in the order of their age.
        """


class Revocations(Collection[Revocation], Protocol):
    """The gateway's tokens that open nothing any more."""

    def forget(self, *, before: float) -> None:
        """Remove what was revoked before that time."""


class Transaction(Protocol):
    """All collections, in one transaction."""

    directions: Collection[Direction]
    ideas: Collection[Idea]
    experiments: Collection[Experiment]
    runs: Collection[Run]
    executions: Collection[Execution]
    calls: Collection[ModelCall]
    call_texts: Collection[CallText]
    tenants: Collection[Tenant]
    keys: Collection[Key]
    switches: Collection[Switch]
    revocations: Revocations
    replies: Replies
    feedback: Collection[Feedback]
    catalogue: Collection[Entry]
    leases: Leases
    peaks: Collection[Peak]
    outputs: Outputs
    steps: Steps
    events: Events
    ledger: Ledger
    audit: Audit
    log: Log
    workers: Workers

    def figures(self, now: float) -> Figures:
        """Count everything that there is; without ids, and in the order of what is counted.

        Takes longer the more was ever paid for: whoever is asked often keeps the answer for a while.
        """


class Store(Protocol):
    """The database."""

    def begin(self, *, write: bool = True, durable: bool = True) -> AbstractContextManager[Transaction]:
        """Open a transaction: committed when the block ends well, rolled back when it raises.

        With `write=False` it reads a snapshot and waits for nobody; a write in it raises `ConflictError`. One that is
        not `durable` does not wait for the disk: a power cut may take it back, but never without all that was committed
        after it.
        """

    def version(self) -> int:
        """Return a number that changes whenever another process may have committed; cheap enough to poll."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One question to a model."""

    claims: Claims
    system: str
    prompt: str
    blocks: tuple[str, ...] = ()
    """The prompt in pieces; empty where it is in one."""
    repeated: tuple[int, ...] = ()
    """As a `Prompt` has it: where a provider may keep what it has read until there."""
    max_tokens: int = 4096
    temperature: float = 0.7


class Model(Protocol):
    """Asks a language model, always through the gateway.

    Raises `ModelUnavailableError` when no usable answer came after the gateway's retries, and `OverBudgetError`
    when the ledger refuses.
    """

    def text(self, call: Call) -> str:
        """Return the answer as text."""

    def answer(self, call: Call, shape: type[Shape]) -> Shape:
        """Return the answer in this shape, with one repair round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What a coder did to the working copy."""

    files: Mapping[str, bytes]
    """The editable files after the edit, path to bytes."""
    reply: str
    """What the model said."""
    changed: tuple[str, ...]
    """Paths whose bytes differ from before; empty when nothing was applied."""
    problems: tuple[str, ...] = ()
    """Blocks that did not apply, each with its reason."""


class Queue(Protocol):
    """Carries hints. A lost or doubled hint changes nothing: the table of steps is the truth."""

    def hint(self, side: Side) -> None:
        """Tell the workers of a side that something may be due."""


class Delivered(StrEnum):
    """How it stands with a file that was asked for."""

    HERE = "here"
    """Among the artifacts, of the right hash and format."""
    UNDER_WAY = "under_way"
    REFUSED = "refused"
    """It is not what it was said to be; to ask again changes nothing."""
    AWAY = "away"
    """It could not be had now; what came so far is gone on with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What came of asking for a file of the catalogue."""

    state: Delivered
    reason: str = ""
    """Why it is not here, in a sentence."""
    sha256: str = ""
    """What it is known by where it is here: an entry may have been replaced since it was looked up."""


class Fetcher(Protocol):
    """Has files of the catalogue got, by whoever has a way out."""

    def fetch(self, claims: Claims, name: str) -> Delivery:
        """Return how it stands with an entry, which is begun to be got; soon, however large it is. Never raises."""


class Coder(Protocol):
    """Changes code as a model says."""

    name: str

    def edit(
        self, call: Call, files: Mapping[str, bytes], editable: Sequence[str], read_only: Mapping[str, bytes]
    ) -> Edit:
        """Ask for an edit and apply it to copies; what was given is never changed."""


class Literature(Protocol):
    """Works that exist."""

    def search(self, query: str, limit: int = 10) -> Sequence[Hit]:
        """Return the works nearest to a query, best first; empty when nothing is near. Never raises for its text."""

    def get(self, key: str) -> Work:
        """Return a work by its key; `NotFoundError` when there is none."""

    def bibtex(self, work: Work) -> str:
        """Return its BibTeX entry."""


class Signer(Protocol):
    """Signs what the platform says."""

    key_id: str
    """The fingerprint of the public key."""

    def sign(self, payload: bytes, payload_type: str) -> bytes:
        """Return a DSSE envelope (JSON bytes) over the payload."""

    def public_pem(self) -> bytes:
        """Return the public key as PEM, for whoever wants to check."""


class Clock(Protocol):
    """Tells the time and makes ids."""

    def now(self) -> float:
        """Return Unix time in seconds."""

    def new_id(self, prefix: str) -> str:
        """Return `prefix_` and a fresh lower-case ULID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A filled-in prompt file."""

    name: str
    text: str
    sha256: str
    """Of the file before it was filled in, with the tips that it brings."""
    blocks: tuple[str, ...] = ()
    """The same text in pieces."""
    repeated: tuple[int, ...] = ()
    """How many of the pieces, from the first, come again in a later call: the shortest such beginning first."""


class Prompts(Protocol):
    """The prompt files."""

    def render(self, name: str, **fields: str | tuple[str, ...]) -> Prompt:
        """Fill in a prompt; `KeyError` for an unknown name or a field left open."""


class Typesetter(Protocol):
    """Knows LaTeX as text; compiling is an execution."""

    def escape(self, text: str) -> str:
        """Return plain text as LaTeX that prints it."""

    def assemble(self, skeleton: str, parts: Mapping[str, str], *, title: str, keywords: Sequence[str]) -> str:
        """Fill a template's `latex/template.tex` with parts by name; adds the disclosure and the PDF's metadata."""

    def check(self, source: str, *, figures: Sequence[str], keys: Sequence[str]) -> tuple[str, ...]:
        """Return what is wrong with a source, one sentence each: missing figures or citations, doubled sections ..."""

    def check_log(self, log: str) -> tuple[str, ...]:
        """Return what the compiler's log says went wrong: errors, undefined references and citations."""
