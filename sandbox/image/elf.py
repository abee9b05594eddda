"""Shared libraries without the table of names that only debuggers read: a fifth of torch's largest one."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import IO

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_NULL, _SYMTAB, _STRTAB, _NOBITS, _ALLOCATED = 0, 2, 3, 8, 2
_LITTLE_64 = b"\x7fELF\x02\x01"


@dataclass(frozen=True, slots=True)
class Stripped:
    """Where the part of a library that is loaded ends, and what then follows in the place of the rest."""

    end: int
    rest: bytes
    header: bytes

    @property
    def size(self) -> int:
        """How long the library then is."""
        return self.end + len(self.rest)


class Reader:
    """The stripped library as a file that is read once."""

    def __init__(self, file: IO[bytes], stripped: Stripped) -> None:
        file.seek(len(stripped.header))
        self._parts = [
            (io.BytesIO(stripped.header), len(stripped.header)),
            (file, stripped.end - len(stripped.header)),
            (io.BytesIO(stripped.rest), len(stripped.rest)),
        ]

    def read(self, size: int = 65536, /) -> bytes:
        """Return so many bytes, fewer only at the end."""
        found = b""
        while self._parts and len(found) < size:
            file, left = self._parts.pop(0)
            part = file.read(min(left, size - len(found)))
            found += part
            if left > len(part) > 0:
                self._parts.insert(0, (file, left - len(part)))
        return found


def strip(file: IO[bytes]) -> Stripped | None:
    """Return a library without its table of names; None for what is none, or is laid out otherwise.

    Nothing that is loaded may move, so everything behind the last loaded byte must be that table and the list of
    sections.
    """
    file.seek(0)
    head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or not head.startswith(_LITTLE_64):
        return None
    fields = list(_HEADER.unpack(head))
    place, size, count, names = fields[6], fields[11], fields[12], fields[13]
    if not place or size != _SECTION.size or not names < count:
        return None
    file.seek(place)
    told = file.read(size * count)
    sections = [list(_SECTION.unpack_from(told, number * size)) for number in range(count)]
    dropped = {number for number, one in enumerate(sections) if one[1] == _SYMTAB}
    dropped |= {sections[number][6] for number in dropped} - {names}
    kept = [one for number, one in enumerate(sections) if number not in dropped | {names} and one[1] != _NULL]
    end = max((one[4] + (0 if one[1] == _NOBITS else one[5]) for one in kept), default=0)
    end = max([end, *_loaded(file, fields)])
    if not dropped or any(sections[number][2] & _ALLOCATED or sections[number][4] < end for number in dropped):
        return None
    if sections[names][4] < end or place < end or any(one[1] in {4, 9} and one[6] in dropped for one in kept):
        return None
    file.seek(sections[names][4])
    rest = file.read(sections[names][5])
    sections[names][4] = end
    for number in dropped:
        # Only named: taking the entry out would number the others anew.
        sections[number] = [sections[number][0], _NULL, *([0] * 8)]
    padding = -(end + len(rest)) % 8
    fields[6] = end + len(rest) + padding
    rest += b"\0" * padding + b"".join(_SECTION.pack(*one) for one in sections)
    return Stripped(end, rest, _HEADER.pack(*fields))


def _loaded(file: IO[bytes], header: list[int]) -> list[int]:
    """Return where in the file each segment ends."""
    place, size, count = header[5], header[9], header[10]
    if size != _SEGMENT.size:
        return []
    file.seek(place)
    told = file.read(size * count)
    segments = [_SEGMENT.unpack_from(told, number * size) for number in range(count)]
    return [place + size * count, *(one[2] + one[5] for one in segments)]
