"""Blobs in a bucket of an S3 service, each under a key that ends with its hash."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote

from minio import Minio
from minio.error import S3Error
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from fumehood.artifacts.cache import Cache
from fumehood.artifacts.local import SHA256, chunks_of, open_regular
from fumehood.artifacts.s3_client import TRIES, S3Place, connect, told
from fumehood.errors import ArtifactsUnavailableError, BadInputError, ConflictError, NotFoundError, TamperedError

PART = 8 * 1024 * 1024
"""Larger blobs go up in parts of this size, one after the other, so that a put holds one part in memory."""
CHUNK = 1024 * 1024
LINK_S = 300
"""The longest that a link may hold."""
ABSENT = frozenset({"NoSuchKey", "NoSuchObject", "ResourceNotFound"})


class S3Artifacts:
    """Blobs as `<prefix>/<sha256>`; one that is there is never written again, whoever puts it.

    A put returns when the service has said that it keeps the whole object; until then nothing stands under its key.
    Raises `ArtifactsUnavailableError` when the service does not answer after a few tries or refuses us: nothing was
    kept by half, and the same call may be made again.
    """

    def __init__(self, place: S3Place, cache: Cache) -> None:
        self._place = place
        self._cache = cache
        self._client: Minio = connect(place)

    def check(self, *, create: bool = False) -> None:
        """See that the bucket is there and may be read and written; make it first where that is asked for."""
        with told(self._place):
            if not self._client.bucket_exists(self._place.bucket):
                self._make_bucket(allowed=create)
        self._write_probe()

    def _write_probe(self) -> None:
        name = f"{self._place.prefix}/probes/{secrets.token_hex(8)}"
        with told(self._place):
            self._client.put_object(self._place.bucket, name, io.BytesIO(b"probe"), 5)
        try:
            if b"".join(self._chunks(name)) != b"probe":
                raise ArtifactsUnavailableError(
                    f"The artifact store at {self._place.endpoint} does not give back what was put."
                )
        finally:
            # A key that may not remove anything is a good key; the few bytes then stay.
            with contextlib.suppress(ArtifactsUnavailableError), told(self._place):
                self._client.remove_object(self._place.bucket, name)

    def put(self, data: bytes) -> str:
        """Keep the bytes and return their SHA-256 in hex; durable when this returns."""
        sha256 = hashlib.sha256(data).hexdigest()
        self._keep(sha256, io.BytesIO(data), len(data))
        return sha256

    def put_file(self, path: Path) -> str:
        """Keep a regular file's bytes and return their SHA-256; the file is not touched.

        Raises `ConflictError`, and nothing is kept, when the file changes meanwhile.
        """
        with os.fdopen(open_regular(path), "rb", buffering=0) as file:
            known = hashlib.sha256()
            size = 0
            for chunk in chunks_of(file.fileno()):
                known.update(chunk)
                size += len(chunk)
            file.seek(0)
            self._keep(known.hexdigest(), file, size)
        return known.hexdigest()

    def get(self, sha256: str) -> bytes:
        """Return the bytes; `NotFoundError` when absent, `TamperedError` when they no longer match their hash."""
        data = b"".join(self._chunks(self._key(sha256)))
        if hashlib.sha256(data).hexdigest() != sha256:
            raise TamperedError(f"The stored bytes of {sha256} no longer match their hash.")
        return data

    def path(self, sha256: str) -> Path:
        """Return a local copy; `NotFoundError` when absent, `TamperedError` when what is stored does not match."""
        key = self._key(sha256)
        return self._cache.path(sha256, lambda: self._chunks(key))

    def probe(self, *, writes: bool = False) -> None:
        """Return when the service answers for our keys, and takes an object; else raise `ArtifactsUnavailableError`."""
        if writes:
            self._write_probe()
        else:
            self._size(self._key("0" * 64))

    def link(self, sha256: str, filename: str, *, seconds: int = LINK_S) -> str:
        """Return an address that gives these bytes to whoever holds it, as a download; it is secret: never log it.

        Raises `NotFoundError` when absent.
        """
        if not 1 <= seconds <= LINK_S:
            raise BadInputError(f"A link holds for 1 to {LINK_S} seconds, not for {seconds}.")
        key = self._key(sha256)
        if self._size(key) is None:
            raise NotFoundError(f"There is no artifact {sha256}.")
        with told(self._place):
            return self._client.presigned_get_object(
                self._place.bucket,
                key,
                expires=timedelta(seconds=seconds),
                response_headers={
                    "response-content-disposition": _attachment(filename),
                    "response-content-type": "application/octet-stream",
                },
            )

    def _key(self, sha256: str) -> str:
        if not SHA256.fullmatch(sha256):
            raise NotFoundError(f"{sha256!r} is not a SHA-256 in hex, so nothing is stored under it.")
        return f"{self._place.prefix}/{sha256}"

    def _keep(self, sha256: str, data: BinaryIO | io.RawIOBase, size: int) -> None:
        key = self._key(sha256)
        if self._is_kept(sha256, key, size):
            return
        try:
            with told(self._place):
                self._client.put_object(
                    self._place.bucket,
                    key,
                    cast("BinaryIO", Checked(data, sha256, size)),
                    size,
                    part_size=PART,
                    num_parallel_uploads=1,
                )
        except ArtifactsUnavailableError:
            # It may stand there all the same: put by another at the same time, or by us, with the answer lost.
            if not self._is_kept(sha256, key, size):
                raise

    def _is_kept(self, sha256: str, key: str, size: int) -> bool:
        stored = self._size(key)
        if stored is not None and stored != size:
            # The service shows whole objects only, so a wrong size is no accident of ours; nothing is written over it.
            raise TamperedError(f"What is stored as {sha256} has {stored} bytes in the place of {size}.")
        return stored is not None

    def _size(self, key: str) -> int | None:
        with told(self._place):
            try:
                return self._client.stat_object(self._place.bucket, key).size
            except S3Error as error:
                if error.code in ABSENT:
                    return None
                raise

    def _chunks(self, key: str) -> Iterator[bytes]:
        """Give an object's bytes; an answer that breaks off is asked for again from there on."""
        given = 0
        for left in reversed(range(TRIES)):
            with told(self._place):
                response = self._open(key, given)
                try:
                    for chunk in response.stream(CHUNK):
                        yield chunk
                        given += len(chunk)
                    return
                except HTTPError:
                    if not left:
                        raise
                finally:
                    response.close()
                    response.release_conn()

    def _open(self, key: str, offset: int) -> BaseHTTPResponse:
        try:
            return self._client.get_object(self._place.bucket, key, offset=offset)
        except S3Error as error:
            if error.code in ABSENT:
                raise NotFoundError(f"There is no artifact {key.rpartition('/')[2]}.") from None
            raise

    def _make_bucket(self, *, allowed: bool) -> None:
        if not allowed:
            raise ArtifactsUnavailableError(
                f"The artifact store at {self._place.endpoint} has no bucket {self._place.bucket}.",
                remedy="Make it, or set FUMEHOOD_S3_CREATE_BUCKET=true.",
            )
        try:
            self._client.make_bucket(self._place.bucket, location=self._place.region)
        except S3Error as error:
            if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise


class Checked(io.RawIOBase):
    """A stream that gives its last bytes only when all of them together have the promised hash and size."""

    def __init__(self, data: BinaryIO | io.RawIOBase, sha256: str, size: int) -> None:
        super().__init__()
        self._data = data
        self._sha256 = sha256
        self._left = size
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Return some bytes; `ConflictError` when they are not those that were promised."""
        data = self._data.read(min(size, self._left) if size >= 0 else self._left) or b""
        self._digest.update(data)
        self._left -= len(data)
        if (size and not data and self._left) or (not self._left and self._digest.hexdigest() != self._sha256):
            raise ConflictError("The file changed while it was kept, so nothing was; put it again.")
        return data


def _attachment(filename: str) -> str:
    """Return the header that makes a browser save a file, under a name that cannot leave the quotes."""
    plain = (
        "".join(sign if sign.isascii() and (sign.isalnum() or sign in "._-") else "_" for sign in filename) or "file"
    )
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
