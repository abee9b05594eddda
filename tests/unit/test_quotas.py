"""What executions take of their tenant's quotas, whose turn it is on a GPU, and the switch that stops everything."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fumehood.domain import ledger, quota
from fumehood.domain.direction import DirectionState, Hold
from fumehood.domain.execution import ExecutionState, Kind, Limits, Spec, Usage, Verdict
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import DirectionId, ExecutionId, TenantId, container_name
from fumehood.domain.ledger import LedgerEntry
from fumehood.domain.machine import Machine
from fumehood.domain.quota import Balance
from fumehood.domain.step import StepState
from fumehood.domain.tenant import LOCAL_TENANT, Tenant
from fumehood.errors import BadInputError, OverBudgetError, SandboxUnavailableError
from fumehood.services import executions, guidance, leasing, quotas, steps, switches, tenants, turns
from fumehood.services.change import Change
from tests.fakes.laboratory import Laboratory
from tests.fakes.sandbox import Did, InstantSandbox
from worker import local

LIMITS = Limits(wall_s=10.0, cpus=2.0, storage_mib=8, memory_mib=64, processes=8)
Make = Callable[..., Laboratory]


def allow(lab: Laboratory, **given: float | None) -> None:
    """Set quotas of the tenant who works on this machine itself."""
    with lab.store.begin() as tx:
        tenants.local(tx, lab.clock)
    money = {name: value for name, value in given.items() if name in quota.MONEY}
    others = {name: value for name, value in given.items() if name not in quota.MONEY}
    tenants.set_quotas(lab.store, lab.clock, "test", LOCAL_TENANT, others)
    tenants.set_quotas(lab.store, lab.clock, "test", LOCAL_TENANT, money, money=True)


def want(lab: Laboratory, tenant: TenantId = LOCAL_TENANT, **changes: Any) -> Execution:
    """Have an execution wanted in a direction of its own."""
    direction = lab.submit(tenant=tenant)
    with lab.store.begin() as tx:
        for step in tx.steps.find(direction_id=direction.id):
            tx.steps.finish(dataclasses.replace(step, state="done"))  # type: ignore[arg-type]
    made = Execution(
        id=ExecutionId(lab.clock.new_id("exec")),
        direction_id=direction.id,
        kind=Kind.RUN,
        image="lab",
        command=("true",),
        collect=("**",),
        limits=LIMITS,
        created_at=lab.clock.now(),
    )
    made = dataclasses.replace(made, **changes)
    lab.apply(Change(executions=(made,)))
    return made


def balance(lab: Laboratory, account: str = LOCAL_TENANT) -> Balance:
    with lab.store.begin(write=False) as tx:
        return tx.ledger.balance(account)


def reserve(
    lab: Laboratory, execution: Execution, devices: tuple[str, ...] = (), machine: Machine | None = None
) -> tuple[str, ...] | None:
    with lab.store.begin(write=False) as tx:
        direction = tx.directions.get(execution.direction_id)
    return quotas.reserve(lab.store, lab.clock, direction, execution, devices, machine)


class TestRoom:
    """What one machine holds at once."""

    machine = Machine(cpus=4.0, memory_mib=256)

    def begin(self, lab: Laboratory, execution: Execution) -> bool:
        """Launch it if there is room."""
        if reserve(lab, execution, machine=self.machine) is None:
            return False
        lab.apply(Change(executions=(execution.to(ExecutionState.LAUNCHED, launched_at=lab.clock.now()),)))
        return True

    def end(self, lab: Laboratory, execution: Execution) -> None:
        with lab.store.begin() as tx:
            launched = tx.executions.get(execution.id)
            tx.executions.save(dataclasses.replace(launched, state=ExecutionState.REMOVED))

    def test_no_more_begin_than_there_are_processors_for(self, make_lab: Make) -> None:
        lab = make_lab()
        made = [want(lab) for _ in range(3)]
        assert [self.begin(lab, one) for one in made] == [True, True, False]
        self.end(lab, made[0])
        assert self.begin(lab, made[2])

    def test_no_more_begin_than_there_is_memory_for(self, make_lab: Make) -> None:
        lab = make_lab()
        made = [want(lab, limits=dataclasses.replace(LIMITS, cpus=0.1, memory_mib=100)) for _ in range(3)]
        assert [self.begin(lab, one) for one in made] == [True, True, False]

    def test_what_is_being_launched_counts(self, make_lab: Make) -> None:
        lab = make_lab()
        made = [want(lab) for _ in range(3)]
        told = [reserve(lab, one, machine=self.machine) for one in made]
        assert told == [(), (), None]
        # Asked again after a crash in between, the first is where it was.
        assert reserve(lab, made[0], machine=self.machine) == ()

    def test_what_the_machine_could_never_hold_beside_others_runs_alone(self, make_lab: Make) -> None:
        lab = make_lab()
        large = want(lab, limits=dataclasses.replace(LIMITS, cpus=8.0))
        small = want(lab)
        assert self.begin(lab, large)
        assert not self.begin(lab, small)
        self.end(lab, large)
        assert self.begin(lab, small)

    def test_who_needs_much_is_not_passed_over_by_those_who_came_later(self, make_lab: Make) -> None:
        lab = make_lab()
        first = want(lab)
        assert self.begin(lab, first)
        lab.clock.advance(1)
        large = want(lab, limits=dataclasses.replace(LIMITS, cpus=4.0))
        lab.clock.advance(1)
        late = want(lab)
        assert not self.begin(lab, large)
        assert not self.begin(lab, late)
        held = want(lab)
        self.end(lab, first)
        assert self.begin(lab, large)
        self.end(lab, large)
        assert self.begin(lab, late)
        assert self.begin(lab, held)

    def test_who_may_not_begin_keeps_nobody_waiting(self, make_lab: Make) -> None:
        lab = make_lab()
        assert self.begin(lab, want(lab))
        lab.clock.advance(1)
        large = want(lab, limits=dataclasses.replace(LIMITS, cpus=4.0))
        with lab.store.begin() as tx:
            direction = tx.directions.get(large.direction_id)
            tx.directions.save(dataclasses.replace(direction, hold=Hold.PAUSED))
        lab.clock.advance(1)
        assert self.begin(lab, want(lab))

    def hold(self, lab: Laboratory, execution: Execution) -> None:
        with lab.store.begin() as tx:
            direction = tx.directions.get(execution.direction_id)
            tx.directions.save(dataclasses.replace(direction, hold=Hold.PAUSED))

    def test_what_is_set_aside_for_one_that_is_paused_is_free_for_others(self, make_lab: Make) -> None:
        lab = make_lab()
        large = want(lab, limits=dataclasses.replace(LIMITS, cpus=4.0))
        assert reserve(lab, large, machine=self.machine) == ()
        other = want(lab)
        assert reserve(lab, other, machine=self.machine) is None
        self.hold(lab, large)
        assert self.begin(lab, other)

    def test_what_nobody_asks_for_keeps_nobody_waiting(self, make_lab: Make) -> None:
        lab = make_lab()
        assert self.begin(lab, want(lab))
        want(lab, limits=dataclasses.replace(LIMITS, cpus=4.0))  # as an interrupted command leaves it
        lab.clock.advance(1)
        late = want(lab)
        assert not self.begin(lab, late)
        lab.clock.advance(turns.FORGOTTEN_S)
        assert self.begin(lab, late)

    def test_whose_tenant_has_as_many_as_it_may_keeps_nobody_waiting(self, make_lab: Make) -> None:
        lab = make_lab()
        allow(lab, runs=1)
        assert self.begin(lab, want(lab))
        lab.clock.advance(1)
        want(lab, limits=dataclasses.replace(LIMITS, cpus=4.0))
        lab.clock.advance(1)
        assert self.begin(lab, want(lab, TenantId("ten_b")))

    def test_a_priority_takes_no_other_tenants_turn(self, make_lab: Make) -> None:
        lab = make_lab()
        first = want(lab)
        assert self.begin(lab, first)
        lab.clock.advance(1)
        small = want(lab)
        lab.clock.advance(1)
        large = want(lab, TenantId("ten_b"), limits=dataclasses.replace(LIMITS, cpus=4.0))
        with lab.store.begin() as tx:
            tx.directions.save(dataclasses.replace(tx.directions.get(large.direction_id), priority=5))
        assert self.begin(lab, small)


class TestExecutions:
    def test_the_most_it_can_take_is_set_aside_and_what_it_took_is_booked(self, make_lab: Make) -> None:
        usage = Usage(wall_s=2.0, cpu_s=1.5)
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did(files={"a": b"12345"}, usage=usage)))
        one = want(lab)
        assert reserve(lab, one) == ()
        assert reserve(lab, one) == ()
        held = balance(lab)
        assert (held.running, held.cpu_s, held.bytes) == (1, 20.0, 8 * 1024 * 1024)
        lab.go_on()
        left = balance(lab)
        assert (left.running, left.gpus, left.bytes) == (0, 0, 5)
        assert left.cpu_s == pytest.approx(1.5)
        day = ledger.day_account(LOCAL_TENANT, ledger.day_of(lab.clock.now()))
        assert balance(lab, day).cpu_s == pytest.approx(1.5)

    @pytest.mark.parametrize("verdict", [Verdict.LOST, Verdict.CANCELLED, Verdict.OUT_OF_MEMORY])
    def test_nothing_stays_reserved_however_it_ends(self, make_lab: Make, verdict: Verdict) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did(verdict=verdict)))
        one = want(lab)
        lab.go_on()
        assert lab.executions(id=one.id)[0].state is ExecutionState.REMOVED
        assert (balance(lab).running, balance(lab).bytes) == (0, 0)

    def test_what_could_not_be_launched_takes_nothing(self, make_lab: Make) -> None:
        class Refuses(InstantSandbox):
            def launch(self, spec: Spec) -> None:
                raise SandboxUnavailableError(f"No {spec.name}.", reason="unfit")

        lab = make_lab(sandbox=Refuses(lambda _: Did()))
        want(lab)
        lab.go_on()
        assert (balance(lab).running, balance(lab).cpu_s) == (0, 0.0)

    def test_a_launch_that_waits_for_the_machine_holds_nothing_back(self, make_lab: Make) -> None:
        class IsFull(InstantSandbox):
            full = True

            def launch(self, spec: Spec) -> None:
                if self.full:
                    raise SandboxUnavailableError("The disk is full.", reason="disk_full")
                super().launch(spec)

        sandbox = IsFull(lambda _: Did())
        lab = make_lab(sandbox=sandbox)
        lab.run = dataclasses.replace(lab.run, gpus=("0",))
        one = want(lab, gpus=1)
        for _ in range(executions.NO_ROOM_TRIES // 2):
            lab.go_on()
            lab.clock.advance(executions.NO_ROOM_WAIT_S)
        now = balance(lab)
        assert (now.running, now.gpus, now.cpu_s, now.bytes) == (0, 0, 0.0, 0)
        with lab.store.begin(write=False) as tx:
            assert tx.leases.find(ended_at=None) == ()
        assert lab.told().count("execution.waits") == 1
        sandbox.full = False
        lab.go_on()
        assert lab.executions(id=one.id)[0].state is ExecutionState.REMOVED

    def test_an_interrupted_command_gives_back_what_it_did_not_come_to_launch(self, make_lab: Make) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did()))
        one = want(lab)
        assert reserve(lab, one) == ()
        local.halt(lab.run, one.direction_id)
        assert balance(lab).running == 0
        lab.go_on()
        assert lab.executions(id=one.id)[0].state is ExecutionState.REMOVED
        assert len([step for step in lab.steps("launch") if step.tries]) == 1

    def test_one_more_than_may_run_at_once_waits_for_its_turn(self, make_lab: Make) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did()))
        allow(lab, runs=1)
        first, second = want(lab), want(lab)
        assert reserve(lab, first) == ()
        assert reserve(lab, second) is None
        lab.go_on()
        lab.clock.advance(executions.TURN_WAIT_S)
        lab.go_on()
        assert {one.state for one in lab.executions()} == {ExecutionState.REMOVED}
        assert balance(lab).running == 0

    def test_however_long_one_waits_for_its_turn_it_is_one_step(self, make_lab: Make) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did()))
        allow(lab, runs=1)
        first, second = want(lab), want(lab)
        assert reserve(lab, first) == ()
        with lab.store.begin() as tx:
            (of_first,) = [one for one in tx.steps.find(name="launch") if one.payload["execution"] == first.id]
            tx.steps.finish(dataclasses.replace(of_first, state=StepState.DONE))
        for _ in range(60):
            lab.go_on()
            lab.clock.advance(executions.TURN_WAIT_S)
        waiting = [one for one in lab.steps("launch") if one.payload["execution"] == second.id]
        assert [(one.state, one.tries, one.payload["turns"]) for one in waiting] == [(StepState.DUE, 0, 20)]
        assert lab.told().count("execution.waits") == 1

    @pytest.mark.parametrize(("name", "asked"), [("runs", 1), ("gpus", 2)])
    def test_what_would_not_fit_beside_nothing_is_held(self, make_lab: Make, name: str, asked: int) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did()))
        lab.run = dataclasses.replace(lab.run, gpus=("0", "1"))
        allow(lab, **{name: asked - 1})
        want(lab, gpus=2)
        lab.go_on()
        assert lab.direction().hold is Hold.OVER_BUDGET
        allow(lab, **{name: asked})
        lab.go_on()
        assert lab.executions()[0].state is ExecutionState.REMOVED

    @pytest.mark.parametrize(
        ("name", "value", "noun"),
        [
            ("cpu_seconds", 19.0, "CPU-seconds in all"),
            ("cpu_seconds_day", 19.0, "CPU-seconds a day"),
            ("stored_bytes", 1000.0, "bytes of artifacts"),
            ("wall_s", 9.0, "seconds for one execution"),
            ("memory_mib", 63.0, "MiB of memory"),
        ],
    )
    def test_what_passes_a_quota_is_held_and_goes_on_once_it_is_raised(
        self, make_lab: Make, name: str, value: float, noun: str
    ) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did()))
        allow(lab, **{name: value})
        one = want(lab)
        with pytest.raises(OverBudgetError, match=noun):
            reserve(lab, one)
        lab.go_on()
        assert lab.direction().hold is Hold.OVER_BUDGET
        assert lab.executions()[0].state is ExecutionState.WANTED
        allow(lab, **{name: value * 1e6})
        lab.go_on()
        assert lab.direction().hold is Hold.NONE
        assert lab.executions()[0].state is ExecutionState.REMOVED

    def test_a_day_ends(self, make_lab: Make) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did(usage=Usage(wall_s=9.0, cpu_s=15.0))))
        allow(lab, cpu_seconds_day=30)
        want(lab)
        lab.go_on()
        late = want(lab)
        with pytest.raises(OverBudgetError, match="a day"):
            reserve(lab, late)
        lab.clock.advance(86400)
        assert reserve(lab, late) == ()

    def test_what_a_days_quota_holds_goes_on_the_next_day(self, make_lab: Make) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did(usage=Usage(wall_s=9.0, cpu_s=15.0))))
        allow(lab, cpu_seconds_day=30)
        want(lab)
        lab.go_on()
        late = want(lab)
        lab.go_on()
        assert lab.direction().hold is Hold.OVER_BUDGET
        assert tenants.begin_day(lab.store, lab.clock) == 0
        assert lab.direction().hold is Hold.OVER_BUDGET
        lab.clock.advance(86400)
        assert tenants.begin_day(lab.store, lab.clock) == 1
        assert tenants.begin_day(lab.store, lab.clock) == 0
        lab.go_on()
        assert lab.executions(id=late.id)[0].state is ExecutionState.REMOVED

    def test_what_a_direction_may_cost_holds_it_also_the_next_day(self, make_lab: Make) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did()))
        allow(lab, cpu_seconds=1)
        want(lab)
        lab.go_on()
        lab.clock.advance(86400)
        assert tenants.begin_day(lab.store, lab.clock) == 0
        assert lab.direction().hold is Hold.OVER_BUDGET


class TestLeases:
    def test_a_device_is_given_to_one_and_comes_back(self, make_lab: Make) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did(usage=Usage(wall_s=4.0))))
        lab.run = dataclasses.replace(lab.run, gpus=("0",))
        first, second = want(lab, gpus=1), want(lab, gpus=1)
        assert reserve(lab, first, ("0",)) == ("0",)
        assert reserve(lab, first, ("0",)) == ("0",)
        assert reserve(lab, second, ("0",)) is None
        for _ in range(3):
            lab.go_on()
            lab.clock.advance(executions.TURN_WAIT_S)
        assert {one.state for one in lab.executions()} == {ExecutionState.REMOVED}
        assert [spec.gpus for spec in lab.sandbox.launched] == [("0",), ("0",)]
        assert (balance(lab).gpus, balance(lab).gpu_s) == (0, 8.0)
        with lab.store.begin(write=False) as tx:
            assert [lease.execution_id for lease in tx.leases.find()] == [first.id, second.id]
            assert tx.leases.find(ended_at=None) == ()

    def test_more_than_there_are_is_refused_with_the_remedy(self, make_lab: Make) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did()))
        with pytest.raises(SandboxUnavailableError, match="FUMEHOOD_GPUS") as caught:
            reserve(lab, want(lab, gpus=2), ("0",))
        assert caught.value.reason == "gpu_runtime_missing"

    def test_who_needs_two_is_not_passed_over_for_ever(self, make_lab: Make) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did()))
        small, large, later = want(lab, gpus=1), want(lab, gpus=2), want(lab, gpus=1)
        devices = ("0", "1")
        assert reserve(lab, small, devices) == ("0",)
        lab.apply(Change(executions=(small.to(ExecutionState.LAUNCHED),)))
        assert reserve(lab, large, devices) is None
        assert reserve(lab, later, devices) is None

    def test_a_lease_that_nobody_needs_any_more_is_freed(self, make_lab: Make) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did()))
        one = want(lab, gpus=1)
        assert reserve(lab, one, ("0",)) == ("0",)
        lab.clock.advance(100)
        leasing.beat(lab.store, lab.clock)
        with lab.store.begin() as tx:
            (lease,) = tx.leases.find(ended_at=None)
            assert (lease.execution_id, lease.beat_at) == (one.id, lab.clock.now())
            # As if its end had been stored by a version that knew of no leases.
            tx.executions.save(dataclasses.replace(one, state=ExecutionState.REMOVED))
        leasing.beat(lab.store, lab.clock)
        with lab.store.begin(write=False) as tx:
            assert tx.leases.find()[0].ended_at == lab.clock.now()

    def test_a_pause_keeps_no_device_of_what_has_ended(self, make_lab: Make) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did(usage=Usage(wall_s=2.0))))
        lab.run = dataclasses.replace(lab.run, gpus=("0",))
        one = want(lab, gpus=1)
        steps.advance(lab.run)
        assert lab.executions(id=one.id)[0].state is ExecutionState.LAUNCHED
        guidance.pause_direction(lab.store, lab.clock, "test", one.direction_id)
        other = want(lab, gpus=1)
        lab.go_on()
        lab.clock.advance(2)
        lab.go_on()
        assert lab.executions(id=one.id)[0].state is ExecutionState.REMOVED
        assert lab.executions(id=other.id)[0].state is ExecutionState.REMOVED
        assert balance(lab).gpus == 0

    @pytest.mark.parametrize(("weights", "shares"), [((1.0, 1.0), (9, 9)), ((2.0, 1.0), (12, 6))])
    def test_tenants_get_their_share_of_one_gpu(
        self, make_lab: Make, weights: tuple[float, float], shares: tuple[int, int]
    ) -> None:
        """One tenant asks for eighteen at once, before the other asks at all; each runs for ten seconds.

        The first has worked here for long, which is not held against it.
        """
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did()))
        both = [TenantId(lab.clock.new_id("ten")) for _ in weights]
        yesterday = LedgerEntry(
            id="long:settled", call_id="long", tenant=both[0], direction_id=DirectionId("dir_1"), kind="settled",
            role="run", model="", gpu_s=3_600_000.0, day=ledger.day_of(lab.clock.now() - 86400),
        )  # fmt: skip
        with lab.store.begin() as tx:
            for tenant, weight in zip(both, weights, strict=True):
                tx.tenants.save(Tenant(id=tenant, name=tenant, weight=weight))
            tx.ledger.add(yesterday)
        waiting = [want(lab, tenant, gpus=1) for tenant in both for _ in range(18)]
        served: list[TenantId] = []
        for _ in range(18):
            (turn,) = [one for one in waiting if reserve(lab, one, ("0",)) == ("0",)]
            waiting.remove(turn)
            with lab.store.begin(write=False) as tx:
                served.append(tx.directions.get(turn.direction_id).tenant)
            outcome = executions._never_ran(turn, Verdict.SUCCEEDED, "")
            ended = turn.to(ExecutionState.LAUNCHED).to(ExecutionState.ENDED)
            took = dataclasses.replace(outcome, usage=Usage(wall_s=10.0))
            lab.apply(Change(executions=(ended.to(ExecutionState.COLLECTED, outcome=took),)))
        assert tuple(served.count(tenant) for tenant in both) == pytest.approx(shares, abs=1)
        longest = max(len(list(group)) for group in runs_of(served))
        assert longest <= 3


def runs_of(values: list[TenantId]) -> list[list[TenantId]]:
    runs: list[list[TenantId]] = []
    for value in values:
        if runs and runs[-1][-1] == value:
            runs[-1].append(value)
        else:
            runs.append([value])
    return runs


class TestSwitch:
    def test_it_stops_what_runs_and_what_is_begun_again_is_held_against_nobody(self, make_lab: Make) -> None:
        stays = {"on": True}
        lab = make_lab(sandbox=InstantSandbox(lambda _: None if stays["on"] else Did(output="done")))
        one = want(lab)
        for _ in range(executions.LOSSES + 2):
            lab.go_on(until=lambda: lab.executions(id=one.id)[0].state is ExecutionState.LAUNCHED)
            switches.pause(lab.store, lab.clock, "test", None, kill=True)
            lab.go_on()
            held = lab.executions(id=one.id)[0]
            assert (held.state, held.losses) == (ExecutionState.WANTED, 0)
            assert container_name(one.id) not in lab.sandbox.specs
            assert balance(lab).running == 0
            switches.resume(lab.store, lab.clock, "test", None)
        stays["on"] = False
        lab.go_on()
        outcome = lab.executions(id=one.id)[0].outcome
        assert outcome
        assert outcome.verdict is Verdict.SUCCEEDED

    def test_a_pause_lets_what_runs_end_and_begins_nothing(self, make_lab: Make) -> None:
        lab = make_lab(sandbox=InstantSandbox(lambda _: Did()))
        switches.pause(lab.store, lab.clock, "test", None, kill=False)
        one = want(lab)
        lab.go_on()
        assert lab.executions(id=one.id)[0].state is ExecutionState.WANTED
        assert lab.sandbox.launched == []
        switches.resume(lab.store, lab.clock, "test", None)
        lab.go_on()
        assert lab.executions(id=one.id)[0].state is ExecutionState.REMOVED


class TestDirections:
    def test_a_quota_counts_what_is_under_way_only(self, make_lab: Make) -> None:
        lab = make_lab()
        allow(lab, directions=2)
        first = lab.submit()
        lab.submit()
        with pytest.raises(OverBudgetError, match="2 directions at once"):
            lab.submit()
        lab.save(dataclasses.replace(first, state=DirectionState.DONE))
        lab.submit()

    def test_a_lower_one_holds_at_the_next_submit_and_stops_nobody(self, make_lab: Make) -> None:
        lab = make_lab()
        lab.submit()
        allow(lab, directions=0)
        with pytest.raises(OverBudgetError):
            lab.submit()
        allow(lab, directions=None)
        lab.submit()


@pytest.mark.parametrize("odd", [{"lunch": 1.0}, {"runs": -1.0}, {"runs": float("nan")}, {"runs": float("inf")}])
def test_an_odd_quota_is_refused(odd: dict[str, float]) -> None:
    with pytest.raises(BadInputError):
        quota.checked(odd)


AMOUNTS = st.integers(0, 20)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(st.tuples(AMOUNTS, AMOUNTS), max_size=30), most=st.integers(0, 100))
def test_what_is_settled_never_passes_a_quota(calls: list[tuple[int, int]], most: int) -> None:
    """Any run of reservations at the worst case and settlements at or below it, checked as the gateway does."""
    total, quotas_given = Balance(id="ten"), {"tokens": float(most)}
    blank = LedgerEntry(
        id="", call_id="", tenant=LOCAL_TENANT, direction_id=DirectionId("d"), kind="", role="", model=""
    )
    for worst, used in calls:
        more = Balance(id="call", tokens=worst)
        try:
            quota.check(quotas_given, total, total, more)
        except OverBudgetError:
            continue
        total = ledger.plus(total, dataclasses.replace(blank, tokens=worst))
        assert total.tokens <= most
        total = ledger.plus(total, dataclasses.replace(blank, tokens=min(used, worst) - worst))
    assert 0 <= total.tokens <= most
