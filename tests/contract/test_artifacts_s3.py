"""What only artifacts in S3 promise, tried on real servers, also while these are killed and their objects changed."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from fumehood.artifacts.cache import Cache
from fumehood.artifacts.choose import open_artifacts
from fumehood.artifacts.local import LocalArtifacts
from fumehood.artifacts.s3 import PART, S3Artifacts
from fumehood.artifacts.s3_client import S3Place, connect
from fumehood.cli.servers import lasting_port
from fumehood.errors import ArtifactsUnavailableError, BadInputError, ConflictError, NotFoundError, TamperedError
from fumehood.settings import Settings
from tests.contract.conftest import until
from tests.object_stores import ACCESS_KEY, KINDS, SECRET_KEY, ObjectStore

pytestmark = pytest.mark.s3
HELLO = hashlib.sha256(b"hello").hexdigest()
MIB = 1024 * 1024
BIG = 64 * MIB
MOST_MEMORY = 48 * MIB
"""Above what the program has before it puts: some parts of 8 MiB, never the whole blob."""


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, object_stores: Callable[[str], ObjectStore]) -> ObjectStore:
    return object_stores(request.param)


@pytest.fixture
def artifacts(store: ObjectStore, tmp_path: Path) -> S3Artifacts:
    return store.artifacts(tmp_path / "cache", prefix=tmp_path.name)


@pytest.fixture(params=KINDS)
def own_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """A server of one test alone, which it may kill."""
    made = ObjectStore(request.param, tmp_path / "server")
    made.start()
    yield made
    made.kill()


def overwrite(place: S3Place, key: str, data: bytes) -> None:
    """Change an object behind the platform's back: the same service, and a client that does not ask."""
    client = connect(place)
    client.remove_object(place.bucket, key)
    client.put_object(place.bucket, key, io.BytesIO(data), len(data))


def gives(artifacts: S3Artifacts, sha256: str) -> bool:
    """Tell whether a server that was started again has found its objects; until then it says that it is away."""
    try:
        artifacts.get(sha256)
    except ArtifactsUnavailableError:
        return False
    return True


def fetch(address: str) -> tuple[int, bytes, str]:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.status, answer.read(), f"{answer.headers}"
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b"", ""


class TestBytes:
    @pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 1])
    def test_every_size_comes_back_whole(self, artifacts: S3Artifacts, tmp_path: Path, size: int) -> None:
        data = os.urandom(size)
        (tmp_path / "blob").write_bytes(data)
        sha256 = artifacts.put_file(tmp_path / "blob")
        assert sha256 == artifacts.put(data)
        assert artifacts.get(sha256) == data
        assert artifacts.path(sha256).read_bytes() == data

    def test_two_who_put_the_same_at_once_both_succeed(self, artifacts: S3Artifacts) -> None:
        for size in (100, PART + 1):
            data = os.urandom(size)
            with ThreadPoolExecutor(4) as pool:
                assert set(pool.map(artifacts.put, [data] * 4)) == {hashlib.sha256(data).hexdigest()}
            assert artifacts.get(hashlib.sha256(data).hexdigest()) == data

    def test_a_large_file_takes_little_memory(self, store: ObjectStore, tmp_path: Path) -> None:
        (tmp_path / "big").write_bytes(os.urandom(BIG))
        program = f"""
import resource
from pathlib import Path
from pydantic import SecretStr
from fumehood.artifacts.cache import Cache
from fumehood.artifacts.s3 import S3Artifacts
from fumehood.artifacts.s3_client import S3Place
place = S3Place(endpoint={store.place().endpoint!r}, bucket="big", access_key={ACCESS_KEY!r},
    secret_key=SecretStr({SECRET_KEY!r}), secure=False)
artifacts = S3Artifacts(place, Cache(Path({str(tmp_path / "cache")!r}), {BIG * 2}))
artifacts.check(create=True)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
sha256 = artifacts.put_file(Path({str(tmp_path / "big")!r}))
artifacts.path(sha256)
print(sha256, peak() - before)
"""
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
        sha256, more = ended.stdout.split()
        assert sha256 == hashlib.sha256((tmp_path / "big").read_bytes()).hexdigest()
        assert int(more) < MOST_MEMORY

    @pytest.mark.parametrize("size", [100, 2 * PART])
    def test_a_file_that_changes_meanwhile_is_not_kept(self, artifacts: S3Artifacts, size: int) -> None:
        promised, really = os.urandom(size), os.urandom(size)
        sha256 = hashlib.sha256(promised).hexdigest()
        for data in (really, really[:-1]):
            with pytest.raises(ConflictError, match="changed"):
                artifacts._keep(sha256, io.BytesIO(data), size)
            with pytest.raises(NotFoundError):
                artifacts.get(sha256)


