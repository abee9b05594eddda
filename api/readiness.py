"""Whether this installation can do its work now: each thing it needs is asked, all at once and not for long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fumehood.domain.worker import Part
from fumehood.errors import FumehoodError
from fumehood.ports import Artifacts, Clock, Store
from fumehood.services import presence

PATIENCE_S = 2.0
"""How long a check may take."""
KEPT_S = 1.0
"""How long an answer holds: whoever asks more often, and needs no key for it, costs nothing more."""
WORKERS = {"write worker": Part.WRITE, "run worker": Part.RUN, "watcher": Part.WATCH}
_LOG = logging.getLogger("fumehood.api.readiness")


class NotReadyError(FumehoodError):
    """One thing is not ready; the sentence is for everybody, so it names no host and no address."""


Check = Callable[[], None]
"""Returns when all is well, else raises: `NotReadyError` with the sentence to tell, anything else for the log alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one check found."""

    name: str
    ok: bool
    why: str = ""


def checks_of(store: Store, artifacts: Artifacts, clock: Clock, more: Mapping[str, Check]) -> dict[str, Check]:
    """Return what an installation needs, by name: the database, the artifacts, and workers of each part."""
    return {
        "database": lambda: _answers(store),
        "artifacts": artifacts.probe,
        **more,
        **{name: _at_work(store, clock, name, part) for name, part in WORKERS.items()},
    }


def _answers(store: Store) -> None:
    store.version()


def _at_work(store: Store, clock: Clock, name: str, part: Part) -> Check:
    def check() -> None:
        with store.begin(write=False) as tx:
            if not presence.fresh(tx, clock.now())[part]:
                raise NotReadyError(f"No {name} was seen at work in the last {presence.FRESH_S:.0f} s.")

    return check


class Readiness:
    """Asks all checks side by side, each in a thread of its own that outlives a check that hangs."""

    def __init__(self, checks: Mapping[str, Check], *, patience_s: float = PATIENCE_S, kept_s: float = KEPT_S) -> None:
        self._checks = [_Asked(name, check) for name, check in checks.items()]
        self._patience_s = patience_s
        self._kept_s = kept_s
        self._one_at_a_time = threading.Lock()
        self._answers: tuple[Answer, ...] = ()
        self._stale_at = 0.0

    def ask(self) -> tuple[Answer, ...]:
        """Return what each check says, in no more than a check's patience."""
        with self._one_at_a_time:
            if time.monotonic() >= self._stale_at:
                until = time.monotonic() + self._patience_s
                for one in self._checks:
                    one.begin()
                self._answers = tuple(one.answer(until) for one in self._checks)
                self._stale_at = time.monotonic() + self._kept_s
            return self._answers


class _Asked:
    def __init__(self, name: str, check: Check) -> None:
        self._name = name
        self._check = check
        self._thread: threading.Thread | None = None
        self._said = Answer(name=name, ok=False)

    def begin(self) -> None:
        # One that still hangs is not asked again: it would only hang twice.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._ask, daemon=True)
            self._thread.start()

    def answer(self, until: float) -> Answer:
        thread = self._thread
        if thread is not None:
            thread.join(max(until - time.monotonic(), 0.0))
            if thread.is_alive():
                return Answer(name=self._name, ok=False, why="It did not answer in time.")
        return self._said

    def _ask(self) -> None:
        try:
            self._check()
        except NotReadyError as error:
            self._said = Answer(name=self._name, ok=False, why=str(error))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, this is not ready
            _LOG.warning("%s is not ready: %s", self._name, error)
            self._said = Answer(name=self._name, ok=False, why="It does not answer, or refuses us; the log says more.")
        else:
            self._said = Answer(name=self._name, ok=True)
