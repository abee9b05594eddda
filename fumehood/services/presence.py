"""That worker processes are at work: each is seen in transactions that it opens for its work anyway."""

from __future__ import annotations

from fumehood.domain.worker import Part, Worker
from fumehood.ports import Clock, Transaction

SEEN_EVERY_S = 5.0
FRESH_S = 30.0
"""Who was seen within this time is at work; twice what the rarest sign of one takes, the renewal of a long lease."""
FORGOTTEN_S = 3600.0


class Presence:
    """One process, which shows itself now and then."""

    def __init__(self, part: Part, clock: Clock) -> None:
        self._part = part
        self._clock = clock
        self._id = clock.new_id("worker")
        self._shown = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it has not shown itself for a while."""
        return self._clock.now() - self._shown >= SEEN_EVERY_S

    def show(self, tx: Transaction) -> None:
        """Write down that it is at work, unless it did just now."""
        if self.is_due:
            self._shown = self._clock.now()
            tx.workers.save(Worker(id=self._id, part=self._part, seen_at=self._shown))
            tx.workers.forget(before=self._shown - FORGOTTEN_S)


def fresh(tx: Transaction, now: float) -> dict[Part, int]:
    """Return how many processes of each part are at work."""
    seen = [worker.part for worker in tx.workers.find() if worker.seen_at >= now - FRESH_S]
    return {part: seen.count(part) for part in Part}
