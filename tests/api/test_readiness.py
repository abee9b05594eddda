"""Whether the work can be done: what is asked, what is told, and how long it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.readiness import Answer, NotReadyError, Readiness, checks_of
from fumehood.domain.worker import Part, Worker
from fumehood.errors import ArtifactsUnavailableError
from fumehood.services.presence import FRESH_S
from tests.api.test_api import Served

WORKERS = ("write worker", "run worker", "watcher")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.lab.artifacts.close()


def see(served: Served, *parts: Part) -> None:
    with served.lab.store.begin() as tx:
        for part in parts:
            tx.workers.save(Worker(id=f"worker_{part}", part=part, seen_at=served.lab.clock.now()))


def test_an_installation_with_everything_is_ready(served: Served) -> None:
    see(served, *Part)
    answer = served.nobody.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "checks": [{"name": name, "ok": True, "why": ""} for name in ("database", "artifacts", *WORKERS)],
    }


@pytest.mark.parametrize(("part", "name"), list(zip(Part, WORKERS, strict=True)))
def test_a_part_that_nobody_does_is_named(served: Served, part: Part, name: str) -> None:
    see(served, *(set(Part) - {part}))
    answer = served.nobody.get("/readyz")
    assert answer.json()["detail"] == f"Not ready: {name}."
    assert answer.json()["type"] == "urn:fumehood:problem:not-ready"
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    [away] = [check for check in answer.json()["checks"] if not check["ok"]]
    assert away == {"name": name, "ok": False, "why": f"No {name} was seen at work in the last 30 s."}


def test_a_worker_that_was_seen_too_long_ago_is_none(served: Served) -> None:
    see(served, *Part)
    served.lab.clock.advance(FRESH_S + 1.0)
    assert served.nobody.get("/readyz").json()["detail"] == f"Not ready: {', '.join(WORKERS)}."


def test_what_an_error_says_of_the_inside_stays_inside() -> None:
    def refuse() -> None:
        raise ArtifactsUnavailableError("s3.internal:9000 refuses the key AKIA")

    [answer] = Readiness({"artifacts": refuse}).ask()
    assert answer == Answer(name="artifacts", ok=False, why="It does not answer, or refuses us; the log says more.")


def test_a_sentence_that_is_for_everybody_is_told() -> None:
    def refuse() -> None:
        raise NotReadyError("Nobody is here.")

    assert Readiness({"x": refuse}).ask()[0].why == "Nobody is here."


def test_checks_that_hang_are_waited_for_once_and_together() -> None:
    begun: list[int] = []
    goes_on = threading.Event()

    def hang() -> None:
        begun.append(1)
        goes_on.wait(30)

    # One after the other they would take many times as long as a busy machine may make of it.
    hung = {f"hangs {number:02}": hang for number in range(60)}
    asked = Readiness({**hung, "answers": lambda: None}, patience_s=0.5, kept_s=0.0)
    started = time.monotonic()
    told = asked.ask()
    asked.ask()
    assert time.monotonic() - started < 25.0
    assert [(one.name, one.ok, one.why) for one in told] == [
        *((name, False, "It did not answer in time.") for name in hung),
        ("answers", True, ""),
    ]
    assert len(begun) == 60
    goes_on.set()


def test_an_answer_holds_for_a_moment() -> None:
    asked: list[int] = []
    readiness = Readiness({"a": lambda: asked.append(1)}, kept_s=60.0)
    for _ in range(3):
        readiness.ask()
    assert asked == [1]


def test_more_can_be_needed(served: Served) -> None:
    checks = checks_of(served.lab.store, served.lab.artifacts, served.lab.clock, {"broker": lambda: None})
    assert list(checks) == ["database", "artifacts", "broker", *WORKERS]
