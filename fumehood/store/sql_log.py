"""The log of the store in an SQL database; the tables themselves refuse to be changed."""

from __future__ import annotations

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import IntegrityError

from fumehood.domain.log import Leaf, TreeHead
from fumehood.errors import ConflictError, NotFoundError
from fumehood.store import plain, tables


class SqlLog:
    """The tables of leaves and of tree heads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def append(self, leaf: Leaf) -> None:
        """Add a leaf; `ConflictError` where its index is not the log's size."""
        size = self.size()
        if leaf.index != size:
            raise ConflictError(f"The log has {size} leaves, so the next one is not {leaf.index}.")
        try:
            self._connection.execute(tables.LEAVES.insert(), plain.LEAF.row(leaf))
        except IntegrityError as error:
            raise ConflictError(f"The log has a leaf {leaf.index} already.") from error

    def size(self) -> int:
        """Return how many leaves there are."""
        # By the largest index, which is looked up, and not by counting: they have no gaps.
        newest = self._connection.execute(select(func.max(tables.LEAVES.c.index))).scalar_one()
        return 0 if newest is None else int(newest) + 1

    def at(self, index: int) -> Leaf:
        """Return the leaf at an index, from 0; `NotFoundError` where there is none."""
        query = select(tables.LEAVES).where(tables.LEAVES.c.index == index)
        found = self._connection.execute(query).mappings().one_or_none()
        if found is None:
            raise NotFoundError(f"There is no leaf {index}.")
        return plain.LEAF.value(found)  # type: ignore[arg-type]

    def of(self, scope: str) -> tuple[Leaf, ...]:
        """Return the leaves of an experiment, or of a run that belongs to none, oldest first."""
        query = select(tables.LEAVES).where(tables.LEAVES.c.scope == scope).order_by(tables.LEAVES.c.index)
        return tuple(plain.LEAF.value(row) for row in self._connection.execute(query).mappings())  # type: ignore[arg-type]

    def count(self, scope: str) -> int:
        """Return how many leaves `of` would return."""
        query = select(func.count()).select_from(tables.LEAVES).where(tables.LEAVES.c.scope == scope)
        return int(self._connection.execute(query).scalar_one())

    def add_head(self, head: TreeHead) -> None:
        """Keep a signed tree head; `ConflictError` where there is one of its size."""
        known = select(tables.TREE_HEADS.c.size).where(tables.TREE_HEADS.c.size == head.size)
        if self._connection.execute(known).first() is not None:
            raise ConflictError(f"The log of {head.size} leaves is signed already.")
        self._connection.execute(tables.TREE_HEADS.insert(), plain.TREE_HEAD.row(head))

    def newest_head(self) -> TreeHead | None:
        """Return the tree head of the largest size, or None."""
        query = select(tables.TREE_HEADS).order_by(tables.TREE_HEADS.c.size.desc()).limit(1)
        found = self._connection.execute(query).mappings().one_or_none()
        return None if found is None else plain.TREE_HEAD.value(found)  # type: ignore[arg-type]
