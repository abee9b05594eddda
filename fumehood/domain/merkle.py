"""RFC 6962's Merkle tree: its root, proofs that a leaf is in it, and proofs that it only grew.

A tree is read through a function that returns the hash of any complete subtree, so that roots and proofs of any size
cost a number of look-ups that grows with the logarithm of the size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

Nodes = Callable[[int, int], bytes]
"""Takes a level and a number there, returns the hash (32 bytes) over the leaves `number << level` up to the next's."""
EMPTY = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry, 32 bytes."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node, 32 bytes; by its first byte no node is ever taken for a leaf."""
    return hashlib.sha256(b"\1" + left + right).digest()


def completed(index: int, leaf: bytes, nodes: Nodes) -> tuple[bytes, ...]:
    """Return the hashes of the complete subtrees that end with a new leaf, from the leaf itself upwards."""
    hashes = [leaf]
    while index & 1:
        # The subtree to the left is complete already; together they are the next larger one.
        hashes.append(node_hash(nodes(len(hashes) - 1, index - 1), hashes[-1]))
        index >>= 1
    return tuple(hashes)


def root(size: int, nodes: Nodes) -> bytes:
    """Return the root over the first `size` leaves."""
    return _over(0, size, nodes) if size else EMPTY


def inclusion(index: int, size: int, nodes: Nodes) -> tuple[bytes, ...]:
    """Return the proof that a leaf (from 0) is in the tree of the first `size`; `ValueError` where it is not."""
    if not 0 <= index < size:
        raise ValueError(f"A tree of {size} leaves has no leaf {index}.")
    return _path(index, 0, size, nodes)


def consistency(old: int, new: int, nodes: Nodes) -> tuple[bytes, ...]:
    """Return the proof that the tree of `new` leaves begins with that of `old`; `ValueError` where it is smaller."""
    if not 0 <= old <= new:
        raise ValueError(f"A tree of {new} leaves cannot begin with one of {old}.")
    return _subproof(old, 0, new, nodes, whole=True) if old else ()


def is_included(index: int, size: int, leaf: bytes, proof: Sequence[bytes], expected: bytes) -> bool:
    """Whether a proof shows that the hash `leaf` stands at `index` (from 0) under a root over `size` leaves."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(step, found)
            at, last = _up(at, last)
        else:
            found = node_hash(found, step)
        at, last = at >> 1, last >> 1
    return last == 0 and found == expected


def is_prefix(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether a proof shows that the tree with the new root begins with that of the old one, leaf by leaf."""
    if not 0 <= old <= new:
        return False
    if old in {0, new}:
        return not proof and old_root == (EMPTY if old == 0 else new_root)
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    found_old = found_new = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            found_old, found_new = node_hash(step, found_old), node_hash(step, found_new)
            at, last = _up(at, last)
        else:
            found_new = node_hash(found_new, step)
        at, last = at >> 1, last >> 1
    return last == 0 and found_old == old_root and found_new == new_root


def _up(at: int, last: int) -> tuple[int, int]:
    """Pass the levels at which a subtree on the right edge has no neighbour."""
    while at and not at & 1:
        at, last = at >> 1, last >> 1
    return at, last


def _split(size: int) -> int:
    """Return the largest power of two below a size above 1: how many leaves the left side holds."""
    return 1 << ((size - 1).bit_length() - 1)


def _over(first: int, end: int, nodes: Nodes) -> bytes:
    size = end - first
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return nodes(level, first >> level)
    middle = first + _split(size)
    return node_hash(_over(first, middle, nodes), _over(middle, end, nodes))


def _path(index: int, first: int, end: int, nodes: Nodes) -> tuple[bytes, ...]:
    if end - first == 1:
        return ()
    middle = first + _split(end - first)
    if index < middle:
        return (*_path(index, first, middle, nodes), _over(middle, end, nodes))
    return (*_path(index, middle, end, nodes), _over(first, middle, nodes))


def _subproof(old: int, first: int, end: int, nodes: Nodes, *, whole: bool) -> tuple[bytes, ...]:
    # `whole`: the old tree is what is looked at, and its root is known to whoever checks.
    if old == end:
        return () if whole else (_over(first, end, nodes),)
    middle = first + _split(end - first)
    if old <= middle:
        return (*_subproof(old, first, middle, nodes, whole=whole), _over(middle, end, nodes))
    return (*_subproof(old, middle, end, nodes, whole=False), _over(first, middle, nodes))
