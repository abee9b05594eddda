"""What fits beside what: no machine and no GPU is promised twice, and a GPU's seconds are booked once."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.domain import machine
from fumehood.domain.execution import Limits
from fumehood.domain.ids import ExecutionId, TenantId
from fumehood.domain.machine import Gpus, Lease, Machine, Peak, Taken

A, B = TenantId("ten_a"), TenantId("ten_b")
PEAK = Peak(id="p", memory_mib=100.0, cpus=0.5)


def lease(name: str, **changes: object) -> Lease:
    made = Lease(id=f"{name}:0", tenant=A, execution_id=ExecutionId(name), gpus=("0",), gpu_memory_mib=10)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


class TestNeeds:
    def test_a_code_of_which_nothing_is_known_needs_its_limits(self) -> None:
        need = machine.need_of(Limits(memory_mib=512, cpus=2.0))
        assert (need.cpus, need.memory_mib, need.most_mib) == (2.0, 512, 512)

    def test_what_was_measured_counts_with_a_margin(self) -> None:
        need = machine.need_of(Limits(memory_mib=512, cpus=1.0), dataclasses.replace(PEAK, cpus=0.6))
        assert (need.cpus, need.memory_mib, need.most_mib) == (pytest.approx(0.75), 189, 512)

    @given(peak=st.floats(0.1, 1e6), cpus=st.floats(0.0, 64.0), limit=st.integers(16, 100_000))
    def test_never_below_what_was_measured_and_never_above_the_limit(
        self, peak: float, cpus: float, limit: int
    ) -> None:
        need = machine.need_of(Limits(memory_mib=limit, cpus=4.0), Peak(id="p", memory_mib=peak, cpus=cpus))
        assert min(peak, limit) <= need.memory_mib <= limit == need.most_mib
        assert max(2.0, min(cpus, 4.0)) <= need.cpus <= 4.0

    def test_of_a_gpu_the_programs_own_word_decides_where_there_is_one(self) -> None:
        told = dataclasses.replace(PEAK, gpu_memory_mib=4000.0)
        assert machine.gpu_need_of(None, told) is None
        assert machine.gpu_need_of(8000) == machine.gpu_need_of(8000, PEAK) == 8000
        assert machine.gpu_need_of(8000, told) == 5000 + machine.GPU_MARGIN_MIB
        assert machine.gpu_need_of(1000, told) == 5000 + machine.GPU_MARGIN_MIB


LIMITS = st.builds(Limits, memory_mib=st.integers(16, 4096), cpus=st.floats(0.1, 4.0))
PEAKS = st.none() | st.builds(Peak, id=st.just("p"), memory_mib=st.floats(1.0, 4096.0), cpus=st.floats(0.0, 4.0))


@given(asked=st.lists(st.tuples(LIMITS, PEAKS), max_size=20), memory_mib=st.integers(256, 8192))
def test_any_one_may_grow_to_its_limit_and_the_machine_still_holds_all(
    asked: list[tuple[Limits, Peak | None]], memory_mib: int
) -> None:
    shared, taken = Machine(cpus=8.0, memory_mib=memory_mib), Taken()
    inside: list[machine.Need] = []
    for limits, peak in asked:
        need = machine.need_of(limits, peak)
        if shared.holds(taken.plus(need)):
            taken = taken.plus(need)
            inside.append(need)
    for grown in inside:
        others = sum(one.memory_mib for one in inside) - grown.memory_mib
        assert others + grown.most_mib <= memory_mib
    assert sum(one.cpus for one in inside) <= 8.0 + 1e-6


class TestGpus:
    def test_those_in_use_come_first_the_fullest_before(self) -> None:
        held = [lease("a", gpu_memory_mib=40), lease("b", gpus=("1",), gpu_memory_mib=60)]
        gpus = Gpus(("0", "1", "2"), {"0": 100, "1": 100, "2": 100}, held)
        assert gpus.place(A, 1, 30) == ("1",)
        assert gpus.place(A, 1, 50) == ("0",)
        assert gpus.place(A, 1, 70) == ("2",)
        assert gpus.place(A, 2, 30) == ("1", "0")
        assert gpus.place(A, 4, 30) is None

    def test_nobody_comes_beside_one_that_has_it_alone_or_beside_another_tenant(self) -> None:
        sizes = {"0": 100}
        assert Gpus(("0",), sizes, [lease("a", gpu_memory_mib=None)]).place(A, 1, 10) is None
        assert Gpus(("0",), sizes, [lease("a")]).place(A, 1, None) is None
        assert Gpus(("0",), sizes, [lease("a")]).place(B, 1, 10) is None
        assert Gpus(("0",), sizes, [lease("a")]).place(A, 1, 90) == ("0",)
        assert Gpus(("0",), sizes, [lease("a")]).place(A, 1, 91) is None

    def test_a_device_of_unknown_size_is_never_shared(self) -> None:
        gpus = Gpus(("0", "1"), {}, [lease("a")])
        assert gpus.place(A, 1, 10) == ("1",)
        assert gpus.place(A, 2, 10) is None

    def test_what_is_larger_than_a_device_is_not_put_there(self) -> None:
        gpus = Gpus(("0", "1"), {"0": 10, "1": 100}, [])
        assert gpus.place(A, 1, 50) == ("1",)
        assert not gpus.can_hold(2, 50)
        assert gpus.can_hold(1, 50)
        assert gpus.can_hold(2, None)

    @given(
        asked=st.lists(
            st.tuples(st.sampled_from([A, B]), st.integers(1, 3), st.none() | st.integers(1, 100)), max_size=25
        ),
        sizes=st.dictionaries(st.sampled_from("0123"), st.integers(1, 100)),
    )
    def test_no_device_is_promised_twice(
        self, asked: list[tuple[TenantId, int, int | None]], sizes: dict[str, int]
    ) -> None:
        gpus, made = Gpus("0123", sizes, []), []
        for number, (tenant, count, memory_mib) in enumerate(asked):
            placed = gpus.place(tenant, count, memory_mib)
            if placed is not None:
                assert len(set(placed)) == count
                made.append(lease(f"e{number}", tenant=tenant, gpus=placed, gpu_memory_mib=memory_mib))
                gpus.add(made[-1])
        for device in "0123":
            there = [one for one in made if device in one.gpus]
            if len(there) > 1:
                assert len({one.tenant for one in there}) == 1
                assert sum(one.gpu_memory_mib or 1000 for one in there) <= sizes[device]
            assert all((one.gpu_memory_mib or 0) <= sizes.get(device, 1000) for one in there)


class TestBooking:
    def test_who_had_the_device_alone_books_all_of_it(self) -> None:
        one = lease("a", since=10.0, ended_at=20.0)
        assert machine.mean_share(one, []) == 1.0
        assert machine.mean_share(one, [lease("b", since=20.5, ended_at=30.0)]) == 1.0
        assert machine.mean_share(dataclasses.replace(one, gpu_memory_mib=None), [one]) == 1.0

    def test_who_shared_it_for_a_while_books_its_part_of_that_while(self) -> None:
        one = lease("a", since=0.0, ended_at=10.0, gpu_memory_mib=30)
        other = lease("b", since=5.0, gpu_memory_mib=10)
        assert machine.mean_share(one, [one, other]) == pytest.approx(0.5 + 0.5 * 0.75)

    @given(
        spans=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50), st.integers(1, 40)), min_size=1, max_size=8)
    )
    def test_every_second_of_a_device_is_booked_once(self, spans: list[tuple[int, int, int]]) -> None:
        leases = [
            lease(f"e{number}", since=float(begin), ended_at=float(begin + length), gpu_memory_mib=size)
            for number, (begin, length, size) in enumerate(spans)
        ]
        booked = sum(machine.mean_share(one, leases) * ((one.ended_at or 0.0) - one.since) for one in leases)
        held = {second for begin, length, _ in spans for second in range(begin, begin + length)}
        assert booked == pytest.approx(len(held))


class TestBeside:
    def test_two_that_met_on_a_gpu_were_beside_each_other(self) -> None:
        one = lease("a", since=1.0, ended_at=5.0)
        assert one.is_beside(lease("b", since=5.0))
        assert not one.is_beside(lease("b", since=5.1))
        assert not one.is_beside(lease("b", since=2.0, gpus=("1",)))
        assert not one.is_beside(dataclasses.replace(one, id="a:1", since=3.0))

    def test_without_a_gpu_whatever_ran_meanwhile_was_beside(self) -> None:
        one = lease("a", gpus=(), since=1.0, ended_at=5.0)
        assert one.is_beside(lease("b", since=2.0))
        assert not lease("b", since=2.0).is_beside(one)
