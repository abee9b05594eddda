"""Reading the log: its signed head, and proofs that anybody can check; of entries, a tenant sees its own."""

from __future__ import annotations

from dataclasses import dataclass

from fumehood.domain.ids import TenantId
from fumehood.domain.log import Leaf, TreeHead
from fumehood.errors import NotFoundError
from fumehood.ports import Store, Transaction
from fumehood.services import log


@dataclass(frozen=True, slots=True, kw_only=True)
class Included:
    """That a leaf is in the tree of a size; hashes are SHA-256 in hex."""

    leaf: int
    size: int
    hash: str
    root: str
    proof: list[str]
    entry: dict[str, object] | None
    """None where it is another tenant's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued:
    """That the tree of a size begins with that of a smaller one; hashes are SHA-256 in hex."""

    old: int
    new: int
    old_root: str
    new_root: str
    proof: list[str]


def head(store: Store) -> TreeHead:
    """Return the newest signed tree head; `NotFoundError` before the first."""
    with store.begin(write=False) as tx:
        return _head(tx)


def included(store: Store, tenant: TenantId, leaf: int, size: int | None) -> Included:
    """Return the proof that a leaf (from 0) is among the first `size`; without one, in the newest signed tree.

    Raises `BadInputError` where it is not, and `NotFoundError` where nothing is signed yet.
    """
    with store.begin(write=False) as tx:
        size = _head(tx).size if size is None else size
        proof = log.inclusion(tx, leaf, size)
        found = tx.log.at(leaf)
        return Included(
            leaf=leaf,
            size=size,
            hash=found.hashes[0],
            root=log.root(tx, size),
            proof=proof,
            entry=log.entry_of(found) if _is_of(tx, found, tenant) else None,
        )


def continued(store: Store, old: int, new: int | None) -> Continued:
    """Return the proof that the log of `new` leaves begins with that of `old`; without `new`, the newest signed one.

    Raises `BadInputError` where it does not, and `NotFoundError` where nothing is signed yet.
    """
    with store.begin(write=False) as tx:
        new = _head(tx).size if new is None else new
        proof = log.consistency(tx, old, new)
        return Continued(old=old, new=new, old_root=log.root(tx, old), new_root=log.root(tx, new), proof=proof)


def _head(tx: Transaction) -> TreeHead:
    newest = tx.log.newest_head()
    if newest is None:
        raise NotFoundError("The log is not signed yet: ask again in some seconds.")
    return newest


def _is_of(tx: Transaction, leaf: Leaf, tenant: TenantId) -> bool:
    return any(one.tenant == tenant for one in tx.directions.find(id=leaf.direction_id))
