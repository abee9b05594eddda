"""The log of the installation: every signed record and every attempt that gave none, in one tree of hashes.

A leaf is written in the transaction that stores what it tells of. What is left out of a paper, or taken out of the
database, leaves a gap that nobody can close without the tree heads that were signed before.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from fumehood.domain import merkle
from fumehood.domain.experiment import Run
from fumehood.domain.log import EntryKind, Leaf, TreeHead, canonical
from fumehood.errors import BadInputError
from fumehood.ports import Clock, Signer, Store, Transaction
from fumehood.services import templates

TREE_HEAD_TYPE = "application/vnd.fumehood.tree-head+json"


def keep(tx: Transaction, clock: Clock, runs: Sequence[Run], *, shared: bool = False) -> None:
    """Store runs, and log what of them is new: a record, or attempts that ended without one.

    `shared` runs were measured for another experiment, whose entries stand where they were made.
    """
    for run in runs:
        known = next(iter(tx.runs.find(id=run.id)), None)
        # A run that is first seen with its record was taken over from the same measurement.
        taken = shared or (known is None and bool(run.record))
        for attempt in run.attempts[len(known.attempts) if known else 0 :]:
            _append(tx, clock, run, EntryKind.ATTEMPT, attempt.number, attempt.verdict, shared=taken)
        if run.record and not (known and known.record == run.record):
            _append(tx, clock, run, EntryKind.RECORD, len(run.attempts) + 1, run.result.value, shared=taken)
    tx.runs.save(*runs)


def scope_of(run: Run) -> str:
    """Return what a run's entries are counted in: its experiment, or itself where it belongs to none."""
    return run.experiment_id or run.id


def _append(
    tx: Transaction, clock: Clock, run: Run, kind: EntryKind, attempt: int, verdict: str, *, shared: bool
) -> None:
    scope = scope_of(run)
    entry = canonical(
        {
            "at": clock.now(),
            "attempt": attempt,
            "code": templates.template_hash(run.files),
            "direction": run.direction_id,
            "experiment": run.experiment_id,
            "folder": run.folder,
            "index": run.index,
            "kind": kind.value,
            # Counted within its scope, so that who is shown all but one sees which one is missing.
            "number": tx.log.count(scope) + 1,
            "record": run.record if kind is EntryKind.RECORD else None,
            "run": run.id,
            "shared": shared,
            "verdict": verdict,
        }
    )
    index = tx.log.size()
    hashes = merkle.completed(index, merkle.leaf_hash(entry.encode()), nodes(tx))
    tx.log.append(
        Leaf(
            index=index,
            scope=scope,
            direction_id=run.direction_id,
            entry=entry,
            hashes=tuple(one.hex() for one in hashes),
        )
    )


def nodes(tx: Transaction) -> merkle.Nodes:
    """Return how the log's tree is read: a complete subtree's hash lies with the leaf that completed it."""
    return lambda level, number: bytes.fromhex(tx.log.at(((number + 1) << level) - 1).hashes[level])


def root(tx: Transaction, size: int) -> str:
    """Return the root over the first `size` leaves, in hex; `BadInputError` where there are not that many."""
    _check_size(tx, size)
    return merkle.root(size, nodes(tx)).hex()


def inclusion(tx: Transaction, index: int, size: int) -> list[str]:
    """Return the proof that a leaf is among the first `size`, in hex; `BadInputError` where it is not."""
    _check_size(tx, size)
    if not 0 <= index < size:
        raise BadInputError(f"The log of {size} leaves has no leaf {index}.")
    return [one.hex() for one in merkle.inclusion(index, size, nodes(tx))]


def consistency(tx: Transaction, old: int, new: int) -> list[str]:
    """Return the proof that the log of `new` leaves begins with that of `old`, in hex."""
    _check_size(tx, new)
    if not 0 <= old <= new:
        raise BadInputError(f"The log of {new} leaves cannot begin with one of {old}.")
    return [one.hex() for one in merkle.consistency(old, new, nodes(tx))]


def _check_size(tx: Transaction, size: int) -> None:
    if not 0 <= size <= (there := tx.log.size()):
        raise BadInputError(f"The log has {there} leaves, not {size}.")


def sign(store: Store, clock: Clock, signer: Signer) -> TreeHead:
    """Return the newest tree head; the log is signed anew where it has grown since."""
    with store.begin(write=False) as tx:
        newest = tx.log.newest_head()
        if newest is not None and newest.size == tx.log.size():
            return newest
    with store.begin() as tx:
        size, newest = tx.log.size(), tx.log.newest_head()
        if newest is not None and newest.size == size:
            return newest
        head = TreeHead(size=size, root=root(tx, size), at=clock.now(), envelope="")
        told = canonical({"size": head.size, "root": head.root, "at": head.at})
        head = dataclasses.replace(head, envelope=signer.sign(told.encode(), TREE_HEAD_TYPE).decode())
        tx.log.add_head(head)
    return head


def entry_of(leaf: Leaf) -> dict[str, object]:
    """Return what a leaf's entry says."""
    told: dict[str, object] = json.loads(leaf.entry)
    return told
