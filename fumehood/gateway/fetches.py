"""Getting what ideas ask for of the catalogue: the gateway alone has a way out, and nobody names an address to it.

A caller names an entry. Where it is, how large, and by which hash it is known, is read from the catalogue, which only
an admin writes. What is large takes longer than a call may: whoever asks again is told that it is on its way.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from fumehood.domain.catalogue import Entry, is_name
from fumehood.domain.ledger import Claims
from fumehood.domain.template import PublicData
from fumehood.domain.token import TokenError
from fumehood.errors import BadInputError, ConflictError, MachineUnfitError, NotFoundError, TamperedError
from fumehood.ports import Artifacts, Delivered, Delivery, Store
from fumehood.services import catalogue

AT_ONCE = 2
"""Files that are got beside each other; others wait."""
WAIT_S = 10.0
"""So long a call is held for a file that may come soon."""


class Fetches:
    """The files that are being got; two who ask for the same file wait for one."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        check: Callable[[Claims], None],
        download: Callable[[str, PublicData], Path],
        *,
        wait_s: float = WAIT_S,
    ) -> None:
        """`check` refuses a token that opens nothing any more; `download` gets a file for us alone, and checks it."""
        self._store = store
        self._artifacts = artifacts
        self._check = check
        self._download = download
        self._wait_s = wait_s
        self._pool = ThreadPoolExecutor(AT_ONCE, "fetches")
        self._lock = threading.Lock()
        self._under_way: dict[str, tuple[Entry, Future[None]]] = {}

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
        begun, job = self._job(entry)
        wait((job,), self._wait_s)
        if not job.done():
            return Delivery(state=Delivered.UNDER_WAY)
        with self._lock:
            if self._under_way.get(entry.sha256) == (begun, job):
                del self._under_way[entry.sha256]
        if begun != entry:
            # The bytes were got for another entry, which may say other things of them.
            return self.get(claims, name)
        return _delivery(entry, job)

    def _job(self, entry: Entry) -> tuple[Entry, Future[None]]:
        """Return what is under way for the bytes of an entry, begun where nothing is, and for which entry it is."""
        with self._lock:
            if entry.sha256 not in self._under_way:
                self._under_way[entry.sha256] = (entry, self._pool.submit(self._bring, entry))
            return self._under_way[entry.sha256]

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
            catalogue.check_file(entry, self._artifacts.path(entry.sha256))
            return
        path = self._download(entry.id, _source(entry))
        try:
            catalogue.check_file(entry, path)
            kept = self._artifacts.put_file(path)
        except BadInputError:
            path.unlink()
            raise
        except OSError as error:
            # What came stays, as it does where the store of artifacts is away: who asks again need not get it again.
            raise MachineUnfitError(
                f"The file of {entry.id} came and could not be kept: {error.strerror or error}.",
                remedy="Make room among the artifacts.",
            ) from error
        path.unlink()
        if kept != entry.sha256:
            raise TamperedError(f"The file of {entry.id} changed while it was kept.")


def _delivery(entry: Entry, job: Future[None]) -> Delivery:
    try:
        job.result()
    except (BadInputError, TamperedError) as error:
        return Delivery(state=Delivered.REFUSED, reason=str(error))
    except ConflictError:
        # Another gateway of this folder has it in hand.
        return Delivery(state=Delivered.UNDER_WAY)
    except MachineUnfitError as error:
        return Delivery(state=Delivered.AWAY, reason=str(error))
    return Delivery(state=Delivered.HERE, sha256=entry.sha256)


def _source(entry: Entry) -> PublicData:
    return PublicData(title=entry.title, url=entry.url, sha256=entry.sha256, bytes=entry.bytes, licence=entry.licence)
