"""Several executions on one machine or GPU: what was measured decides, nobody waits for ever, and each pays once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fumehood.domain.execution import ExecutionState, Kind, Limits, Usage, Verdict
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import TenantId
from fumehood.domain.machine import Lease, Machine, Peak
from fumehood.errors import SandboxUnavailableError
from fumehood.services import executions, leasing, quotas, told, turns, wanting
from fumehood.services.change import Change
from fumehood.store.memory import MemoryStore
from tests.fakes.laboratory import TINY, Laboratory, act
from tests.fakes.sandbox import Did, InstantSandbox
from tests.unit.test_quotas import LIMITS, Make, allow, balance, want

SIZES = {"0": 100}
USAGE = Usage(wall_s=10.0, cpu_s=2.0, peak_memory_mib=16.0)


def begin(
    lab: Laboratory,
    execution: Execution,
    *,
    sizes: Mapping[str, int] = SIZES,
    devices: tuple[str, ...] = (),
    room: Machine | None = None,
) -> tuple[str, ...] | None:
    """Launch it where it is its turn, and return its devices."""
    with lab.store.begin(write=False) as tx:
        direction = tx.directions.get(execution.direction_id)
    granted = quotas.reserve(lab.store, lab.clock, direction, execution, devices or tuple(sizes), room, sizes)
    if granted is not None:
        lab.apply(Change(executions=(execution.to(ExecutionState.LAUNCHED, launched_at=lab.clock.now()),)))
    return granted


def end(lab: Laboratory, execution: Execution, verdict: Verdict = Verdict.SUCCEEDED, usage: Usage = USAGE) -> None:
    with lab.store.begin(write=False) as tx:
        launched = tx.executions.get(execution.id)
    outcome = dataclasses.replace(executions._never_ran(execution, verdict, ""), usage=usage)
    lab.apply(Change(executions=(launched.to(ExecutionState.COLLECTED, outcome=outcome),)))


def leases(lab: Laboratory, **equal: object) -> tuple[Lease, ...]:
    with lab.store.begin(write=False) as tx:
        return tx.leases.find(**equal)


def peak(lab: Laboratory, key: str = "same") -> Peak | None:
    with lab.store.begin(write=False) as tx:
        return next(iter(tx.peaks.find(id=key)), None)


class TestProcessorsAndMemory:
    limits = dataclasses.replace(LIMITS, memory_mib=512, cpus=1.0)
    room = Machine(cpus=4.0, memory_mib=1024)

    def want(self, lab: Laboratory, **changes: object) -> Execution:
        return want(lab, **{"limits": self.limits, "measured_as": "same", **changes})

    def test_by_limits_until_something_was_measured_then_by_that(self, make_lab: Make) -> None:
        lab = make_lab()
        made = [self.want(lab) for _ in range(9)]
        assert [begin(lab, one, room=self.room) for one in made[:3]] == [(), (), None]
        end(lab, made[0])
        assert peak(lab) == Peak(id="same", memory_mib=16.0, cpus=0.2)
        # 84 MiB are counted for each, and one of them may still grow to 512.
        assert [begin(lab, one, room=self.room) for one in made[2:]] == [*[()] * 6, None]
        assert len(leases(lab, ended_at=None)) == 7

    def test_processors_are_counted_by_half_of_the_limit_at_least(self, make_lab: Make) -> None:
        lab = make_lab()
        first, *others = [self.want(lab, limits=dataclasses.replace(self.limits, memory_mib=64)) for _ in range(11)]
        assert begin(lab, first, room=self.room) == ()
        end(lab, first, usage=dataclasses.replace(USAGE, cpu_s=0.1))
        assert [begin(lab, one, room=self.room) for one in others].count(()) == 8

    def test_who_took_all_that_it_might_is_counted_by_its_limit(self, make_lab: Make) -> None:
        lab = make_lab()
        made = [self.want(lab) for _ in range(4)]
        assert begin(lab, made[0], room=self.room) == ()
        end(lab, made[0])
        assert begin(lab, made[1], room=self.room) == ()
        end(lab, made[1], Verdict.OUT_OF_MEMORY, Usage(wall_s=1.0, cpu_s=1.0, peak_memory_mib=512.0))
        assert [begin(lab, one, room=self.room) for one in made[2:]] == [(), ()]
        assert begin(lab, self.want(lab), room=self.room) is None

    @pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.CANCELLED, Verdict.LOST])
    def test_nothing_is_learned_first_from_what_ended_early(self, make_lab: Make, verdict: Verdict) -> None:
        lab = make_lab()
        one = self.want(lab)
        assert begin(lab, one, room=self.room) == ()
        end(lab, one, verdict)
        assert peak(lab) is None

    def test_no_tenants_measurements_say_anything_of_anothers(self, make_lab: Make) -> None:
        lab = make_lab()
        first, second = lab.submit(), lab.submit(tenant=TenantId("ten_b"))
        keys = [wanting.measured_as(one, Kind.RUN) for one in (first, second)]
        assert keys[0] != keys[1]
        assert keys[0] == wanting.measured_as(lab.submit(), Kind.RUN) != wanting.measured_as(first, Kind.EVALUATE)

    def test_whose_time_is_measured_has_the_machine_alone(self, make_lab: Make) -> None:
        lab = make_lab()
        first, timed, later = self.want(lab), self.want(lab, alone=True), self.want(lab)
        assert begin(lab, first, room=self.room) == ()
        assert begin(lab, timed, room=self.room) is None
        lab.clock.advance(1)
        late = self.want(lab)
        assert begin(lab, late, room=self.room) is None
        end(lab, first)
        assert begin(lab, timed, room=self.room) == ()
        assert begin(lab, later, room=self.room) is None
        end(lab, timed)
        assert begin(lab, later, room=self.room) == ()

    def test_who_waits_for_its_turn_begins_when_another_has_ended_and_not_after_its_pause(self, make_lab: Make) -> None:
        lab = make_lab()
        lab.run = dataclasses.replace(lab.run, machine=Machine(cpus=0.5, memory_mib=64))
        lab.submit()
        lab.go_on_to("propose")  # by a clock that stands still, so that no pause is ever over
        assert "prepare waits for its turn" in lab.told()
        assert {one.kind for one in lab.executions()} == {Kind.PREPARE, Kind.RUN, Kind.EVALUATE}

    def test_what_was_lost_makes_room_too_and_what_never_began_none(self, make_lab: Make) -> None:
        lab = make_lab()
        first, second = self.want(lab), self.want(lab)
        due_at = lab.clock.now() + 5
        for one in (first, second):
            [step] = lab.steps("launch", direction_id=one.direction_id)
            with lab.store.begin() as tx:
                tx.steps.finish(dataclasses.replace(step, due_at=due_at, payload={**step.payload, turns.WAITED: 1}))
        never = self.want(lab)
        end(lab, never, Verdict.CANCELLED)
        assert [step.due_at for step in lab.steps("launch")][:2] == [due_at] * 2
        lost = self.want(lab)
        assert begin(lab, lost, room=self.room) == ()
        with lab.store.begin(write=False) as tx:
            launched = tx.executions.get(lost.id)
        lab.apply(Change(executions=(launched.to(ExecutionState.WANTED, losses=1, fence=launched.fence + 1),)))
        assert [step.due_at for step in lab.steps("launch")][:2] == [lab.clock.now()] * 2

    def test_what_waits_for_the_machine_is_not_hastened_by_the_ends_of_others(self, make_lab: Make) -> None:
        lab = make_lab()
        one = self.want(lab)
        [step] = lab.steps("launch", direction_id=one.direction_id)
        full = SandboxUnavailableError("full", reason="disk_full")
        waiting = executions._waiting(
            lab.run, dataclasses.replace(step, payload={**step.payload, turns.WAITED: 3}), one, full
        )
        assert waiting is not None
        lab.apply(waiting)
        other = self.want(lab)
        assert begin(lab, other, room=self.room) == ()
        end(lab, other)
        later = lab.steps("launch", direction_id=one.direction_id)[-1]
        assert later.due_at == lab.clock.now() + executions.NO_ROOM_WAIT_S

    def test_a_template_judged_by_a_time_asks_for_that(self, make_lab: Make) -> None:
        timed = TINY["template.toml"].replace("primary = true", "primary = true\n    is_time = true")
        lab = make_lab(files={**TINY, "template.toml": timed})
        lab.submit()
        lab.go_on_to("propose")
        assert {one.kind: one.alone for one in lab.executions()} == {
            Kind.PREPARE: False, Kind.RUN: True, Kind.EVALUATE: True,
        }  # fmt: skip


class TestGpus:
    def test_small_ones_share_a_device_as_far_as_its_memory_goes(self, make_lab: Make) -> None:
        lab = make_lab()
        made = [want(lab, gpus=1, gpu_memory_mib=40) for _ in range(3)]
        assert [begin(lab, one) for one in made] == [("0",), ("0",), None]
        end(lab, made[0])
        assert begin(lab, made[2]) == ("0",)
        assert [(one.gpus, one.gpu_memory_mib) for one in leases(lab, ended_at=None)] == [(("0",), 40)] * 2

    def test_of_unknown_size_or_of_another_tenant_none_is_shared(self, make_lab: Make) -> None:
        lab = make_lab()
        first, second = (want(lab, gpus=1, gpu_memory_mib=10) for _ in range(2))
        assert begin(lab, first, sizes={}, devices=("0",)) == ("0",)
        assert begin(lab, second, sizes={}, devices=("0",)) is None
        assert begin(lab, second) == ("0",)
        assert begin(lab, want(lab, TenantId("ten_b"), gpus=1, gpu_memory_mib=10)) is None

    def test_who_waits_for_a_device_is_not_passed_over_by_small_ones(self, make_lab: Make) -> None:
        lab = make_lab()
        small = [want(lab, gpus=1, gpu_memory_mib=10) for _ in range(4)]
        assert [begin(lab, one) for one in small[:2]] == [("0",), ("0",)]
        other = want(lab, TenantId("ten_b"), gpus=1)
        assert begin(lab, other) is None
        assert begin(lab, small[2]) is None
        end(lab, small[0])
        end(lab, small[1])
        assert begin(lab, small[2]) is None
        assert begin(lab, other) == ("0",)
        end(lab, other)
        assert [begin(lab, one) for one in small[2:]] == [("0",), ("0",)]

    def test_a_quota_counts_devices_and_not_who_shares_them(self, make_lab: Make) -> None:
        lab = make_lab()
        allow(lab, gpus=1)
        sizes = {"0": 100, "1": 100}
        made = [want(lab, gpus=1, gpu_memory_mib=50) for _ in range(3)]
        assert [begin(lab, one, sizes=sizes) for one in made] == [("0",), ("0",), None]
        # And whom the quota keeps waiting keeps no other waiting.
        assert begin(lab, want(lab, TenantId("ten_b"), gpus=1), sizes=sizes) == ("1",)

    def test_a_second_of_a_device_is_paid_once(self, make_lab: Make) -> None:
        lab = make_lab()
        first, second = want(lab, gpus=1, gpu_memory_mib=75), want(lab, gpus=1, gpu_memory_mib=25)
        assert begin(lab, first) == begin(lab, second) == ("0",)
        assert balance(lab).gpu_s == 2 * LIMITS.wall_s
        lab.clock.advance(10)
        end(lab, first)
        assert balance(lab).gpu_s == pytest.approx(7.5 + LIMITS.wall_s)
        lab.clock.advance(10)
        end(lab, second, usage=dataclasses.replace(USAGE, wall_s=20.0))
        assert balance(lab).gpu_s == pytest.approx(20.0)
        assert (balance(lab).gpus, balance(lab).running) == (0, 0)

    def test_what_a_program_says_it_took_decides_the_next(self, make_lab: Make) -> None:
        sizes = {"0": 10_000}
        lab = make_lab()
        made = [want(lab, gpus=1, gpu_memory_mib=6000, measured_as="same") for _ in range(3)]
        assert [begin(lab, one, sizes=sizes) for one in made[:2]] == [("0",), None]
        end(lab, made[0], usage=dataclasses.replace(USAGE, told_gpu_memory_mib=2000.0))
        assert [begin(lab, one, sizes=sizes) for one in made[1:]] == [("0",), ("0",)]
        assert {one.gpu_memory_mib for one in leases(lab, ended_at=None)} == {3524}

    def test_what_no_device_holds_is_refused_and_keeps_nobody_waiting(self, make_lab: Make) -> None:
        lab = make_lab()
        large, small = want(lab, gpus=1, gpu_memory_mib=101), want(lab, gpus=1, gpu_memory_mib=10)
        assert begin(lab, small) == ("0",)
        with pytest.raises(SandboxUnavailableError, match="1 GPUs of 101 MiB"):
            begin(lab, large)

    def test_a_try_that_was_lost_holds_nothing_and_is_remembered(self, make_lab: Make) -> None:
        lab = make_lab()
        one = want(lab, gpus=1)
        assert begin(lab, one) == ("0",)
        with lab.store.begin(write=False) as tx:
            launched = tx.executions.get(one.id)
        lab.clock.advance(3)
        lab.apply(Change(executions=(launched.to(ExecutionState.WANTED, fence=1),)))
        (lost,) = leases(lab)
        assert (lost.id, lost.ended_at) == (f"{one.id}:0", lab.clock.now())
        assert begin(lab, dataclasses.replace(one, fence=1)) == ("0",)
        leasing.beat(lab.store, lab.clock)
        assert [lease.id for lease in leases(lab, ended_at=None)] == [f"{one.id}:1"]

    def test_what_a_run_writes_into_its_parameters_is_what_it_says(self, make_lab: Make) -> None:
        def telling(spec: object) -> Did | None:
            did = act(spec)  # type: ignore[arg-type]
            data = b'{"parameters": 3, "peak_gpu_memory_mib": 512.5}'
            is_run = spec.kind is Kind.RUN  # type: ignore[attr-defined]
            return dataclasses.replace(did, files={**did.files, "run_0/parameters.json": data}) if is_run else did

        toml = TINY["template.toml"] + "[profiles.cards]\nseeds = [1]\ngpus = 1\ngpu_memory_mib = 60\n"
        lab = make_lab(files={**TINY, "template.toml": toml}, sandbox=InstantSandbox(telling))
        lab.run = dataclasses.replace(lab.run, gpus=("0",), gpu_memory_mib=SIZES)
        direction = lab.submit(profile="cards")
        lab.go_on_to("propose")
        (run,) = lab.executions(kind=Kind.RUN)
        assert (run.gpus, run.gpu_memory_mib) == (1, 60)
        learned = peak(lab, wanting.measured_as(direction, Kind.RUN))
        assert learned
        assert learned.gpu_memory_mib == 512.5


@pytest.mark.parametrize(
    ("data", "told_mib"),
    [
        (b'{"peak_gpu_memory_mib": 12.5}', 12.5),
        (b'{"peak_gpu_memory_mib": 7, "parameters": 1}', 7.0),
        (b'{"peak_gpu_memory_mib": -1}', 0.0),
        (b'{"peak_gpu_memory_mib": 1e12}', 0.0),
        (b'{"peak_gpu_memory_mib": NaN}', 0.0),
        (b'{"peak_gpu_memory_mib": true}', 0.0),
        (b'{"peak_gpu_memory_mib": "7"}', 0.0),
        (b"[7]", 0.0),
        (b"[" * 50_000, 0.0),
        (b"\xff", 0.0),
    ],
)
def test_a_programs_word_is_taken_where_it_can_be_true(data: bytes, told_mib: float) -> None:
    assert told.gpu_memory_mib(data) == told_mib


WISHES = st.tuples(st.sampled_from("abc"), st.integers(1, 2), st.none() | st.integers(1, 100))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wishes=st.lists(WISHES, min_size=1, max_size=9), order=st.randoms(use_true_random=False))
def test_whoever_asks_in_whatever_order_all_are_served_and_nothing_is_given_twice(
    make_lab: Callable[..., Laboratory], wishes: list[tuple[str, int, int | None]], order: object
) -> None:
    """The oldest that runs ends whenever nobody more can begin; then at least one of those who wait begins in time."""
    sizes = {"0": 100, "1": 100}
    lab = make_lab(store=MemoryStore())
    waiting = [want(lab, TenantId(f"ten_{who}"), gpus=count, gpu_memory_mib=size) for who, count, size in wishes]
    running: list[Execution] = []
    for _ in range(2 * len(wishes)):
        order.shuffle(waiting)  # type: ignore[attr-defined]
        begun = [one for one in waiting if begin(lab, one, sizes=sizes) is not None]
        waiting = [one for one in waiting if one not in begun]
        running += begun
        for device, size in sizes.items():
            there = [one for one in leases(lab, ended_at=None) if device in one.gpus]
            assert len({one.tenant for one in there}) <= 1
            assert len(there) <= 1 or sum(one.gpu_memory_mib or size + 1 for one in there) <= size
        if not running:
            break
        lab.clock.advance(1)
        end(lab, running.pop(0))
    assert not waiting
    assert not running
    assert not leases(lab, ended_at=None)


def test_limits_are_what_an_execution_may_take_whatever_is_counted(make_lab: Make) -> None:
    lab = make_lab(sandbox=InstantSandbox(lambda _: Did(usage=USAGE)))
    lab.run = dataclasses.replace(lab.run, machine=Machine(cpus=8.0, memory_mib=1024))
    limits = Limits(wall_s=10.0, memory_mib=512, cpus=1.0)
    for _ in range(2):
        want(lab, limits=limits, measured_as="same")
        lab.go_on()
    assert [spec.limits for spec in lab.sandbox.launched] == [limits, limits]