class TestTampered:
    def test_changed_bytes_are_never_given_out(
        self, artifacts: S3Artifacts, store: ObjectStore, tmp_path: Path
    ) -> None:
        sha256 = artifacts.put(b"hello")
        overwrite(store.place(prefix=tmp_path.name), f"{tmp_path.name}/{sha256}", b"hellO")
        with pytest.raises(TamperedError, match=HELLO):
            artifacts.get(sha256)
        with pytest.raises(TamperedError, match=HELLO):
            artifacts.path(sha256)
        assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []

    def test_a_changed_size_is_said_and_not_written_over(
        self, artifacts: S3Artifacts, store: ObjectStore, tmp_path: Path
    ) -> None:
        sha256 = artifacts.put(b"hello")
        overwrite(store.place(), f"{tmp_path.name}/{sha256}", b"hello and more")
        with pytest.raises(TamperedError, match="14 bytes"):
            artifacts.put(b"hello")
        with pytest.raises(TamperedError):
            artifacts.get(sha256)

    def test_the_service_refuses_a_second_write(self, object_stores: Callable[[str], ObjectStore]) -> None:
        from minio.error import S3Error

        place = object_stores("seaweedfs").place(prefix="once")
        object_stores("seaweedfs").artifacts(Path("unused"))
        client = connect(place)
        for size in (5, PART * 2):
            client.put_object(place.bucket, f"once/{size}", io.BytesIO(b"a" * size), size, part_size=PART)
            with pytest.raises(S3Error, match="PreconditionFailed"):
                client.put_object(place.bucket, f"once/{size}", io.BytesIO(b"b" * size), size, part_size=PART)
            with client.get_object(place.bucket, f"once/{size}") as answer:
                assert answer.read(1) == b"a"


class TestLinks:
    def test_a_link_downloads_as_a_file(self, artifacts: S3Artifacts) -> None:
        status, data, headers = fetch(artifacts.link(artifacts.put(b"hello"), 'a "paper"\r\nX: 1 ü.pdf'))
        assert (status, data) == (200, b"hello")
        assert 'attachment; filename="a__paper___X__1__.pdf"' in headers
        assert "application/octet-stream" in headers
        assert "\nX: 1" not in headers

    def test_a_link_is_bound_to_its_key_and_its_words(self, artifacts: S3Artifacts) -> None:
        one, other = artifacts.put(b"hello"), artifacts.put(b"secret")
        address = artifacts.link(one, "paper.pdf")
        assert fetch(address.replace(one, other))[0] == 403
        assert fetch(address.replace("attachment", "inline"))[0] == 403
        assert fetch(address.replace("X-Amz-Expires=300", "X-Amz-Expires=3000"))[0] == 403
        assert fetch(address.partition("?")[0])[0] == 403

    def test_an_expired_link_is_refused(self, artifacts: S3Artifacts) -> None:
        address = artifacts.link(artifacts.put(b"hello"), "paper.pdf", seconds=1)
        deadline = time.monotonic() + 10
        while (status := fetch(address)[0]) == 200 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert status == 403

    def test_a_link_holds_five_minutes_at_most_and_leads_to_something(self, artifacts: S3Artifacts) -> None:
        for seconds in (0, 301):
            with pytest.raises(BadInputError):
                artifacts.link(HELLO, "paper.pdf", seconds=seconds)
        with pytest.raises(NotFoundError):
            artifacts.link(hashlib.sha256(b"nobody put this").hexdigest(), "paper.pdf")


