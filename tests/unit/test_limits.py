"""What limits mean to the kernel, which ceilings hold, and which verdict follows from which evidence."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fumehood.domain.execution import MIB, RANGES, Input, Kind, Limits, Spec
from fumehood.errors import BadInputError, OverBudgetError
from fumehood.settings import CeilingSettings, Settings
from sandbox import cgroups, limits, records, seccomp
from sandbox.limits import Ceilings
from sandbox.storage import loop
from sandbox.supervisor import judge

NAME = "fh-" + "0" * 26
FIELDS = [field.name for field in dataclasses.fields(Ceilings)]
OF_SPEC = ("artifacts", "artifact_bytes")
ENDS = [(name, end) for name in RANGES for end in RANGES[name]]


def spec_with(name: str, value: float) -> Spec:
    asked = {f"max_{name}": value} if name in OF_SPEC else {"limits": Limits(**{name: value})}  # type: ignore[arg-type]
    return Spec(name=NAME, kind=Kind.RUN, command=("true",), image="lab", **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FIELDS)
def test_a_ceiling_is_allowed_and_one_more_is_not(name: str) -> None:
    ceiling = 2000 if isinstance(RANGES[name][0], int) else 2.0
    ceilings = Ceilings(**{name: ceiling})  # type: ignore[arg-type]
    ceilings.check(spec_with(name, ceiling))
    with pytest.raises(OverBudgetError, match=f"The limit {name} may be at most {ceiling} here, and {ceiling + 1}"):
        ceilings.check(spec_with(name, ceiling + 1))


def test_every_limit_may_have_a_ceiling() -> None:
    assert [*(field.name for field in dataclasses.fields(Limits)), *OF_SPEC] == FIELDS == list(RANGES)
    assert list(CeilingSettings.model_fields) == FIELDS


def test_a_ceiling_on_storage_is_not_passed_by_asking_for_no_quota() -> None:
    spec = dataclasses.replace(spec_with("storage_mib", 4), storage="none")
    Ceilings().check(spec)
    with pytest.raises(OverBudgetError, match="without a quota"):
        Ceilings(storage_mib=1024).check(spec)


@pytest.mark.parametrize(("name", "end"), ENDS)
def test_an_admin_can_name_what_a_limit_can_be_and_nothing_else(name: str, end: float) -> None:
    assert getattr(CeilingSettings(**{name: end}), name) == end  # type: ignore[arg-type]
    assert spec_with(name, end)
    step = 1 if isinstance(end, int) else 0.01
    beyond = end + (step if end == RANGES[name][1] else -step)
    for wrong in (beyond, "many", float("nan"), True):
        with pytest.raises(BadInputError, match=name):
            spec_with(name, wrong)  # type: ignore[arg-type]
        if wrong is not True:
            with pytest.raises(ValidationError, match=name):
                CeilingSettings(**{name: wrong})  # type: ignore[arg-type]


def test_the_lower_of_two_ceilings_holds() -> None:
    machine = limits.machine_ceilings()
    assert machine.memory_mib
    assert limits.effective_ceilings(None) == machine
    assert limits.effective_ceilings(Ceilings(memory_mib=machine.memory_mib * 2)).memory_mib == machine.memory_mib
    lower = limits.effective_ceilings(Ceilings(memory_mib=16, wall_s=5.0))
    assert (lower.memory_mib, lower.wall_s, lower.processes) == (16, 5.0, machine.processes)


def test_ceilings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUMEHOOD_CEILINGS__WALL_S", "60.5")
    monkeypatch.setenv("FUMEHOOD_CEILINGS__ARTIFACTS", "7")
    assert limits.of(Settings()) == Ceilings(wall_s=60.5, artifacts=7)
    monkeypatch.setenv("FUMEHOOD_CEILINGS__WALLS", "1")
    with pytest.raises(ValidationError, match="walls"):
        Settings()


def test_no_ceiling_of_an_unset_installation_breaks_a_shipped_profile() -> None:
    machine = limits.machine_ceilings()
    places = list((Path(__file__).parents[2] / "templates").glob("*/template.toml"))
    assert places
    for place in places:
        profiles = tomllib.loads(place.read_text(encoding="utf-8"))["profiles"]
        for profile in (one for name, one in profiles.items() if name != "gpu"):
            for told in profile["limits"].values():
                asked = Limits(**{name: told[name] for name in told if name != "output_kib"})
                dataclasses.replace(machine, memory_mib=None).check(
                    Spec(name=NAME, kind=Kind.RUN, command=("true",), image="lab", limits=asked)
                )


@pytest.mark.parametrize("storage", ["", "ext4", "LOOP"])
def test_storage_is_one_of_a_few_words(storage: str) -> None:
    with pytest.raises(BadInputError, match="Storage is one of"):
        dataclasses.replace(spec_with("cpus", 1.0), storage=storage)


@given(st.floats(0.05, 1024))
def test_the_share_of_the_processor_is_kept(cpus: float) -> None:
    quota = limits.cpu_quota_us(Limits(cpus=cpus))
    assert abs(quota / limits.CPU_PERIOD_US - cpus) <= 1e-5 * cpus + 1e-5


@given(st.integers(16, 4 * 1024 * 1024))
def test_what_counts_as_memory_is_never_more_than_it(memory: int) -> None:
    asked = Limits(memory_mib=memory)
    assert limits.tmp_bytes(asked) <= limits.memory_bytes(asked) // 2
    assert limits.shared_memory_bytes(asked) <= limits.memory_bytes(asked) // 2


@given(st.integers(64, 100_000), st.lists(st.integers(0, 10**8), max_size=20))
def test_a_volume_is_little_larger_than_what_it_is_for(storage: int, inputs: list[int]) -> None:
    size = loop.image_bytes(Limits(storage_mib=storage), inputs)
    wanted = storage * MIB + sum(inputs)
    assert wanted < size <= wanted * 1.03 + len(inputs) * 16 * 1024 + 2 * MIB


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        ({}, "succeeded"),
        ({"status": 1}, "failed"),
        ({"status": 137}, "failed"),
        ({"status": -9}, "lost"),
        ({"status": 0, "oom_kills": 1}, "succeeded"),
        ({"status": 137, "oom_kills": 1}, "out_of_memory"),
        ({"status": -9, "oom_kills": 1}, "out_of_memory"),
        ({"status": 1, "denied": 3}, "too_many_processes"),
        ({"status": 0, "denied": 3}, "succeeded"),
        ({"status": 1, "storage_full": True}, "out_of_storage"),
        ({"status": 0, "storage_full": True}, "succeeded"),
        ({"status": 153}, "out_of_storage"),
        ({"status": 1, "oom_kills": 1, "denied": 1, "storage_full": True}, "out_of_memory"),
        ({"status": 1, "oom_kills": 1, "intent": "cancelled"}, "cancelled"),
        ({"status": 0, "intent": "timed_out"}, "timed_out"),
        ({"status": 1, "begun": False}, "lost"),
        ({"status": -9, "begun": False, "intent": "cancelled"}, "cancelled"),
    ],
)
def test_our_intent_comes_first_and_the_exit_code_last(evidence: dict[str, int | bool | str], verdict: str) -> None:
    told = {"intent": "", "begun": True, "status": 0, "oom_kills": 0, "denied": 0, "storage_full": False, **evidence}
    assert judge(**told)[0] == verdict  # type: ignore[arg-type]


def test_a_spec_survives_being_written_down() -> None:
    item = Input(path="in/x", sha256="0" * 64, source="/x", executable=True)
    spec = Spec(
        name=NAME, kind=Kind.EVALUATE, command=("a", "b"), image="lab", inputs=(item,), collect=("*",),
        environment={"A": "1"}, limits=Limits(cpus=0.5), labels={"x": "y"}, fence=3,
    )  # fmt: skip
    assert records.decode(records.encode(spec)) == spec
    assert records.digest(spec) != records.digest(dataclasses.replace(spec, fence=4))


def _tree(root: Path) -> cgroups.Hierarchy:
    for folder in (root, root / "fh", root / "fh/here", root / "fh/here" / NAME):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.subtree_control").write_text("", encoding="ascii")
        (folder / "cgroup.procs").write_text("", encoding="ascii")
    (root / "cgroup.controllers").write_text("cpuset cpu io memory pids\n", encoding="ascii")
    found = cgroups.find(root)
    assert found is not None
    return found


def test_version_two_groups_get_every_limit(tmp_path: Path) -> None:
    hierarchy = _tree(tmp_path)
    assert hierarchy.version == 2
    folder = tmp_path / "fh/here" / NAME
    (folder / "memory.swap.max").write_text("max", encoding="ascii")
    cgroups.make(hierarchy, "here", NAME, Limits(memory_mib=100, processes=10, cpus=1.5))
    told = {
        name: (folder / name).read_text(encoding="ascii")
        for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max")
    }
    assert told == {
        "memory.max": str(100 * MIB), "memory.swap.max": "0", "pids.max": "12", "cpu.max": "150000 100000",
    }  # fmt: skip
    for above in (tmp_path, tmp_path / "fh", tmp_path / "fh/here"):
        assert (above / "cgroup.subtree_control").read_text(encoding="ascii") == "+cpu +memory +pids"
    assert cgroups.names(hierarchy, "here") == {NAME}


def test_without_all_controllers_there_is_no_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu io\n", encoding="ascii")
    assert cgroups.find(tmp_path) is None
    assert "no memory" in cgroups.missing(None)


def test_the_profile_for_engines_says_the_same() -> None:
    profile = seccomp.docker_profile()
    entries = profile["syscalls"]
    assert isinstance(entries, list)
    assert len(entries) == len(seccomp.RULES)
    assert {name for entry in entries for name in entry["names"]} == {
        call for rule in seccomp.RULES for call in rule.calls
    }
    masked = next(entry for entry in entries if entry["names"] == ["clone"])
    assert masked["args"][0] == {"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0x20000, "valueTwo": 0x20000}
