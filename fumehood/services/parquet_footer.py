"""Reading the footer of a Parquet file, as far as it takes to know that it is one and how large it unpacks.

The footer is a struct of Thrift's compact protocol (Apache Parquet's `FileMetaData`): field 1 is the version, 2 the
schema, 3 the number of rows, 4 the row groups. Of these each says in its field 1 what columns it has (in their field 3
the `ColumnMetaData`: 1 the type, 5 the number of values), and in 2 how many bytes it unpacks to: still encoded, so that
a billion times the same number is a few.
"""

from __future__ import annotations

from typing import IO, Any

from fumehood.errors import BadInputError

MAGIC = b"PAR1"
MOST_BYTES = 64 * 1024 * 1024
"""Of a footer."""
MOST_DEEP = 32
MOST_VALUES = 2_000_000
"""Values in one footer; a list of nothing could else name billions in a few bytes."""
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_WIDTHS = dict(enumerate((1, 4, 8, 12, 4, 8, 4, 1)))
"""Bytes of a value in memory, at the least, by the number of its type: BOOLEAN, INT32, INT64, INT96, ..."""
_NUMBERS = frozenset({_I16, _I32, _I64})


class _BrokenError(Exception):
    """The bytes are no struct."""


def unpacked_bytes(file: IO[bytes], size: int) -> int:
    """Return what a file's row groups say that they unpack to, or their values take, whichever is more.

    Raises `BadInputError` where it is no Parquet file. What a footer says of its pages is not compared with them.
    """
    file.seek(0)
    begin = file.read(4)
    file.seek(max(0, size - 8))
    length, end = int.from_bytes(file.read(4), "little"), file.read(4)
    if size < 12 or begin != MAGIC or end != MAGIC or not 0 < length <= min(MOST_BYTES, size - 12):
        raise BadInputError("is no Parquet file")
    file.seek(size - 8 - length)
    reader = _Reader(file.read(length))
    try:
        told = reader.struct(0)
        sizes: list[int] = [group[2] for group in told[4]]
        columns = [column[3] for group in told[4] for column in group[1]]
        values: list[int] = [column[5] for column in columns]
        widths = [_WIDTHS[column[1]] for column in columns]
        numbers = [told[1], told[3], *sizes, *values]
    except (_BrokenError, LookupError, TypeError) as error:
        raise BadInputError("has a footer that is not Parquet's") from error
    if reader.at != length or not told.get(2) or not all(isinstance(one, int) and one >= 0 for one in numbers):
        raise BadInputError("has a footer that is not Parquet's")
    return max(sum(sizes), sum(one * width for one, width in zip(values, widths, strict=True)))


class _Reader:
    """Walks once over bytes of the compact protocol."""

    def __init__(self, data: bytes) -> None:
        self.at = 0
        self._data = data
        self._values = 0

    def struct(self, deep: int) -> dict[int, Any]:
        """Return a struct's fields by their numbers; texts are passed over."""
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            number = number + step if step else self._signed()
            found[number] = self._value(kind, deep + 1)
        return found

    def _value(self, kind: int, deep: int) -> Any:
        self._values += 1
        if deep > MOST_DEEP or self._values > MOST_VALUES:
            raise _BrokenError
        if kind in {_TRUE, _FALSE}:
            return kind == _TRUE
        if kind in _NUMBERS:
            return self._signed()
        if kind in {_BYTE, _DOUBLE, _BINARY}:
            return self._pass(1 if kind == _BYTE else 8 if kind == _DOUBLE else self._varint())
        if kind in {_LIST, _SET}:
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            return [self._item(head & 15, deep) for _ in range(self._counted(count))]
        if kind == _MAP:
            count = self._counted(self._varint())
            kinds = self._byte() if count else 0
            return [(self._item(kinds >> 4, deep), self._item(kinds & 15, deep)) for _ in range(count)]
        if kind == _STRUCT:
            return self.struct(deep)
        raise _BrokenError

    def _item(self, kind: int, deep: int) -> Any:
        """Return one of several; within them a truth is a byte."""
        return self._pass(1) if kind in {_TRUE, _FALSE} else self._value(kind, deep + 1)

    def _counted(self, count: int) -> int:
        if count > len(self._data) - self.at:
            raise _BrokenError
        return count

    def _pass(self, count: int) -> None:
        if count > len(self._data) - self.at:
            raise _BrokenError
        self.at += count

    def _byte(self) -> int:
        self._pass(1)
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise _BrokenError

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
