"""RFC 6962's tree: every proof of every size holds, and none holds for anything else."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.domain import merkle

SIZES = 130
"""Past two powers of two on both sides."""
ENTRIES = [f"entry {number}".encode() for number in range(SIZES)]
OTHER = merkle.leaf_hash(b"other")


class Tree:
    """Leaves one after another, as a store keeps them: each with the subtrees that it completed."""

    def __init__(self, entries: list[bytes]) -> None:
        self.hashes: list[tuple[bytes, ...]] = []
        for entry in entries:
            self.hashes.append(merkle.completed(len(self.hashes), merkle.leaf_hash(entry), self.node))

    def node(self, level: int, number: int) -> bytes:
        return self.hashes[((number + 1) << level) - 1][level]

    def leaf(self, index: int) -> bytes:
        return self.hashes[index][0]


def by_definition(entries: list[bytes]) -> bytes:
    """The Merkle tree hash as section 2.1 of RFC 6962 defines it, over a whole list."""
    if len(entries) < 2:
        return hashlib.sha256(b"\0" + entries[0]).digest() if entries else hashlib.sha256(b"").digest()
    left = 1
    while left * 2 < len(entries):
        left *= 2
    both = by_definition(entries[:left]) + by_definition(entries[left:])
    return hashlib.sha256(b"\1" + both).digest()


TREE = Tree(ENTRIES)
ROOTS = [merkle.root(size, TREE.node) for size in range(SIZES + 1)]


def test_the_root_of_every_size_is_the_rfcs() -> None:
    assert [by_definition(ENTRIES[:size]) for size in range(SIZES + 1)] == ROOTS


def test_the_rfcs_own_example_has_its_known_root() -> None:
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    tree = Tree([bytes.fromhex(one) for one in inputs])
    assert merkle.root(8, tree.node).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_every_leaf_of_every_size_is_shown_to_be_there_and_nowhere_else() -> None:
    for size in range(1, SIZES + 1):
        for index in range(size):
            proof = merkle.inclusion(index, size, TREE.node)
            leaf, root = TREE.leaf(index), ROOTS[size]
            assert merkle.is_included(index, size, leaf, proof, root)
            assert not merkle.is_included(index, size, OTHER, proof, root)
            assert not merkle.is_included(index, size, leaf, proof, ROOTS[size - 1])
            assert not merkle.is_included(index, size, leaf, (*proof, OTHER), root)
            assert not (proof and merkle.is_included(index, size, leaf, proof[:-1], root))
            other = (index + 1) % size
            assert other == index or not merkle.is_included(other, size, leaf, proof, root)
        assert not merkle.is_included(size, size, TREE.leaf(0), (), ROOTS[size])
        assert not merkle.is_included(-1, size, TREE.leaf(0), (), ROOTS[size])


def test_every_smaller_tree_is_shown_to_be_the_beginning() -> None:
    for new in range(SIZES + 1):
        for old in range(new + 1):
            proof = merkle.consistency(old, new, TREE.node)
            assert merkle.is_prefix(old, new, ROOTS[old], ROOTS[new], proof)
            assert not merkle.is_prefix(old, new, OTHER, ROOTS[new], proof)
            # Of no leaves every tree is the continuation, whatever its root.
            assert old == 0 or not merkle.is_prefix(old, new, ROOTS[old], OTHER, proof)
            assert not merkle.is_prefix(old, new, ROOTS[old], ROOTS[new], (*proof, OTHER))
            assert not (proof and merkle.is_prefix(old, new, ROOTS[old], ROOTS[new], proof[:-1]))
            assert not (old and merkle.is_prefix(old - 1, new, ROOTS[old], ROOTS[new], proof))
    assert not merkle.is_prefix(3, 2, ROOTS[3], ROOTS[2], ())


sizes = st.integers(min_value=2, max_value=SIZES)


@given(sizes, st.data())
def test_a_tree_that_was_changed_anywhere_continues_no_earlier_one(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    at = data.draw(st.integers(0, old - 1))
    kind = data.draw(st.sampled_from(["changed", "dropped", "swapped"]))
    entries = list(ENTRIES[:new])
    if kind == "changed":
        entries[at] = b"other"
    elif kind == "dropped":
        del entries[at]
    else:
        entries[at], entries[at - 1] = entries[at - 1], entries[at]
    forged = Tree(entries)
    if old > len(entries):
        return
    root = merkle.root(len(entries), forged.node)
    proof = merkle.consistency(old, len(entries), forged.node)
    assert not merkle.is_prefix(old, len(entries), ROOTS[old], root, proof)
    assert not merkle.is_prefix(old, new, ROOTS[old], root, proof)


@given(sizes, st.data())
def test_no_proof_holds_with_one_of_its_bits_changed(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = list(merkle.inclusion(index, size, TREE.node))
    place = data.draw(st.integers(0, len(proof) - 1))
    changed = bytearray(proof[place])
    changed[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
    proof[place] = bytes(changed)
    assert not merkle.is_included(index, size, TREE.leaf(index), proof, ROOTS[size])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 3), (3, 3)])
def test_there_is_no_proof_of_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="has no leaf"):
        merkle.inclusion(index, size, TREE.node)


def test_there_is_no_proof_that_a_larger_tree_was_the_beginning() -> None:
    with pytest.raises(ValueError, match="cannot begin"):
        merkle.consistency(4, 3, TREE.node)
