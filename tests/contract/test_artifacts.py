"""What every keeper of blobs promises: the one in memory, the one in a folder, and buckets of two real S3 servers."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fumehood.artifacts.local import LocalArtifacts
from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.errors import ArtifactsUnavailableError, BadInputError, NotFoundError, TamperedError
from fumehood.ports import Artifacts
from tests.object_stores import KINDS, ObjectStore

HELLO = hashlib.sha256(b"hello").hexdigest()
NOTHING = hashlib.sha256(b"").hexdigest()


KEEPERS = ["memory", "local", *(pytest.param(kind, marks=pytest.mark.s3) for kind in KINDS)]


@pytest.fixture(params=KEEPERS)
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Artifacts]:
    if request.param == "local":
        yield LocalArtifacts(tmp_path / "state" / "artifacts")
        return
    if request.param in KINDS:
        store: ObjectStore = request.getfixturevalue("object_stores")(request.param)
        yield store.artifacts(tmp_path / "cache", prefix=tmp_path.name)
        return
    memory = MemoryArtifacts()
    yield memory
    memory.close()


def names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestEach:
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(data=st.binary(max_size=300))
    def test_what_was_put_comes_back_by_its_hash(self, artifacts: Artifacts, data: bytes) -> None:
        sha256 = artifacts.put(data)
        assert sha256 == hashlib.sha256(data).hexdigest()
        assert artifacts.get(sha256) == data
        assert artifacts.path(sha256).read_bytes() == data

    def test_putting_again_changes_nothing(self, artifacts: Artifacts) -> None:
        assert artifacts.put(b"hello") == artifacts.put(b"hello") == HELLO
        assert artifacts.get(HELLO) == b"hello"
        assert artifacts.path(HELLO) == artifacts.path(HELLO)

    def test_one_that_answers_says_nothing_and_keeps_nothing(self, artifacts: Artifacts, tmp_path: Path) -> None:
        (tmp_path / "state").mkdir()
        before = names_below(tmp_path)
        artifacts.probe()
        artifacts.put(b"hello")
        artifacts.probe()
        assert [name for name in set(names_below(tmp_path)) - set(before) if HELLO not in name] == []

    def test_nothing_at_all_can_be_put(self, artifacts: Artifacts) -> None:
        assert artifacts.put(b"") == NOTHING
        assert artifacts.get(NOTHING) == b""

    def test_a_file_is_kept_and_not_touched(self, artifacts: Artifacts, tmp_path: Path) -> None:
        path = tmp_path / "big.bin"
        data = os.urandom(3 * 1024 * 1024 + 7)
        path.write_bytes(data)
        before = path.stat()
        sha256 = artifacts.put_file(path)
        assert sha256 == artifacts.put_file(path) == artifacts.put(data) == hashlib.sha256(data).hexdigest()
        path.write_bytes(b"changed later")
        assert artifacts.get(sha256) == data
        assert (before.st_mode, before.st_uid, before.st_ino) == (
            path.stat().st_mode,
            path.stat().st_uid,
            before.st_ino,
        )

    @pytest.mark.parametrize("sha256", ["0" * 64, "", "abc", HELLO.upper(), "../../etc/passwd", HELLO + "\n"])
    def test_what_is_not_there_is_not_found(self, artifacts: Artifacts, sha256: str) -> None:
        artifacts.put(b"hello")
        with pytest.raises(NotFoundError):
            artifacts.get(sha256)
        with pytest.raises(NotFoundError):
            artifacts.path(sha256)

    def test_only_a_regular_file_can_be_put(self, artifacts: Artifacts, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe"):
            with pytest.raises(BadInputError, match="not a regular file"):
                artifacts.put_file(path)
        with pytest.raises(NotFoundError, match="no file"):
            artifacts.put_file(tmp_path / "none")

    def test_a_path_is_not_writable(self, artifacts: Artifacts) -> None:
        assert artifacts.path(artifacts.put(b"hello")).stat().st_mode & 0o222 == 0

    def test_many_threads_put_the_same_and_different_bytes(self, artifacts: Artifacts) -> None:
        blobs = [bytes([number]) * 1000 for number in range(20)] * 4
        with ThreadPoolExecutor(8) as pool:
            hashes = list(pool.map(artifacts.put, blobs))
        assert [artifacts.get(sha256) for sha256 in hashes] == blobs


class TestLocal:
    def test_a_blob_lies_under_its_hash_and_nothing_else_is_left(self, tmp_path: Path) -> None:
        LocalArtifacts(tmp_path).put(b"hello")
        assert names_below(tmp_path) == [f"{HELLO[:2]}/{HELLO}"]
        assert stat.S_IMODE((tmp_path / HELLO[:2] / HELLO).stat().st_mode) == 0o400
        assert stat.S_IMODE((tmp_path / HELLO[:2]).stat().st_mode) == 0o700

    def test_another_process_sees_what_was_put(self, tmp_path: Path) -> None:
        LocalArtifacts(tmp_path).put(b"hello")
        assert LocalArtifacts(tmp_path).get(HELLO) == b"hello"

    def test_the_first_of_all_may_come_from_many_at_once(self, tmp_path: Path) -> None:
        """A folder made by one is never replaced by another's, which would lose what is being put into it."""

        def put(kept: LocalArtifacts, begin: threading.Barrier) -> str:
            begin.wait()
            return kept.put(b"hello")

        for turn in range(8):
            kept, begin = LocalArtifacts(tmp_path / str(turn) / "artifacts"), threading.Barrier(16)
            with ThreadPoolExecutor(16) as pool:
                assert {one.result() for one in [pool.submit(put, kept, begin) for _ in range(16)]} == {HELLO}

    @pytest.mark.parametrize("wrong", [b"hellO", b"", b"hello and more"])
    def test_changed_bytes_are_never_given_out(self, tmp_path: Path, wrong: bytes) -> None:
        artifacts = LocalArtifacts(tmp_path)
        path = artifacts.path(artifacts.put(b"hello"))
        path.chmod(0o600)
        path.write_bytes(wrong)
        with pytest.raises(TamperedError, match=HELLO):
            artifacts.get(HELLO)

    def test_a_blob_of_the_wrong_size_is_mended_by_putting_it_again(self, tmp_path: Path) -> None:
        artifacts = LocalArtifacts(tmp_path)
        path = artifacts.path(artifacts.put(b"hello"))
        path.chmod(0o600)
        path.write_bytes(b"hel")
        assert artifacts.put(b"hello") == HELLO
        assert artifacts.get(HELLO) == b"hello"

    def test_a_failed_put_leaves_nothing(self, tmp_path: Path) -> None:
        artifacts = LocalArtifacts(tmp_path / "root")
        artifacts.put(b"hello")
        (tmp_path / "root" / NOTHING[:2]).write_text("in the way")
        with pytest.raises(OSError, match=NOTHING[:2]):
            artifacts.put(b"")
        assert names_below(tmp_path / "root") == sorted([f"{HELLO[:2]}/{HELLO}", NOTHING[:2]])

    def test_what_the_disk_did_not_take_is_not_taken_for_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        artifacts = LocalArtifacts(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr("fumehood.artifacts.local.os.fsync", full)
            with pytest.raises(OSError, match="No space"):
                artifacts.put(b"hello")
        assert names_below(tmp_path) == []
        assert artifacts.get(artifacts.put(b"hello")) == b"hello"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for others")
    def test_what_root_puts_belongs_to_the_folders_owner(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            state = Path(name)
            os.chown(state, 54321, 54322)
            LocalArtifacts(state / "artifacts").put(b"hello")
            made = list(state.rglob("*"))
            assert len(made) == 3
            assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(54321, 54322)}


def test_a_folder_whose_disk_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactsUnavailableError, match="cannot be used"):
        LocalArtifacts(tmp_path / "unmounted" / "artifacts").probe()
