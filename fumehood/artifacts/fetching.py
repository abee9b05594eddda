"""Getting a template's public data over HTTP: in pieces, up to its size, and kept only where its hash is right."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from fumehood.artifacts.files import give, make_folder, sync_folder
from fumehood.domain.template import PublicData
from fumehood.errors import BadInputError, ConflictError, MachineUnfitError, TamperedError
from fumehood.services.public_data import FetchedData

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 30.0
TRIES = 5
"""How often a connection that breaks is taken up again where it broke."""
REDIRECTS = 5
PATIENCE_S, LEAST_BYTES_S = 60.0, 1024
"""So long an answer may take at any pace; then it is broken off where less came in a second."""
SPARE_BYTES = 64 * 1024 * 1024
"""What is left free on the disk."""
OK, PARTIAL = 200, 206
REDIRECTED = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file that is here now."""

    name: str
    sha256: str
    path: Path
    was_here: bool


def fetch(
    name: str,
    source: PublicData,
    into: FetchedData,
    *,
    mirror: str = "",
    sha256: str = "",
    say: Callable[[str], None] = lambda _: None,
    free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    wait_s: float = 1.0,
) -> Fetched:
    """Return a data set's file, got where it is not here yet; it is read-only, and there under its hash or not at all.

    Args:
        name: The data set's.
        source: Where it is, how large it is, and its hash.
        into: The folder of what was fetched. What came so far lies there as `<name>.<...>.part`, and is gone on with.
        mirror: An address that has it as `MIRROR/NAME`; the source's own where it is empty.
        sha256: What an admin vouches for, where the source does not say it.
        say: Takes a line for a person.
        free: How many bytes a folder's disk has left.
        wait_s: How long to wait before a broken connection is taken up again; longer each time.

    Raises:
        BadInputError: The hash that was given is not the template's, or nobody gave one: that of what came is told.
        TamperedError: What came has another size or hash; it is thrown away.
        MachineUnfitError: It cannot be reached, or there is no room.
        ConflictError: Another command is getting it.
    """
    wanted = into.hash_of(source) or sha256
    if sha256 and sha256 != wanted:
        raise BadInputError(f"The SHA-256 of {name} is to be {wanted}, and {sha256} was given.")
    if into.has(source):
        if _hash(into.path(wanted)) != wanted:
            raise TamperedError(f"{into.path(wanted)} no longer matches its hash: remove it, and fetch it again.")
        return Fetched(name=name, sha256=wanted, path=into.path(wanted), was_here=True)
    part = into.folder / f"{name}.{hashlib.sha256(source.url.encode()).hexdigest()[:16]}.part"
    address = f"{mirror.rstrip('/')}/{name}" if mirror else source.url
    try:
        make_folder(into.folder)
        # Until it has its name: another command would find it whole, and take it from under our hands.
        with part.open("a+b") as file:
            _lock(file, address)
            if into.has(source):
                part.unlink(missing_ok=True)
                return Fetched(name=name, sha256=wanted, path=into.path(wanted), was_here=True)
            _download(address, file, part.parent, source.bytes, say, free, wait_s)
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if not wanted:
                raise BadInputError(
                    f"The template gives no SHA-256 of {name}, so it is not used yet. What came from {address} has"
                    f" {found}: if that is right, say so by --sha256 {found}."
                )
            if found != wanted:
                part.unlink(missing_ok=True)
                raise TamperedError(
                    f"{name} from {address} has the SHA-256 {found}, and {wanted} is expected; it is not kept."
                )
            _write_note(into.note(wanted), source, wanted, address, "template" if source.sha256 else "admin")
            part.chmod(0o444)
            give(part)
            part.replace(into.path(wanted))
            sync_folder(into.folder)
    except OSError as error:
        raise MachineUnfitError(
            f"{name} could not be written to {into.folder}: {error.strerror or error}.", remedy="Make room there."
        ) from error
    return Fetched(name=name, sha256=wanted, path=into.path(wanted), was_here=False)


