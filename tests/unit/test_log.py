"""The log: whatever was measured or tried has left a leaf, once, in the transaction that stored it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fumehood.artifacts.signing import key_id_of, open_envelope
from fumehood.domain import merkle
from fumehood.domain.experiment import Attempt, Run, RunResult
from fumehood.domain.ids import DirectionId, ExperimentId, RunId
from fumehood.errors import BadInputError
from fumehood.ports import Transaction
from fumehood.services import forks, log, templates
from fumehood.services.forks import Edits
from fumehood.store.memory import FixedClock, MemoryStore
from tests.fakes.laboratory import Laboratory, moved
from tests.fakes.model import ScriptedCoder

Make = Callable[..., Laboratory]
BROKEN = ({"experiment.py": b"raise RuntimeError\n"}, "RUN: Broken | it breaks")
RECORD = "ab" * 32


def entries(lab: Laboratory) -> list[dict[str, Any]]:
    with lab.store.begin(write=False) as tx:
        return [json.loads(tx.log.at(index).entry) for index in range(tx.log.size())]


def short(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[name] for name in ("folder", "kind", "attempt", "verdict", "number", "shared"))


@pytest.fixture
def lab(make_lab: Make) -> Laboratory:
    made = make_lab(coder=ScriptedCoder({(1, 1): BROKEN}))
    made.submit(runs=2)
    made.go_on()
    return made


def test_every_run_and_every_attempt_has_a_leaf(lab: Laboratory) -> None:
    found = entries(lab)
    assert [short(one) for one in found] == [
        ("run_0", "record", 1, "measured", 1, False),
        ("run_1", "attempt", 1, "failed", 1, False),
        ("run_1", "record", 2, "measured", 2, False),
        ("run_2", "record", 1, "measured", 3, False),
    ]
    assert [one["record"] for one in found if one["record"]] == [run.record for run in lab.runs()]
    experiment, runs = lab.experiments()[0], lab.runs()
    assert [one["experiment"] for one in found] == [None, *[experiment.id] * 3]
    assert {one["direction"] for one in found} == {experiment.direction_id}
    assert [one["run"] for one in found] == [runs[0].id, runs[1].id, runs[1].id, runs[2].id]
    assert found[3]["code"] == templates.template_hash(runs[2].files)
    assert found[1]["code"] != found[2]["code"]


def test_a_run_that_never_came_to_numbers_is_in_the_log(make_lab: Make) -> None:
    broken = {
        (1, number): ({"experiment.py": f"raise RuntimeError({number})\n".encode()}, "RUN: Broken")
        for number in range(1, 5)
    }
    lab = make_lab(coder=ScriptedCoder(broken))
    lab.submit(runs=1)
    lab.go_on()
    assert lab.experiments()[0].state == "failed"
    assert [short(one)[:4] for one in entries(lab)] == [
        ("run_0", "record", 1, "measured"),
        *(("run_1", "attempt", number, "failed") for number in range(1, 5)),
    ]


def test_what_a_fork_takes_over_is_told_as_shared(lab: Laboratory) -> None:
    before = entries(lab)
    source = lab.experiments()[0]
    made = forks.fork(lab.store, lab.artifacts, lab.clock, "me", source.id, "run_2", Edits())
    lab.go_on()
    assert entries(lab)[: len(before)] == before
    assert [short(one) for one in entries(lab)[len(before) :]] == [
        ("run_1", "attempt", 1, "failed", 1, True),
        ("run_1", "record", 2, "measured", 2, True),
        ("run_2", "record", 1, "measured", 3, False),
    ]
    assert {one["experiment"] for one in entries(lab)[len(before) :]} == {made.id}


def test_a_baseline_from_the_cache_is_told_as_shared(lab: Laboratory) -> None:
    before = len(entries(lab))
    lab.clock.advance(60)
    lab.submit(runs=1)
    lab.go_on()
    assert [short(one) for one in entries(lab)[before : before + 1]] == [("run_0", "record", 1, "measured", 1, True)]


@pytest.fixture
def run(lab: Laboratory) -> Run:
    return Run(
        id=RunId("run_9"),
        direction_id=DirectionId(lab.direction().id),
        experiment_id=ExperimentId("exp_9"),
        index=1,
        files={"experiment.py": "cd" * 32},
    )


def test_what_is_stored_again_leaves_no_second_leaf(lab: Laboratory, run: Run) -> None:
    measured = dataclasses.replace(run, result=RunResult.MEASURED, record=RECORD)
    for one in (run, run, measured, measured, dataclasses.replace(measured, title="renamed")):
        with lab.store.begin() as tx:
            before = tx.log.size()
            log.keep(tx, lab.clock, [one])
    with lab.store.begin(write=False) as tx:
        assert tx.log.size() == before
        assert [json.loads(leaf.entry)["record"] for leaf in tx.log.of("exp_9")] == [RECORD]
        assert tx.runs.get(run.id).title == "renamed"


def test_a_transaction_that_fails_leaves_neither_run_nor_leaf(lab: Laboratory, run: Run) -> None:
    def keep_and_fail(tx: Transaction) -> None:
        log.keep(tx, lab.clock, [dataclasses.replace(run, attempts=(Attempt(number=1, verdict="refused"),))])
        raise KeyError

    before = len(entries(lab))
    with pytest.raises(KeyError), lab.store.begin() as tx:
        keep_and_fail(tx)
    assert len(entries(lab)) == before


def grown(tmp_path: Path, size: int) -> Laboratory:
    """Return a laboratory whose log has so many leaves."""
    lab = Laboratory(tmp_path)
    direction = moved(lab.submit())
    for number in range(size):
        with lab.store.begin() as tx:
            attempts = tuple(Attempt(number=at + 1, verdict="failed") for at in range(number + 1))
            base = Run(id=RunId("run_9"), direction_id=direction.id, experiment_id=ExperimentId("exp_9"), index=1)
            log.keep(tx, lab.clock, [dataclasses.replace(base, attempts=attempts)])
    return lab


def test_the_stored_tree_is_the_tree_over_its_entries(tmp_path: Path) -> None:
    lab = grown(tmp_path, 21)
    with lab.store.begin(write=False) as tx:
        leaves = [merkle.leaf_hash(tx.log.at(index).entry.encode()) for index in range(21)]
        for size in range(1, 22):
            root = log.root(tx, size)
            for index in range(size):
                proof = [bytes.fromhex(one) for one in log.inclusion(tx, index, size)]
                assert merkle.is_included(index, size, leaves[index], proof, bytes.fromhex(root))
            proof = [bytes.fromhex(one) for one in log.consistency(tx, size, 21)]
            assert merkle.is_prefix(size, 21, bytes.fromhex(root), bytes.fromhex(log.root(tx, 21)), proof)
        assert log.root(tx, 0) == merkle.EMPTY.hex()


def test_what_the_log_does_not_have_is_refused(tmp_path: Path) -> None:
    lab = grown(tmp_path, 3)
    with lab.store.begin(write=False) as tx:
        for ask in (
            lambda: log.root(tx, 4),
            lambda: log.inclusion(tx, 0, 4),
            lambda: log.inclusion(tx, 3, 3),
            lambda: log.inclusion(tx, -1, 3),
            lambda: log.consistency(tx, 1, 4),
            lambda: log.consistency(tx, 3, 2),
            lambda: log.consistency(tx, -1, 2),
        ):
            with pytest.raises(BadInputError):
                ask()


def test_the_log_is_signed_once_for_each_size(tmp_path: Path) -> None:
    lab = grown(tmp_path, 2)
    first = log.sign(lab.store, lab.clock, lab.signer)
    lab.clock.advance(5)
    assert log.sign(lab.store, lab.clock, lab.signer) == first
    key = lab.signer.public_key_bytes()
    told = json.loads(open_envelope(first.envelope.encode(), {key_id_of(key): key}, log.TREE_HEAD_TYPE))
    with lab.store.begin(write=False) as tx:
        assert told == {"size": 2, "root": log.root(tx, 2), "at": first.at}
    with lab.store.begin() as tx:
        run = tx.runs.get("run_9")
        log.keep(tx, lab.clock, [dataclasses.replace(run, record=RECORD)])
    second = log.sign(lab.store, lab.clock, lab.signer)
    assert (second.size, second.at) == (3, first.at + 5)
    with lab.store.begin(write=False) as tx:
        assert tx.log.newest_head() == second


def test_a_log_without_leaves_is_signed_too(tmp_path: Path) -> None:
    head = log.sign(MemoryStore(), FixedClock(), Laboratory(tmp_path).signer)
    assert (head.size, head.root) == (0, merkle.EMPTY.hex())
