"""The log of the store in memory."""

from __future__ import annotations

from fumehood.domain.log import Leaf, TreeHead
from fumehood.errors import ConflictError, NotFoundError


class MemoryLog:
    """The log's leaves and its tree heads."""

    def __init__(self, leaves: list[Leaf], heads: list[TreeHead]) -> None:
        self._leaves = leaves
        self._heads = heads

    def append(self, leaf: Leaf) -> None:
        """Add a leaf; `ConflictError` where its index is not the log's size."""
        if leaf.index != len(self._leaves):
            raise ConflictError(f"The log has {len(self._leaves)} leaves, so the next one is not {leaf.index}.")
        self._leaves.append(leaf)

    def size(self) -> int:
        """Return how many leaves there are."""
        return len(self._leaves)

    def at(self, index: int) -> Leaf:
        """Return the leaf at an index, from 0; `NotFoundError` where there is none."""
        if not 0 <= index < len(self._leaves):
            raise NotFoundError(f"There is no leaf {index}.")
        return self._leaves[index]

    def of(self, scope: str) -> tuple[Leaf, ...]:
        """Return the leaves of an experiment, or of a run that belongs to none, oldest first."""
        return tuple(leaf for leaf in self._leaves if leaf.scope == scope)

    def count(self, scope: str) -> int:
        """Return how many leaves `of` would return."""
        return len(self.of(scope))

    def add_head(self, head: TreeHead) -> None:
        """Keep a signed tree head; `ConflictError` where there is one of its size."""
        if any(one.size == head.size for one in self._heads):
            raise ConflictError(f"The log of {head.size} leaves is signed already.")
        self._heads.append(head)

    def newest_head(self) -> TreeHead | None:
        """Return the tree head of the largest size, or None."""
        return max(self._heads, key=lambda head: head.size, default=None)