def _lock(file: IO[bytes], address: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConflictError(f"Another command is fetching {address}.") from None


def _write_note(path: Path, source: PublicData, sha256: str, address: str, vouched_by: str) -> None:
    told = {
        "url": source.url,
        "sha256": sha256,
        "bytes": source.bytes,
        "from": address,
        "vouched_by": vouched_by,
        "fetched_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(
    address: str,
    file: IO[bytes],
    folder: Path,
    size: int,
    say: Callable[[str], None],
    free: Callable[[Path], int],
    wait_s: float,
) -> None:
    """Have the whole file, from where it is on."""
    import httpx

    if file.seek(0, os.SEEK_END) > size:
        file.truncate(0)
    missing = size - file.seek(0, os.SEEK_END)
    if free(folder) < missing + SPARE_BYTES:
        raise MachineUnfitError(
            f"{folder} has no room for {missing:,} bytes.", remedy="Make room there, or set FUMEHOOD_STATE_DIR."
        )
    why = ""
    with httpx.Client(timeout=TIMEOUT_S, follow_redirects=False) as client:
        for attempt in range(TRIES):
            if file.tell() == size:
                break
            if attempt:
                say(f"{why}; going on from byte {file.tell():,}")
                time.sleep(wait_s * 2 ** (attempt - 1))
            try:
                _receive(client, address, file, size)
                why = f"the connection ended after {file.tell():,} of {size:,} bytes"
            except httpx.HTTPError as error:
                why = f"{type(error).__name__}: {error}".strip(": ")
        file.flush()
        os.fsync(file.fileno())
        if file.tell() != size:
            raise MachineUnfitError(
                f"{address} could not be fetched: {why}.", remedy="Try again: it goes on where it broke off."
            )


def _receive(client: httpx.Client, address: str, file: IO[bytes], size: int) -> None:
    """Add what the server sends from the file's end on; a larger file than was said is refused as soon as it shows."""
    import httpx

    begin, began = file.tell(), time.monotonic()
    # What is compressed on its way would have another size and no ranges.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begin}-"} if begin else {})
    for _ in range(REDIRECTS + 1):
        with client.stream("GET", address, headers=headers) as answer:
            if answer.status_code in REDIRECTED:
                address = _followed(address, answer.headers.get("location", ""))
                continue
            _check(answer.status_code, answer.headers.get("content-range", ""), address, begin)
            if answer.status_code == OK and begin:
                file.truncate(0)  # it takes no ranges: from the beginning, then
                file.seek(0)
            for chunk in answer.iter_raw():
                if file.tell() + len(chunk) > size:
                    file.truncate(0)
                    raise TamperedError(f"{address} sends more than the {size:,} bytes that are expected.")
                file.write(chunk)
                taken = time.monotonic() - began
                if taken > PATIENCE_S and file.tell() - begin < LEAST_BYTES_S * taken:
                    # It would keep others from theirs for days.
                    raise httpx.ReadTimeout(f"less than {LEAST_BYTES_S:,} bytes a second came")
            return
    raise MachineUnfitError(f"{address} is redirected again and again.")


def _check(status: int, content_range: str, address: str, begin: int) -> None:
    if status == PARTIAL and content_range.startswith(f"bytes {begin}-"):
        return
    if status != OK:
        raise MachineUnfitError(
            f"{address} answers with status {status}.", remedy="A mirror can be named by FUMEHOOD_DATA_MIRROR."
        )


def _followed(address: str, location: str) -> str:
    """Return where a redirect leads; only within the same host, and never from https to http."""
    there, here = urlsplit(urljoin(address, location)), urlsplit(address)
    if not location or there.hostname != here.hostname or (here.scheme, there.scheme) == ("https", "http"):
        raise MachineUnfitError(
            f"{address} is redirected to {there.scheme}://{there.netloc}, which is not followed.",
            remedy="If that place is right, name it by FUMEHOOD_DATA_MIRROR.",
        )
    return there.geturl()
