"""The laws of the domain: allowed moves, names and limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fumehood.domain.direction import DIRECTION_MOVES, Direction, DirectionState
from fumehood.domain.execution import EXECUTION_MOVES, NAME, RANGES, ExecutionState, Input, Kind, Limits, Spec
from fumehood.domain.experiment import EXPERIMENT_MOVES, Execution, Experiment, ExperimentState
from fumehood.domain.ids import (
    ID,
    IDEA_NAME,
    PREFIXES,
    DirectionId,
    ExecutionId,
    ExperimentId,
    IdeaId,
    TenantId,
    container_name,
    idea_name,
)
from fumehood.errors import BadInputError, ConflictError

LIMITS = [(name, *RANGES[name]) for name in Limits.__slots__]
ULID_TEXT = st.text(alphabet="0123456789abcdefghjkmnpqrstvwxyz", min_size=26, max_size=26)
DIRECTION = Direction(
    id=DirectionId("dir_1"),
    tenant=TenantId("ten_1"),
    template="t",
    text="",
    model="m",
    review_model="m",
    profile="tiny",
    ideas=1,
    runs=1,
)
EXPERIMENT = Experiment(
    id=ExperimentId("exp_1"), direction_id=DIRECTION.id, idea_id=IdeaId("idea_1"), name="wide", index=0
)
EXECUTION = Execution(
    id=ExecutionId("exec_1"), direction_id=DIRECTION.id, kind=Kind.RUN, image="lab", command=("true",)
)
LIVES: tuple[tuple[Any, Any], ...] = (
    (DIRECTION, DIRECTION_MOVES),
    (EXPERIMENT, EXPERIMENT_MOVES),
    (EXECUTION, EXECUTION_MOVES),
)
each_life = pytest.mark.parametrize(("start", "moves"), LIVES, ids=["direction", "experiment", "execution"])


class Life(RuleBasedStateMachine):
    """Any sequence of moves: an allowed one is made, any other raises and changes nothing."""

    start: ClassVar[Any]
    moves: ClassVar[Mapping[Any, frozenset[Any]]]
    states: ClassVar[type[StrEnum]]

    @initialize()
    def begin(self) -> None:
        self.value = self.start
        self.state = self.start.state

    @rule(data=st.data())
    def make_an_allowed_move(self, data: st.DataObject) -> None:
        allowed = sorted(self.moves[self.state])
        if allowed:
            self.state = data.draw(st.sampled_from(allowed))
            before = self.value
            self.value = self.value.to(self.state)
            assert self.value is not before

    @rule(data=st.data())
    def try_any_move(self, data: st.DataObject) -> None:
        wanted = data.draw(st.sampled_from(sorted(self.states)))
        if wanted in self.moves[self.state]:
            self.value = self.value.to(wanted)
            self.state = wanted
        else:
            with pytest.raises(ConflictError, match=f"that is {self.state} cannot become {wanted}"):
                self.value.to(wanted)

    @invariant()
    def the_state_is_the_last_move(self) -> None:
        assert self.value.state == self.state
        if hasattr(self.value, "is_final"):
            assert self.value.is_final == (not self.moves[self.state])


class DirectionLife(Life):
    start, moves, states = DIRECTION, DIRECTION_MOVES, DirectionState


class ExperimentLife(Life):
    start, moves, states = EXPERIMENT, EXPERIMENT_MOVES, ExperimentState


class ExecutionLife(Life):
    start, moves, states = EXECUTION, EXECUTION_MOVES, ExecutionState


for _life in (DirectionLife, ExperimentLife, ExecutionLife):
    _life.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestDirectionLife = DirectionLife.TestCase
TestExperimentLife = ExperimentLife.TestCase
TestExecutionLife = ExecutionLife.TestCase


class TestMoves:
    @each_life
    def test_the_table_speaks_of_every_state_and_no_other(self, start: Any, moves: Mapping[Any, Any]) -> None:
        states: type[StrEnum] = type(start.state)
        assert set(moves) == set(states)
        assert all(target in moves for targets in moves.values() for target in targets)

    @each_life
    def test_every_state_is_reached_and_no_state_moves_to_itself(self, start: Any, moves: Mapping[Any, Any]) -> None:
        reached, border = {start.state}, [start.state]
        while border:
            border = [new for new in moves[border.pop()] if new not in reached] + border
            reached.update(border)
        assert reached == set(moves)
        assert all(state not in targets for state, targets in moves.items())

    @pytest.mark.parametrize("moves", [moves for _, moves in LIVES], ids=["direction", "experiment", "execution"])
    def test_an_end_is_reached_from_everywhere(self, moves: Mapping[Any, Any]) -> None:
        ends = {state for state, targets in moves.items() if not targets}
        assert ends
        for _ in moves:
            ends |= {state for state, targets in moves.items() if targets & ends}
        assert ends == set(moves)

    def test_whatever_is_not_over_can_fail_or_be_cancelled(self) -> None:
        for table, names in ((DIRECTION_MOVES, ("failed", "cancelled")), (EXPERIMENT_MOVES, ("failed", "cancelled"))):
            for targets in table.values():
                assert not targets or {str(target) for target in targets} >= set(names)

    @each_life
    def test_a_move_changes_what_it_is_told_and_leaves_the_old_value(
        self, start: Any, moves: Mapping[Any, Any]
    ) -> None:
        target = min(moves[start.state])
        moved = start.to(target, created_at=5.0)
        assert (moved.state, moved.created_at) == (target, 5.0)
        assert (start.created_at, moved.id) == (0.0, start.id)


class TestNames:
    @given(text=st.text())
    def test_any_text_becomes_a_safe_name_and_stays_it(self, text: str) -> None:
        name = idea_name(text)
        assert IDEA_NAME.fullmatch(name), name
        assert idea_name(name) == name

    @given(name=st.from_regex(IDEA_NAME, fullmatch=True))
    def test_a_good_name_is_still_good_when_rewritten(self, name: str) -> None:
        assert IDEA_NAME.fullmatch(idea_name(name))
        assert idea_name(idea_name(name)) == idea_name(name)

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("Wider net!", "wider_net"),
            ("", "idea"),
            ("!!!", "idea"),
            ("2 nets", "idea_2_nets"),
            ("../../etc", "etc"),
            ("Über", "ber"),
            ("a" * 50, "a" * 40),
            ("a" * 39 + " b", "a" * 39),
        ],
    )
    def test_names_are_rewritten_as_a_person_would(self, text: str, name: str) -> None:
        assert idea_name(text) == name

    @given(prefix=st.sampled_from(PREFIXES), ulid=ULID_TEXT)
    def test_an_id_is_a_prefix_and_a_ulid(self, prefix: str, ulid: str) -> None:
        assert ID.fullmatch(f"{prefix}_{ulid}")
        for wrong in (f"{prefix}{ulid}", f"{prefix}_{ulid[1:]}", f"{prefix}_{ulid}0", f"x{prefix}_{ulid}"):
            assert not ID.fullmatch(wrong)
        assert not ID.fullmatch(f"{prefix}_{ulid[:-1]}u")

    @given(ulid=ULID_TEXT)
    def test_a_container_is_named_after_its_execution(self, ulid: str) -> None:
        name = container_name(ExecutionId(f"exec_{ulid}"))
        assert name == f"fh-{ulid}"
        assert NAME.fullmatch(name)


class TestLimits:
    @given(data=st.data())
    def test_what_lies_in_the_ranges_is_taken(self, data: st.DataObject) -> None:
        values = {name: data.draw(st.integers(math.ceil(low), math.floor(high))) for name, low, high in LIMITS}
        assert Limits(**values).wall_s == values["wall_s"]

    @pytest.mark.parametrize(("name", "low", "high"), LIMITS)
    def test_what_lies_outside_is_refused_and_named(self, name: str, low: float, high: float) -> None:
        for good in (low, high):
            Limits(**{name: good})  # type: ignore[arg-type]
        for bad in (low * 0.99, high * 1.01, 0, -1, math.nan, math.inf, -math.inf, True, "5", None):
            with pytest.raises(BadInputError, match=name):
                Limits(**{name: bad})  # type: ignore[arg-type]


class TestSpec:
    NAME: ClassVar[str] = "fh-" + "0" * 26

    @pytest.mark.parametrize("name", ["", "fh-", "fh-" + "u" * 26, "fh-" + "0" * 25, "x" * 29, "fh-" + "A" * 26])
    def test_a_name_that_is_not_ours_is_refused(self, name: str) -> None:
        with pytest.raises(BadInputError, match="name"):
            Spec(name=name, kind=Kind.RUN, command=("true",), image="lab")

    def test_a_command_is_needed(self) -> None:
        with pytest.raises(BadInputError, match="command"):
            Spec(name=self.NAME, kind=Kind.RUN, command=(), image="lab")

    @pytest.mark.parametrize(
        "path", ["", "in", "work", "/in/a", "etc/passwd", "in/../a", "in//a", "work/./a", "in/a/", "../in/a"]
    )
    def test_an_input_stays_in_its_place(self, path: str) -> None:
        item = Input(path=path, sha256="0" * 64, source="/tmp/a")
        with pytest.raises(BadInputError, match="input"):
            Spec(name=self.NAME, kind=Kind.RUN, command=("true",), image="lab", inputs=(item,))

    @pytest.mark.parametrize("path", ["in/a", "work/a/b.py", "in/..a"])
    def test_an_input_in_its_place_is_taken(self, path: str) -> None:
        item = Input(path=path, sha256="0" * 64, source="/tmp/a")
        assert Spec(name=self.NAME, kind=Kind.RUN, command=("true",), image="lab", inputs=(item,)).inputs == (item,)
