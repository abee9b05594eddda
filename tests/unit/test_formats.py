"""A file is what its format says or it is refused in a sentence; no byte of a hostile one is ever carried out."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fumehood.domain.catalogue import Format
from fumehood.errors import BadInputError
from fumehood.services import formats

RAN = "somebody ran this"


class Trap:
    """Whoever unpickles it runs its code."""

    def __reduce__(self) -> Any:
        return (pytest.fail, (RAN,))


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[bytes, Format], str]:
    def why(data: bytes, kind: Format) -> str:
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(BadInputError) as told:
            formats.check(tmp_path / "file", kind)
        return str(told.value)

    return why


@pytest.fixture
def passes(tmp_path: Path) -> Callable[[bytes, Format], None]:
    def check(data: bytes, kind: Format) -> None:
        (tmp_path / "file").write_bytes(data)
        formats.check(tmp_path / "file", kind)

    return check


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def tensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    told = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(told) if length is None else length) + told + data


def varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def number(step: int, value: int, kind: int = 6) -> bytes:
    return bytes([step << 4 | kind]) + varint(value << 1 ^ value >> 63)


def parquet(
    unpacked: int = 40,
    *,
    values: int = 3,
    kind: int = 5,
    footer: bytes | None = None,
    end: bytes = b"PAR1",
    data: bytes = b"x" * 20,
) -> bytes:
    """Return a file with one column and one row group, as Apache's format has its footer."""
    column = b"\x48\x01a\x00"  # field 4, a name, and the struct's end
    chunk = b"\x3c" + number(1, kind, 5) + number(4, values) + b"\x00\x00"  # field 3: its type, how many values
    group = b"\x19\x1c" + chunk + number(1, unpacked) + b"\x00"  # one column; how large it is
    told = number(1, 2, 5) + b"\x19\x1c" + column + number(1, 3) + b"\x19\x1c" + group + b"\x00"
    told = told if footer is None else footer
    return b"PAR1" + data + told + len(told).to_bytes(4, "little") + end


WEIGHTS = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


