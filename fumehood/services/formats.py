"""Whether a file is what its format says, judged by reading its bytes: nothing of it is ever unpickled or run.

What passes can be read by a template's `prepare.py` without running code of whoever made it. What it says is no matter.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from fumehood.domain.catalogue import Format
from fumehood.errors import BadInputError
from fumehood.services import parquet_footer

CHUNK = 1024 * 1024
MOST_UNPACKED = 16 * 1024**3
"""Bytes that an archive's members may have together when they are unpacked."""
MOST_TIMES = 200
"""How many times as large as its packed bytes an archive may be: arrays of one number pass it, data do not."""
MOST_MEMBERS = 10_000
MOST_ARRAY_HEADER = 16 * 1024
"""Bytes of an array's header; NumPy itself reads none of more than 10,000 characters."""
MOST_PICKLE = 64 * 1024 * 1024
"""Of a text's beginning that is read as a pickle might be, to see whether it is one."""
_IMPORTS = frozenset({"GLOBAL", "INST"})
"""What a pickle of protocol 0 reaches for other people's code by."""
MOST_HEADER = 100_000_000
"""Bytes of a safetensors file's header, as its own library has it."""
MOST_AXES = 64
MOST_NUMBER = 2**62
BITS: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Of an element, by what a safetensors file calls its type."""
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")


def check(path: Path, kind: Format) -> None:
    """Return when a file is of a format; else `BadInputError` says in a sentence without a subject why it is not."""
    try:
        with path.open("rb") as file:
            begin = file.read(8)
            if not begin:
                raise BadInputError("is empty")
            if kind is not Format.NPZ and begin[:4] == b"PK\x03\x04":
                raise BadInputError(f"is a zip archive, as PyTorch's files are, and no {kind.value}")
            if begin[:1] == b"\x80" and begin[1:2] in b"\x02\x03\x04\x05" and kind is not Format.SAFETENSORS:
                raise BadInputError("is a pickle, which would run code where it is read")
            file.seek(0)
            _CHECKS[kind](file, path.stat().st_size)
    except OSError as error:
        raise BadInputError(f"cannot be read ({error.strerror or error})") from error


def _text(file: IO[bytes], size: int) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := file.read(CHUNK):
            if _NO_TEXT.search(chunk):
                raise BadInputError("holds control characters, and so is no text")
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise BadInputError("is not UTF-8, and so is no text that is taken") from error
    if _is_plain_pickle(file, size):
        raise BadInputError("is a pickle, which would run code where it is read")


def _is_plain_pickle(file: IO[bytes], size: int) -> bool:
    """Whether a text is a pickle of protocol 0, or begins with one that imports something; nothing of it is run.

    Whoever unpickles reads as far as a pickle goes, so what follows makes it no other thing.
    """
    file.seek(0)
    head = io.BytesIO(file.read(MOST_PICKLE))
    count, imports = 0, False
    try:
        for opcode, _, _ in pickletools.genops(head):
            count += 1
            imports = imports or opcode.name in _IMPORTS
    except Exception:  # noqa: BLE001 - whatever stops it, it is no pickle
        return False
    return imports or (count > 1 and size <= MOST_PICKLE and not head.read().strip())


def _npz(file: IO[bytes], size: int) -> None:
    if file.read(4) != b"PK\x03\x04":
        raise BadInputError("is no .npz archive")
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _members(members, size)
            for member in members:
                with archive.open(member) as opened:
                    _array(opened, member)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise BadInputError(f"is no .npz archive that can be read ({error})") from error


def _members(members: list[zipfile.ZipInfo], size: int) -> None:
    names = [one.filename for one in members]
    if not members or len(members) > MOST_MEMBERS or len(set(names)) < len(names):
        raise BadInputError(f"has no members, more than {MOST_MEMBERS:,}, or two of one name")
    for one in members:
        if not one.filename.endswith(".npy") or one.filename.startswith(("/", "\\")) or ".." in one.filename:
            raise BadInputError(f"holds {one.filename[:60]!r}, and a .npz holds .npy files only")
        if one.flag_bits & 1:
            raise BadInputError("is encrypted")
        if one.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise BadInputError("is packed in a way that is not taken")
    unpacked = sum(one.file_size for one in members)
    if unpacked > MOST_UNPACKED or unpacked > MOST_TIMES * size:
        raise BadInputError(f"unpacks to {unpacked:,} bytes from {size:,}, which is too much")


def _array(opened: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Check one array's header, and that its bytes are as many as that says."""
    from numpy.lib import format as npy

    name = member.filename[:60]
    try:
        # Of a longer header NumPy would read all before it refuses it, and that can be gigabytes of blanks.
        head = io.BytesIO(opened.read(MOST_ARRAY_HEADER))
        version = npy.read_magic(head)
        reads = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, _, dtype = reads[version](head)
    except Exception as error:  # a hostile header fails in the parser or in a cast
        raise BadInputError(f"holds {name!r}, which is no .npy array") from error
    if dtype.hasobject:
        raise BadInputError(f"holds {name!r}, an array of Python objects: these are pickled, and would run code")
    left = len(head.read())
    expected = math.prod(shape) * dtype.itemsize
    while chunk := opened.read(CHUNK):
        left += len(chunk)
        if left > expected:
            break
    if left != expected:
        raise BadInputError(f"holds {name!r}, which has not the {expected:,} bytes that it says")


def _parquet(file: IO[bytes], size: int) -> None:
    unpacked = parquet_footer.unpacked_bytes(file, size)
    if unpacked > MOST_UNPACKED or unpacked > MOST_TIMES * size:
        raise BadInputError(f"unpacks to {unpacked:,} bytes from {size:,}, which is too much")


def _safetensors(file: IO[bytes], size: int) -> None:
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or length > min(MOST_HEADER, size - 8):
        raise BadInputError("has no header of safetensors")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise BadInputError("has a header that is no JSON of safetensors") from error
    if not isinstance(header, dict):
        raise BadInputError("has a header that is no JSON of safetensors")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(one, str) for one in notes.values()):
        raise BadInputError("has notes in its header that are no text")
    at = 0
    for begin, end in sorted(_place(name, told) for name, told in header.items()):
        if begin != at:
            raise BadInputError("has tensors that lie over each other, or bytes between them")
        at = end
    if not header or at != size - 8 - length:
        raise BadInputError("has not the bytes that its header says")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _place(name: str, told: Any) -> tuple[int, int]:
    """Return where a tensor's bytes begin and end, which must be as many as its type and shape say."""
    if not _is_told(told):
        raise BadInputError(f"has a tensor {name[:60]!r} that is not told as safetensors has it")
    begin, end = told["data_offsets"]
    if (end - begin) * 8 != math.prod(told["shape"]) * BITS[told["dtype"]]:
        raise BadInputError(f"has a tensor {name[:60]!r} whose bytes are not as many as its shape says")
    return begin, end


def _is_told(told: Any) -> bool:
    if not isinstance(told, dict) or set(told) != {"dtype", "shape", "data_offsets"} or str(told["dtype"]) not in BITS:
        return False
    shape, places = told["shape"], told["data_offsets"]
    if not isinstance(shape, list) or not isinstance(places, list) or len(shape) > MOST_AXES or len(places) != 2:
        return False
    return all(type(one) is int and 0 <= one <= MOST_NUMBER for one in (*shape, *places))


_CHECKS: Mapping[Format, Callable[[IO[bytes], int], None]] = {
    Format.TEXT: _text,
    Format.NPZ: _npz,
    Format.PARQUET: _parquet,
    Format.SAFETENSORS: _safetensors,
}