class TestRefused:
    def test_a_wrong_secret_is_refused_and_never_told(
        self, store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        wrong = store.place(secret_key=SecretStr("a-wrong-secret-of-these"))
        refused = S3Artifacts(wrong, Cache(tmp_path, MIB))
        for call in (refused.check, refused.probe, lambda: refused.put(b"hello"), lambda: refused.get(HELLO)):
            with pytest.raises(ArtifactsUnavailableError, match="refuses us") as told:
                call()
            assert told.value.exit_status == 3
            assert "a-wrong-secret" not in f"{told.value!r}{told.value.__cause__!r}{wrong!r}{caplog.text}"

    def test_a_link_is_not_logged(self, artifacts: S3Artifacts, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        artifacts.link(artifacts.put(b"hello"), "paper.pdf")
        assert "X-Amz-Signature" not in caplog.text

    def test_a_bucket_is_made_only_where_that_is_asked_for(self, store: ObjectStore, tmp_path: Path) -> None:
        artifacts = S3Artifacts(store.place(bucket=f"new-{store.kind}"), Cache(tmp_path, MIB))
        with pytest.raises(ArtifactsUnavailableError, match="FUMEHOOD_S3_CREATE_BUCKET=true"):
            artifacts.check()
        artifacts.check(create=True)
        artifacts.check()
        assert artifacts.get(artifacts.put(b"hello")) == b"hello"

    def test_settings_choose_the_bucket(self, store: ObjectStore, tmp_path: Path) -> None:
        assert isinstance(open_artifacts(Settings(state_dir=tmp_path)), LocalArtifacts)
        asked = dataclasses.asdict(store.place())
        named = {f"s3_{name}": value for name, value in asked.items()} | {"s3_create_bucket": True}
        artifacts = open_artifacts(Settings(state_dir=tmp_path, **named))
        assert artifacts.path(artifacts.put(b"hello")) == tmp_path / "artifacts-cache" / HELLO[:2] / HELLO
        assert SECRET_KEY not in repr(Settings(state_dir=tmp_path, **named))
        with pytest.raises(BadInputError, match="ACCESS_KEY"):
            open_artifacts(Settings(state_dir=tmp_path, s3_endpoint="127.0.0.1:1"))
        with pytest.raises(BadInputError, match="without http://"):
            open_artifacts(Settings(state_dir=tmp_path, **{**named, "s3_endpoint": "http://127.0.0.1:1/x"}))


class TestAway:
    def test_nobody_there_is_one_sentence(self, tmp_path: Path) -> None:
        place = S3Place(
            endpoint=f"127.0.0.1:{lasting_port()}",
            bucket="tests",
            access_key=ACCESS_KEY,
            secret_key=SecretStr(SECRET_KEY),
            secure=False,
        )
        artifacts = S3Artifacts(place, Cache(tmp_path, MIB))
        for call in (artifacts.check, artifacts.probe, lambda: artifacts.put(b"hello"), lambda: artifacts.path(HELLO)):
            with pytest.raises(ArtifactsUnavailableError, match="does not answer"):
                call()

    @pytest.mark.kill
    def test_killed_in_the_middle_of_a_put(self, own_store: ObjectStore, tmp_path: Path) -> None:
        artifacts = own_store.artifacts(tmp_path / "cache")
        kept = artifacts.put(b"put before it was killed")
        (tmp_path / "big").write_bytes(os.urandom(2 * BIG))
        sha256 = hashlib.sha256((tmp_path / "big").read_bytes()).hexdigest()
        before = own_store.size()
        with ThreadPoolExecutor(1) as pool:
            putting = pool.submit(artifacts.put_file, tmp_path / "big")
            deadline = time.monotonic() + 30
            while own_store.size() < before + 2 * PART and not putting.done():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            own_store.kill()
            with pytest.raises(ArtifactsUnavailableError):
                putting.result(timeout=60)
        own_store.start()
        with pytest.raises(NotFoundError):
            artifacts.get(sha256)
        until(lambda: gives(artifacts, kept), 60)
        assert artifacts.get(kept) == b"put before it was killed"
        assert artifacts.put_file(tmp_path / "big") == sha256
        assert hashlib.sha256(artifacts.path(sha256).read_bytes()).hexdigest() == sha256


class TestCache:
    """Of the local copies alone; where they come from does not matter."""

    def test_what_was_handed_out_longest_ago_goes_first(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path, 250, in_use_s=10)
        blobs = {hashlib.sha256(data).hexdigest(): data for data in (bytes([n]) * 100 for n in range(3))}
        paths = []
        for age, (sha256, data) in zip((50, 100, 0), blobs.items(), strict=True):
            paths.append(cache.path(sha256, lambda data=data: [data]))  # type: ignore[misc]
            os.utime(paths[-1], (time.time() - age,) * 2)
        cache.path(hashlib.sha256(b"").hexdigest(), lambda: [b""])
        assert [path.exists() for path in paths] == [True, False, True]

    def test_what_was_just_handed_out_stays_in_every_process(self, tmp_path: Path) -> None:
        first = Cache(tmp_path, 1).path(HELLO, lambda: [b"hello"])
        Cache(tmp_path, 1).path(hashlib.sha256(b"more").hexdigest(), lambda: [b"more"])
        assert first.read_bytes() == b"hello"

    def test_being_handed_out_again_counts(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path, 1, in_use_s=10)
        path = cache.path(HELLO, lambda: [b"hello"])
        os.utime(path, (0, 0))
        assert cache.path(HELLO, lambda: pytest.fail("it is there")) == path
        cache.path(hashlib.sha256(b"more").hexdigest(), lambda: [b"more"])
        assert path.exists()

    def test_a_damaged_copy_is_fetched_again(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path, 100)
        path = cache.path(HELLO, lambda: [b"hello"])
        path.chmod(0o600)
        path.write_bytes(b"hel")
        assert cache.path(HELLO, lambda: [b"he", b"llo"]).read_bytes() == b"hello"

    def test_what_was_half_fetched_is_cleared_away_later(self, tmp_path: Path) -> None:
        left = tmp_path / ".new-killed"
        left.write_bytes(b"hal")
        cache = Cache(tmp_path, 10**9, in_use_s=10)
        cache.path(HELLO, lambda: [b"hello"])
        assert left.exists()
        os.utime(left, (0, 0))
        cache.path(hashlib.sha256(b"").hexdigest(), lambda: [b""])
        assert not left.exists()