class TestWhatPasses:
    @pytest.mark.parametrize(
        "text", ["To be, or not.\r\n\tThat\x0c", "Wärme ☃", "I am.", ".", "(lp0", "N. said so", "cat\ndog\n"]
    )
    def test_text(self, passes: Any, text: str) -> None:
        passes(text.encode(), Format.TEXT)

    def test_text_that_is_larger_than_a_chunk_with_a_letter_across_its_edge(self, passes: Any) -> None:
        passes(b"a" * (formats.CHUNK - 1) + "ä".encode() + b"b", Format.TEXT)

    def test_arrays_packed_or_not(self, passes: Any) -> None:
        passes(npz(x=np.arange(12.0).reshape(3, 4), y=np.array(3), words=np.array(["a", "bc"])), Format.NPZ)
        passes(zipped({"x.npy": npy(np.zeros((2, 0)))}), Format.NPZ)

    def test_tables(self, passes: Any) -> None:
        passes(parquet(), Format.PARQUET)

    def test_tensors(self, passes: Any) -> None:
        more = {**WEIGHTS, "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]}, "__metadata__": {"a": "b"}}
        passes(tensors(more, b"\0" * 26), Format.SAFETENSORS)
        # Its own library pads the header with spaces.
        passes(tensors(json.dumps(WEIGHTS).encode() + b"    ", b"\0" * 24), Format.SAFETENSORS)

    def test_a_header_whose_length_looks_like_a_pickle(self, passes: Any) -> None:
        told = json.dumps({**WEIGHTS, "__metadata__": {"a": ""}}).encode()
        passes(tensors(told + b" " * (0x0280 - len(told)), b"\0" * 24), Format.SAFETENSORS)


class TestPickles:
    @pytest.mark.parametrize("kind", list(Format))
    @pytest.mark.parametrize("protocol", range(6))
    def test_of_any_protocol_are_refused_as_any_format(self, refused: Any, kind: Format, protocol: int) -> None:
        assert RAN not in refused(pickle.dumps(Trap(), protocol), kind)

    def test_are_called_what_they_are(self, refused: Any) -> None:
        for protocol in (0, 2, 5):
            assert "pickle" in refused(pickle.dumps({"a": [1, 2]}, protocol), Format.TEXT)

    @pytest.mark.parametrize("after", [b"\n\n", b" \n", b"\nTo be, or not.\n"])
    def test_are_pickles_whatever_follows_them(self, refused: Any, after: bytes) -> None:
        assert "pickle" in refused(pickle.dumps(Trap(), 0) + after, Format.TEXT)

    def test_what_torch_saves_is_refused_as_any_format(self, refused: Any) -> None:
        saved = zipped({"archive/data.pkl": pickle.dumps(Trap()), "archive/data/0": b"\0" * 8})
        for kind in Format:
            assert refused(saved, kind)
        assert "data.pkl" in refused(saved, Format.NPZ)

    def test_arrays_of_objects_are_refused(self, refused: Any) -> None:
        assert "Python objects" in refused(npz(x=np.array([Trap()], dtype=object)), Format.NPZ)
        record = np.array([(1, "a")], dtype=[("n", "i4"), ("o", "O")])
        assert "Python objects" in refused(npz(x=record), Format.NPZ)


class TestArchives:
    @pytest.mark.parametrize("name", ["x.pkl", "x.npy.exe", "../x.npy", "/x.npy", "folder/", "x"])
    def test_members_other_than_arrays_are_refused(self, refused: Any, name: str) -> None:
        assert refused(zipped({"y.npy": npy(np.zeros(3)), name: b""}), Format.NPZ)

    def test_a_bomb_is_refused_before_it_is_unpacked(self, refused: Any) -> None:
        bomb = zipped({"x.npy": npy(np.zeros(1_000_000))}, zipfile.ZIP_DEFLATED)
        assert "too much" in refused(bomb, Format.NPZ)

    def test_a_member_that_says_too_little_of_itself_is_refused(self, refused: Any) -> None:
        lied = zipped({"x.npy": npy(np.zeros(300))})
        assert refused(lied.replace((2528).to_bytes(4, "little"), (228).to_bytes(4, "little")), Format.NPZ)

    @pytest.mark.parametrize("more", [b"", b"\0" * 9])
    def test_bytes_must_be_as_many_as_the_header_says(self, refused: Any, more: bytes) -> None:
        data = npy(np.zeros(3))
        assert "bytes" in refused(zipped({"x.npy": data + more if more else data[:-1]}), Format.NPZ)

    def test_a_header_that_is_code_is_refused(self, refused: Any) -> None:
        header = b"__import__('os').abort()\n"
        assert "no .npy" in refused(
            zipped({"x.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header}), Format.NPZ
        )

    def test_a_header_of_megabytes_is_not_read_to_its_end(self, refused: Any) -> None:
        blanks = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**24) + b" " * 2**24
        noise = npy(np.frombuffer(np.random.default_rng(1).bytes(200_000), dtype=np.uint8))
        packed = zipped({"x.npy": blanks, "y.npy": noise}, zipfile.ZIP_DEFLATED)
        tracemalloc.start()
        try:
            assert "no .npy" in refused(packed, Format.NPZ)
            assert tracemalloc.get_traced_memory()[1] < 2**22
        finally:
            tracemalloc.stop()

    def test_two_members_of_one_name_are_refused(self, refused: Any) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("x.npy", npy(np.zeros(3)))
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("x.npy", npy(np.zeros(3)))
        assert "two of one name" in refused(buffer.getvalue(), Format.NPZ)

    def test_one_that_is_broken_off_is_refused(self, refused: Any) -> None:
        whole = npz(x=np.arange(1000.0))
        assert refused(whole[:-30], Format.NPZ)
        assert refused(whole[:200] + b"!" + whole[201:], Format.NPZ)


class TestTables:
    @pytest.mark.parametrize(
        "data",
        [
            parquet(end=b"PARE"),
            parquet(footer=b""),
            parquet(footer=b"\x00"),
            parquet(footer=b"\x15\x04\x19\x0c\x16\x06\x19\x0c\x00"),
            parquet(footer=b"\x1c" * 5000),
            parquet(footer=b"\x19\xfc\xff\xff\xff\xff\x0f"),
            parquet(footer=b"\x15" + b"\xff" * 30),
            b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1",
            b"PAR1PAR1",
        ],
    )
    def test_what_has_no_footer_of_a_table_is_refused(self, refused: Any, data: bytes) -> None:
        assert "arquet" in refused(data, Format.PARQUET)

    @pytest.mark.parametrize("bomb", [{"unpacked": 10**12}, {"values": 10_000}])
    def test_a_bomb_is_refused(self, refused: Any, bomb: dict[str, int]) -> None:
        # As large to read as it says, or a column of one number, which is a few bytes however long it is.
        assert "too much" in refused(parquet(**bomb), Format.PARQUET)

    @pytest.mark.parametrize("odd", [{"kind": 8}, {"kind": -1}, {"values": -3}])
    def test_a_column_that_there_cannot_be_is_refused(self, refused: Any, odd: dict[str, int]) -> None:
        assert "arquet" in refused(parquet(**odd), Format.PARQUET)


class TestTensors:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\0" * 7,
            tensors({}, b""),
            tensors(WEIGHTS, b"\0" * 23),
            tensors(WEIGHTS, b"\0" * 25),
            tensors(WEIGHTS, b"\0" * 24, length=2**63),
            tensors(b"[1]"),
            tensors(b"{" * 50_000),
            tensors(b'{"w": 1, "w": 2}'),
            tensors({"w": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8),
            tensors({"w": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
            tensors({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
            tensors({"w": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, b"\0" * 4),
            tensors({"w": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"\0" * 4),
            tensors({"w": {"dtype": "F32", "shape": [2**61] * 60, "data_offsets": [0, 4]}}, b"\0" * 4),
            tensors({**WEIGHTS, "v": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}, b"\0" * 24),
            tensors({**WEIGHTS, "v": {"dtype": "F32", "shape": [1], "data_offsets": [28, 32]}}, b"\0" * 32),
            tensors({**WEIGHTS, "__metadata__": {"a": 1}}, b"\0" * 24),
        ],
    )
    def test_what_does_not_hold_together_is_refused(self, refused: Any, data: bytes) -> None:
        assert refused(data, Format.SAFETENSORS)


class TestText:
    @pytest.mark.parametrize(
        "data", [b"a\0b", b"\x1f\x8b\x08\x00", b"caf\xe9", b"\xff\xfea\0", b"ends in \xc3", b"\x7f"]
    )
    def test_what_is_no_text_is_refused(self, refused: Any, data: bytes) -> None:
        assert "text" in refused(data, Format.TEXT)


@given(
    data=st.binary(max_size=200), kind=st.sampled_from(list(Format)), head=st.sampled_from([b"", b"PAR1", b"PK\3\4"])
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_pass_or_are_refused(tmp_path: Path, data: bytes, kind: Format, head: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(head + data + (b"PAR1" if head == b"PAR1" else b""))
    with contextlib.suppress(BadInputError):
        formats.check(path, kind)
