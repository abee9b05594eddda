"""Getting what ideas ask for of the catalogue: the gateway alone has a way out, and nobody names an address to it.

A caller names an entry. Where it is, how large, and by which hash it is known, is read from the catalogue, which only
an admin writes. What is large takes longer than a call may: whoever asks again is told how far it is.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from pathlib import Path
from typing import Protocol

from fumehood.domain.catalogue import Entry, is_name
from fumehood.domain.ledger import Claims
from fumehood.domain.template import PublicData
from fumehood.domain.token import TokenError
from fumehood.errors import BadInputError, ConflictError, MachineUnfitError, NotFoundError, TamperedError
from fumehood.ports import Artifacts, Delivered, Delivery, Store
from fumehood.services import formats

AT_ONCE = 2
"""Files that are got beside each other; others wait."""
WAIT_S = 10.0
"""So long a call is held for a file that may come soon."""


class Got(Protocol):
    """A file that was got."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def was_here(self) -> bool:
        """Whether somebody else had got it before."""


class Fetches:
    """The files that are being got; two who ask for the same file wait for one."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        check: Callable[[Claims], None],
        download: Callable[[str, PublicData], Got],
        *,
        wait_s: float = WAIT_S,
    ) -> None:
        """`check` refuses a token that opens nothing any more; `download` gets a file and checks its hash."""
        self._store = store
        self._artifacts = artifacts
        self._check = check
        self._download = download
        self._wait_s = wait_s
        self._pool = ThreadPoolExecutor(AT_ONCE, "fetches")
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[None]] = {}

    def get(self, claims: Claims, name: str) -> Delivery:
        """Return how it stands with an entry, which is begun to be got where it is not here.

        Raises `TokenError` for a token that opens nothing, and for every one of an execution: no run fetches.
        """
        if claims.execution:
            raise TokenError("A token of an execution fetches nothing.")
        self._check(claims)
        entry = self._entry(claims, name)
        if entry is None:
            return Delivery(state=Delivered.REFUSED, reason=f"{name[:40]} is not in the catalogue any more")
        with self._lock:
            job = self._under_way.get(entry.sha256)
            if job is None:
                job = self._under_way[entry.sha256] = self._pool.submit(self._bring, entry)
        try:
            job.result(self._wait_s)
        except NotYetError:
            return Delivery(state=Delivered.UNDER_WAY)
        except (BadInputError, TamperedError) as error:
            return Delivery(state=Delivered.REFUSED, reason=str(error))
        except ConflictError:
            # Another gateway of this folder has it in hand.
            return Delivery(state=Delivered.UNDER_WAY)
        except MachineUnfitError as error:
            return Delivery(state=Delivered.AWAY, reason=str(error))
        finally:
            if job.done():
                with self._lock:
                    self._under_way.pop(entry.sha256, None)
        return Delivery(state=Delivered.HERE, sha256=entry.sha256)

    def close(self) -> None:
        """Begin nothing more; what is under way is gone on with by whoever asks next."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _entry(self, claims: Claims, name: str) -> Entry | None:
        """Return the entry as the catalogue has it now, where the caller's direction may have it."""
        if not is_name(name):
            return None
        with self._store.begin(write=False) as tx:
            direction = tx.directions.get(claims.direction_id)
            found = tx.catalogue.find(id=name, removed_at=None)
        return next((one for one in found if one.is_for(direction.tenant, direction.template)), None)

    def _bring(self, entry: Entry) -> None:
        """Have an entry's bytes among the artifacts, of the right hash and of the format that it says."""
        with contextlib.suppress(NotFoundError):
            _checked(entry, self._artifacts.path(entry.sha256))
            return
        got = self._download(entry.id, _source(entry))
        try:
            _checked(entry, got.path)
            if self._artifacts.put_file(got.path) != entry.sha256:
                raise TamperedError(f"The file of {entry.id} changed while it was kept.")
        finally:
            if not got.was_here:
                got.path.unlink(missing_ok=True)


def _source(entry: Entry) -> PublicData:
    return PublicData(title=entry.title, url=entry.url, sha256=entry.sha256, bytes=entry.bytes, licence=entry.licence)


def _checked(entry: Entry, path: Path) -> None:
    try:
        formats.check(path, entry.format)
    except BadInputError as error:
        raise BadInputError(f"The file of {entry.id} {error}.") from error
