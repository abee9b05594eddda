"""A direction's budget of seconds: nothing begins once it is used up, and a higher one lets it go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from fumehood.domain.direction import DirectionState, Hold
from fumehood.domain.execution import ExecutionState, Kind, Spec, Usage
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import ExecutionId
from fumehood.errors import BadInputError, ConflictError
from fumehood.services import directions, guidance, quotas
from fumehood.services.change import Change
from tests.fakes.laboratory import TINY, Laboratory, act
from tests.fakes.sandbox import Did, InstantSandbox

Make = Callable[..., Laboratory]
ON_GPU = TINY["template.toml"] + "\n[profiles.cards]\nseeds = [1]\ngpus = 1\n"


def ten_seconds_each() -> InstantSandbox:
    """Return a sandbox in which every program ran for ten seconds."""

    def did(spec: Spec) -> Did:
        return dataclasses.replace(act(spec), usage=Usage(wall_s=10.0))

    return InstantSandbox(did)


def set_budget(lab: Laboratory, **given: Any) -> None:
    asked = {"usd": None, "gpu_s": None, "wall_s": None} | given
    guidance.set_budget(lab.store, lab.clock, "me", lab.direction().id, **asked)


def test_nothing_begins_once_it_is_used_up_and_a_higher_one_lets_it_go_on(make_lab: Make) -> None:
    lab = make_lab(sandbox=ten_seconds_each())
    lab.submit(runs=1, budget_wall_s=25.0)
    lab.go_on()
    assert (lab.direction().state, lab.direction().hold) == (DirectionState.IDEATING, Hold.OVER_BUDGET)
    assert len(lab.sandbox.launched) == 3, "two for the data, and the baseline passes the budget by its own length"
    assert "over_budget: held: The direction's budget is 25 seconds of executions, and 30 are used." in lab.told()
    set_budget(lab, wall_s=30.0)
    lab.go_on()
    assert (len(lab.sandbox.launched), lab.direction().hold) == (3, Hold.OVER_BUDGET)
    set_budget(lab, wall_s=31.0)
    lab.go_on()
    assert (len(lab.sandbox.launched), lab.direction().hold) == (4, Hold.OVER_BUDGET)
    set_budget(lab)
    lab.go_on()
    assert (lab.direction().state, lab.direction().hold) == (DirectionState.DONE, Hold.NONE)


def test_an_experiment_under_way_holds_its_whole_direction(make_lab: Make) -> None:
    lab = make_lab(sandbox=ten_seconds_each())
    lab.submit(runs=1, budget_wall_s=41.0)
    lab.go_on()
    assert lab.experiments()[0].hold is Hold.NONE
    assert (lab.direction().state, lab.direction().hold) == (DirectionState.RUNNING, Hold.OVER_BUDGET)


def test_what_is_set_aside_for_what_runs_is_not_used_yet(make_lab: Make) -> None:
    lab = make_lab()
    direction = lab.submit(budget_gpu_s=50.0)
    wanted = [
        Execution(
            id=ExecutionId(lab.clock.new_id("exec")), direction_id=direction.id, kind=Kind.RUN, image="lab",
            command=("true",), gpus=1,
        )
        for _ in range(2)
    ]  # fmt: skip
    lab.apply(Change(executions=tuple(wanted)))
    devices = ("GPU-0", "GPU-1")
    for execution in wanted:
        assert quotas.reserve(lab.store, lab.clock, direction, execution, devices)
        lab.save(execution.to(ExecutionState.LAUNCHED))
    with lab.store.begin(write=False) as tx:
        assert quotas.spent(tx, direction.id).gpu_s == 0.0
        assert tx.ledger.balance(direction.id).gpu_s == 2 * 7200.0


def test_gpu_seconds_are_counted_by_the_card(make_lab: Make) -> None:
    files = {**TINY, "template.toml": ON_GPU}
    lab = make_lab(sandbox=ten_seconds_each(), files=files)
    lab.run = dataclasses.replace(lab.run, gpus=("GPU-0",))
    lab.submit(runs=2, profile="cards", budget_gpu_s=15.0)
    lab.go_on()
    assert lab.direction().hold is Hold.OVER_BUDGET
    assert "The direction's budget is 15 GPU-seconds, and 20 are used." in lab.told()


@pytest.mark.parametrize("given", [{"usd": -1.0}, {"gpu_s": float("nan")}, {"wall_s": float("inf")}])
def test_what_is_no_budget_is_refused(make_lab: Make, given: dict[str, float]) -> None:
    lab = make_lab()
    lab.submit()
    with pytest.raises(BadInputError, match="must be a number of"):
        set_budget(lab, **given)


def test_one_that_has_ended_needs_none(make_lab: Make) -> None:
    lab = make_lab()
    lab.submit()
    directions.cancel(lab.store, lab.clock, lab.direction().id)
    with pytest.raises(ConflictError, match="cancelled"):
        set_budget(lab, wall_s=1.0)


def test_of_a_tenants_own_the_higher_priority_gets_the_card(make_lab: Make) -> None:
    lab = make_lab()
    wanted = []
    for priority in (0, 3):
        direction = lab.submit(priority=priority)
        one = Execution(
            id=ExecutionId(lab.clock.new_id("exec")), direction_id=direction.id, kind=Kind.RUN, image="lab",
            command=("true",), gpus=1, created_at=lab.clock.now(),
        )  # fmt: skip
        lab.apply(Change(executions=(one,)))
        wanted.append((direction, one))
    assert quotas.reserve(lab.store, lab.clock, *wanted[0], ("GPU-0",)) is None
    assert quotas.reserve(lab.store, lab.clock, *wanted[1], ("GPU-0",)) == ("GPU-0",)
