"""Tokens of executions: what the run side may mint, and what the gateway makes of one."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest

from fumehood.domain.direction import Direction, Hold
from fumehood.domain.execution import RANGES, ExecutionState, Kind
from fumehood.domain.experiment import Attempt, Execution, Experiment, Run
from fumehood.domain.ids import ID, DirectionId, ExecutionId, ExperimentId, IdeaId, RunId, TenantId
from fumehood.domain.ledger import Claims
from fumehood.domain.token import (
    LONGEST_EXECUTION_LIFE_S,
    MARGIN_S,
    TokenError,
    execution_secret,
    id_for_execution,
    mint,
    mint_for_execution,
    read,
)
from fumehood.errors import OverBudgetError
from fumehood.gateway.accounts import Accounts
from fumehood.services import quotas, revoking
from tests.fakes.laboratory import TINY, Laboratory, act
from tests.fakes.sandbox import InstantSandbox

SECRET = b"s" * 32
DERIVED = execution_secret(SECRET)
EXECUTION = ExecutionId("exec_01kaw3v9m1c7d2e5f8g0h3j6kq")
ASKING = TINY["template.toml"] + "\n[llm]\nusd_per_run = 0.25\n"


def claims(direction: Direction | None = None, **changes: Any) -> Claims:
    made = Claims(
        tenant=TenantId(""),
        direction_id=direction.id if direction else DirectionId("dir_1"),
        role="execution",
        model="",
        execution=EXECUTION,
        fence=3,
        expires_at=100.0,
    )
    return dataclasses.replace(made, **changes)


def asking(lab: Laboratory, direction: Direction, **changes: Any) -> Execution:
    given = Execution(
        id=EXECUTION, direction_id=direction.id, kind=Kind.RUN, image="lab", command=("true",), network="allow:llm",
        llm_usd=0.25, state=ExecutionState.LAUNCHED, fence=3,
    )  # fmt: skip
    made = dataclasses.replace(given, **changes)
    lab.save(made)
    return made


class TestTheText:
    def test_it_gives_back_its_claims(self) -> None:
        token = mint_for_execution(claims(), DERIVED)
        assert token.startswith("fhx_")
        assert read(token, SECRET, 99.0) == claims()
        with pytest.raises(TokenError, match="expired"):
            read(token, SECRET, 100.0)

    def test_the_run_side_s_secret_is_derived_and_another(self) -> None:
        assert hmac.new(SECRET, b"executions", hashlib.sha256).digest() == DERIVED != SECRET

    @pytest.mark.parametrize(
        ("token", "sentence"),
        [
            (mint(claims(role="idea", execution=""), DERIVED), "signature"),
            (mint(claims(), DERIVED), "signature"),
            (mint_for_execution(claims(), SECRET), "signature"),
            (mint_for_execution(claims(role="idea", execution=""), DERIVED), "role"),
            (mint_for_execution(claims(role="coder"), DERIVED), "role"),
            (mint_for_execution(claims(execution=""), DERIVED), "role"),
            (mint(claims(), SECRET), "role"),
            (mint(claims(role="idea"), SECRET), "role"),
        ],
    )
    def test_neither_side_makes_the_other_s(self, token: str, sentence: str) -> None:
        with pytest.raises(TokenError, match=sentence):
            read(token, SECRET, 0.0)

    def test_one_kind_does_not_become_the_other_by_its_prefix(self) -> None:
        for token, other in ((mint_for_execution(claims(), DERIVED), "fhg_"), (mint(claims(), SECRET), "fhx_")):
            with pytest.raises(TokenError, match="signature"):
                read(other + token[4:], SECRET, 0.0)

    def test_it_may_live_as_long_as_an_execution_may_run_and_no_longer(self) -> None:
        assert RANGES["wall_s"][1] + MARGIN_S == LONGEST_EXECUTION_LIFE_S
        longest = claims(expires_at=LONGEST_EXECUTION_LIFE_S)
        assert read(mint_for_execution(longest, DERIVED), SECRET, 0.0) == longest
        with pytest.raises(TokenError, match="longer than any execution"):
            read(mint_for_execution(longest, DERIVED), SECRET, -1.0)

    def test_a_launch_has_one_id_and_the_next_another(self) -> None:
        found = [id_for_execution(EXECUTION, fence) for fence in (0, 0, 1)]
        assert found[0] == found[1] != found[2]
        assert all(ID.match(one) for one in found)


class TestWhatTheDatabaseSays:
    def test_all_but_the_execution_is_taken_from_the_rows(self, lab: Laboratory) -> None:
        direction = lab.submit(model="offline")
        experiment = Experiment(
            id=ExperimentId("exp_1"), direction_id=direction.id, idea_id=IdeaId("idea_1"), name="smaller", index=0
        )
        attempts = (Attempt(number=1, verdict="failed"), Attempt(number=2, verdict="no_edit"))
        run = Run(id=RunId("run_1"), direction_id=direction.id, experiment_id=experiment.id, index=4, attempts=attempts)
        lab.save(experiment, run)
        asking(lab, direction, experiment_id=experiment.id, run_id=run.id)
        told = claims(direction, model="claude-opus-4-6", cap_usd=1e6, tenant=TenantId("ten_other"), id="tok_own")
        assert Accounts(lab.store, lab.clock).bound(told) == Claims(
            tenant=direction.tenant,
            direction_id=direction.id,
            experiment_id=experiment.id,
            role="execution",
            model="offline",
            idea="smaller",
            run=4,
            attempt=3,
            playbook=direction.template_files.get("offline.toml", ""),
            id=id_for_execution(EXECUTION, 3),
            execution=EXECUTION,
            fence=3,
            cap_usd=0.25,
            expires_at=100.0,
        )

    def test_other_tokens_are_left_as_they_are(self, lab: Laboratory) -> None:
        told = claims(role="idea", execution="", model="m")
        assert Accounts(lab.store, lab.clock).bound(told) == told

    @pytest.mark.parametrize(
        ("row", "sentence"),
        [
            ({"fence": 4}, "begun again"),
            ({"state": ExecutionState.ENDED}, "has ended"),
            ({"state": ExecutionState.COLLECTED}, "has ended"),
            ({"state": ExecutionState.REMOVED}, "has ended"),
            ({"state": ExecutionState.WANTED}, "has ended"),
            ({"network": "none"}, "granted no model"),
            ({"network": "allow:arxiv"}, "granted no model"),
            ({"network": "relay:asks:llm"}, "granted no model"),
            ({"id": ExecutionId("exec_01kaw3v9m1c7d2e5f8g0h3j6kr")}, "does not have"),
        ],
    )
    def test_what_is_not_under_way_or_not_granted_is_refused(
        self, lab: Laboratory, row: dict[str, Any], sentence: str
    ) -> None:
        direction, accounts = lab.submit(), Accounts(lab.store, lab.clock)
        asking(lab, direction, **row)
        for ask in (accounts.bound, lambda told: accounts.reserve("call_1", told, 0.01, 10), accounts.check):
            with pytest.raises(TokenError, match=sentence):
                ask(claims(direction))

    def test_another_direction_s_execution_is_refused(self, lab: Laboratory) -> None:
        first, second = lab.submit(), lab.submit()
        asking(lab, first)
        with pytest.raises(TokenError, match="does not have"):
            Accounts(lab.store, lab.clock).bound(claims(second))

    def test_a_program_may_ask_before_its_launch_is_written_down(self, lab: Laboratory) -> None:
        direction, accounts = lab.submit(), Accounts(lab.store, lab.clock)
        wanted = asking(lab, direction, state=ExecutionState.WANTED)
        assert quotas.reserve(lab.store, lab.clock, direction, wanted, ()) == ()
        assert accounts.bound(claims(direction)).cap_usd == 0.25

    def test_one_that_ended_between_two_calls_is_refused(self, lab: Laboratory) -> None:
        direction, accounts = lab.submit(), Accounts(lab.store, lab.clock)
        asking(lab, direction)
        bound = accounts.bound(claims(direction))
        accounts.reserve("call_1", bound, 0.01, 10)
        asking(lab, direction, state=ExecutionState.COLLECTED)
        with pytest.raises(TokenError, match="has ended"):
            accounts.reserve("call_2", bound, 0.01, 10)


class TestMoney:
    def test_its_own_cap_refuses_it_and_holds_nobody(self, lab: Laboratory) -> None:
        direction, accounts = lab.submit(), Accounts(lab.store, lab.clock)
        asking(lab, direction)
        bound = accounts.bound(claims(direction))
        accounts.reserve("call_1", bound, 0.20, 10)
        with pytest.raises(OverBudgetError) as refused:
            accounts.reserve("call_2", bound, 0.10, 10)
        assert (refused.value.cap, refused.value.is_directions) == ("token", False)
        accounts.reserve("call_3", bound, 0.05, 10)
        assert lab.direction().hold is Hold.NONE
        with lab.store.begin(write=False) as tx:
            assert tx.ledger.balance(id_for_execution(EXECUTION, 3)).usd == pytest.approx(0.25)

    def test_one_that_is_begun_again_has_all_its_money_again(self, lab: Laboratory) -> None:
        direction, accounts = lab.submit(), Accounts(lab.store, lab.clock)
        asking(lab, direction)
        accounts.reserve("call_1", accounts.bound(claims(direction)), 0.25, 10)
        asking(lab, direction, fence=4)
        accounts.reserve("call_2", accounts.bound(claims(direction, fence=4)), 0.25, 10)

    def test_it_can_be_revoked(self, lab: Laboratory) -> None:
        direction, accounts = lab.submit(), Accounts(lab.store, lab.clock)
        asking(lab, direction)
        bound = accounts.bound(claims(direction))
        revoking.revoke(lab.store, lab.clock, "key_1", id_for_execution(EXECUTION, 3))
        with pytest.raises(TokenError, match="revoked"):
            accounts.reserve("call_1", bound, 0.01, 10)
        with pytest.raises(TokenError, match="revoked"):
            accounts.check(bound)


class TestTheTemplate:
    def test_only_runs_of_a_template_that_says_so_are_granted_a_model(
        self, make_lab: Callable[..., Laboratory]
    ) -> None:
        seen = []

        class Looking(InstantSandbox):
            def launch(self, spec: Any) -> None:
                seen.append((spec.kind, spec.network))
                super().launch(spec)

        lab = make_lab(files={**TINY, "template.toml": ASKING}, sandbox=Looking(act))
        direction = lab.submit()
        lab.go_on_to("propose")
        granted = {one.kind: (one.network, one.llm_usd) for one in lab.executions()}
        nothing = ("none", 0.0)
        assert granted == {Kind.PREPARE: nothing, Kind.RUN: ("allow:llm", 0.25), Kind.EVALUATE: nothing}
        assert dict(seen) == {kind: network for kind, (network, _) in granted.items()}
        (run,) = lab.executions(kind=Kind.RUN)
        assert run.environment["FUMEHOOD_LLM_MODEL"] == direction.model

    def test_without_the_table_nothing_is_granted(self, lab: Laboratory) -> None:
        lab.submit()
        lab.go_on_to("propose")
        assert {(one.network, one.llm_usd) for one in lab.executions()} == {("none", 0.0)}
        assert "FUMEHOOD_LLM_MODEL" not in lab.executions(kind=Kind.RUN)[0].environment
