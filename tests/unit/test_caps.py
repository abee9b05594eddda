"""Caps at every level, and tokens that open nothing any more."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from fumehood.domain.direction import Direction, DirectionState, Hold
from fumehood.domain.experiment import Experiment, ExperimentState
from fumehood.domain.ids import ExperimentId, IdeaId
from fumehood.domain.ledger import CallText, Claims, ModelCall, ModelUsage
from fumehood.domain.step import Side, Step, StepState
from fumehood.domain.tenant import LOCAL_TENANT, Tenant
from fumehood.domain.token import LONGEST_EXECUTION_LIFE_S, LONGEST_LIFE_S, TokenError, mint, read
from fumehood.errors import NotFoundError, OverBudgetError
from fumehood.gateway.accounts import Accounts
from fumehood.gateway.app import answer_to
from fumehood.ports import Transaction
from fumehood.services import directions, guidance, revoking
from tests.fakes.laboratory import Laboratory, script
from tests.fakes.model import ScriptedCoder

TOKEN = "tok_01kaw3v9m1c7d2e5f8g0h3j6kq"
Make = Callable[..., Laboratory]


def claims(direction: Direction, **changes: Any) -> Claims:
    made = Claims(tenant=LOCAL_TENANT, direction_id=direction.id, role="coder", model="m", id=TOKEN)
    return dataclasses.replace(made, **changes)


def experiment(lab: Laboratory, number: int = 1) -> ExperimentId:
    one = Experiment(
        id=ExperimentId(f"exp_{number}"), direction_id=lab.direction().id, idea_id=IdeaId("idea_1"), name="a",
        index=number,
    )  # fmt: skip
    lab.save(one)
    return one.id


class TestCaps:
    @pytest.mark.parametrize(
        ("given", "quotas", "cap", "words"),
        [
            ({"budget_usd_per_call": 0.5}, {}, "call", "for one call is $0.50, and this call may cost up to $1.00: it"),
            ({"budget_usd_per_experiment": 1.5}, {}, "experiment", "for one experiment is $1.50; $1.00 is spent or"),
            ({"budget_usd": 1.5}, {}, "direction", "budget is $1.50; $1.00 is spent or reserved, and this call may"),
            ({}, {"usd": 1.5}, "tenant", "quota is 1.5 US dollars in all; 1 are spent or reserved, and this takes up"),
            ({}, {"usd_day": 1.5}, "day", "quota is 1.5 US dollars a day; 1 are spent or reserved, and this takes up"),
        ],
    )
    def test_a_refusal_names_its_cap(
        self, make_lab: Make, given: dict[str, float], quotas: dict[str, float], cap: str, words: str
    ) -> None:
        lab = make_lab()
        with lab.store.begin() as tx:
            tx.tenants.save(Tenant(id=LOCAL_TENANT, name="local", quotas=quotas))
        direction, accounts = lab.submit(**given), Accounts(lab.store, lab.clock)
        asked = claims(direction, experiment_id=experiment(lab))
        if cap != "call":
            accounts.reserve("call_1", asked, 1.0, 10)
        with pytest.raises(OverBudgetError) as refused:
            accounts.reserve("call_2", asked, 1.0, 10)
        assert words in str(refused.value)
        assert (refused.value.cap, refused.value.is_directions) == (cap, cap == "direction")
        told = json.loads(bytes(answer_to(refused.value).body))
        assert (told["cap"], told["status"], told["detail"]) == (cap, 402, str(refused.value))

    def test_a_token_has_a_cap_of_its_own_that_another_s_calls_do_not_fill(self, lab: Laboratory) -> None:
        direction, accounts = lab.submit(), Accounts(lab.store, lab.clock)
        mine, other = claims(direction, cap_usd=1.5), claims(direction, id="tok_other", cap_usd=1.5)
        accounts.reserve("call_1", mine, 1.0, 10)
        with pytest.raises(OverBudgetError, match=r"own cap is \$1.50; \$1.00 is spent or reserved") as refused:
            accounts.reserve("call_2", mine, 1.0, 10)
        assert refused.value.cap == "token"
        accounts.reserve("call_3", other, 1.0, 10)
        with lab.store.begin(write=False) as tx:
            assert (tx.ledger.balance(TOKEN).usd, tx.ledger.balance("tok_other").usd) == (1.0, 1.0)

    def test_what_costs_nothing_passes_every_cap(self, lab: Laboratory) -> None:
        direction = lab.submit(budget_usd=0.0, budget_usd_per_experiment=0.0, budget_usd_per_call=0.0)
        asked = claims(direction, experiment_id=experiment(lab), cap_usd=0.0)
        assert Accounts(lab.store, lab.clock).reserve("call_1", asked, 0.0, 10).usd == 0.0

    def test_one_experiment_s_spending_leaves_another_its_own(self, lab: Laboratory) -> None:
        direction, accounts = lab.submit(budget_usd_per_experiment=1.0), Accounts(lab.store, lab.clock)
        accounts.reserve("call_1", claims(direction, experiment_id=experiment(lab, 1)), 1.0, 1)
        accounts.reserve("call_2", claims(direction, experiment_id=experiment(lab, 2)), 1.0, 1)
        accounts.reserve("call_3", claims(direction), 5.0, 1)

    def test_what_was_settled_makes_room_again(self, lab: Laboratory) -> None:
        direction, accounts = lab.submit(budget_usd=1.0), Accounts(lab.store, lab.clock)
        taken = accounts.reserve("call_1", claims(direction), 1.0, 100)
        usage = ModelUsage(input_tokens=5, cached_tokens=2, output_tokens=3, usd=0.25)
        call = ModelCall(
            id="call_1", direction_id=direction.id, role="coder", model="m", upstream="u", claims="{}", request="",
            reply="", status=200, usage=usage,
        )  # fmt: skip
        accounts.settle(taken, call, CallText(id=call.id))
        accounts.reserve("call_2", claims(direction), 0.75, 100)
        with lab.store.begin(write=False) as tx:
            balance = tx.ledger.balance(TOKEN)
        assert (balance.usd, balance.tokens, balance.input_tokens) == (1.0, 110, 5)
        assert (balance.cached_tokens, balance.output_tokens) == (2, 3)


class TestHolds:
    def test_over_an_experiment_s_cap_the_others_go_on(self, make_lab: Make) -> None:
        error = OverBudgetError("The direction's budget for one experiment is $1.00; ...", cap="experiment")
        told = script()
        dear = {**told, "notes": lambda call: error if call.claims.idea == "smaller_scale" else "Measured."}
        lab = make_lab(model=dear)
        lab.submit(ideas=2, runs=1)
        lab.go_on()
        holds = {one.name: (one.hold, one.state) for one in lab.experiments()}
        assert holds["smaller_scale"] == (Hold.OVER_BUDGET, ExperimentState.RUNNING)
        assert (lab.direction().hold, lab.direction().state) == (Hold.NONE, DirectionState.RUNNING)
        lab.model.script["notes"] = "Measured."
        budget: dict[str, Any] = {"usd": None, "gpu_s": None, "wall_s": None, "usd_per_experiment": 2.0}
        guidance.set_budget(lab.store, lab.clock, "me", lab.direction().id, **budget)
        lab.go_on()
        assert {one.state for one in lab.experiments()} == {ExperimentState.DONE}
        assert lab.direction().state is DirectionState.DONE
        assert lab.direction().budget_usd_per_experiment == 2.0

    def test_over_the_direction_s_the_direction_is_held(self, make_lab: Make) -> None:
        error = OverBudgetError("The direction's budget is $1.00; ...", is_directions=True, cap="direction")
        lab = make_lab(coder=ScriptedCoder({(1, 1): error}))
        lab.submit(runs=1)
        lab.go_on()
        assert (lab.direction().hold, lab.experiments()[0].hold) == (Hold.OVER_BUDGET, Hold.NONE)


class TestTokens:
    def test_each_role_of_a_step_has_one_token_and_each_claim_its_own(self, make_lab: Make) -> None:
        again = iter(({}, {"done": True}))
        lab = make_lab(model=script(reflection=lambda _: next(again)))
        lab.submit(runs=1)
        lab.go_on()
        first, second = (call.claims for call in lab.model.asked("reflection"))
        assert first.id == second.id
        (proposed,) = {call.claims.id for call in lab.model.asked("idea") if call.claims.index == 0}
        assert proposed != first.id
        every = {(call.claims.id, call.claims.role, call.claims.step, call.claims.fence) for call in lab.model.calls}
        assert len({one[0] for one in every}) == len(every)
        asked = {step.id: step for step in lab.steps()}
        for _, role, step, fence in every:
            assert asked[step].fence >= fence > 0, role

    @pytest.mark.parametrize("change", ["done", "put back", "begun again", "missing"])
    def test_a_token_opens_nothing_once_its_step_is_in_other_hands(self, lab: Laboratory, change: str) -> None:
        direction, accounts = lab.submit(), Accounts(lab.store, lab.clock)
        with lab.store.begin() as tx:
            step = tx.steps.claim(Side.WRITE, now=lab.clock.now(), lease_s=5.0)
        assert step is not None
        asked = claims(direction, step=step.id, fence=step.fence)
        accounts.reserve("call_1", asked, 1.0, 10)
        with lab.store.begin() as tx:
            self.take_away(lab, tx, step, change)
        if change == "missing":
            asked = dataclasses.replace(asked, step="step_none")
        for refuse in (lambda: accounts.reserve("call_2", asked, 1.0, 10), lambda: accounts.check(asked)):
            with pytest.raises(TokenError, match="no longer in its holder's hands") as refused:
                refuse()
            assert answer_to(refused.value).status_code == 401

    @staticmethod
    def take_away(lab: Laboratory, tx: Transaction, step: Step, change: str) -> None:
        if change == "begun again":
            lab.clock.advance(10)
            again = tx.steps.claim(Side.WRITE, now=lab.clock.now(), lease_s=5.0)
            assert again is not None
            assert again.id == step.id
        elif change != "missing":
            tx.steps.finish(dataclasses.replace(step, state=StepState.DONE if change == "done" else StepState.DUE))

    @pytest.mark.parametrize("ends", ["done", "failed", "cancelled"])
    def test_a_token_opens_nothing_once_its_direction_has_ended(self, lab: Laboratory, ends: str) -> None:
        direction = lab.submit()
        lab.save(dataclasses.replace(direction, state=DirectionState(ends)))
        with pytest.raises(TokenError, match=f"direction is {ends}"):
            Accounts(lab.store, lab.clock).reserve("call_1", claims(direction), 1.0, 10)

    def test_a_cancelled_direction_s_tokens_open_nothing(self, lab: Laboratory) -> None:
        direction = lab.submit()
        directions.cancel(lab.store, lab.clock, direction.id)
        with pytest.raises(TokenError, match="cancelled"):
            Accounts(lab.store, lab.clock).reserve("call_1", claims(direction), 1.0, 10)

    def test_a_token_opens_nothing_once_its_experiment_has_ended(self, lab: Laboratory) -> None:
        direction, accounts = lab.submit(), Accounts(lab.store, lab.clock)
        asked = claims(direction, experiment_id=experiment(lab))
        accounts.reserve("call_1", asked, 1.0, 10)
        lab.save(lab.experiments()[0].to(ExperimentState.CANCELLED))
        with pytest.raises(TokenError, match="experiment is cancelled"):
            accounts.reserve("call_2", asked, 1.0, 10)
        with pytest.raises(TokenError, match="an experiment that does not exist"):
            accounts.reserve("call_3", dataclasses.replace(asked, experiment_id="exp_none"), 1.0, 10)

    def test_a_revoked_token_opens_nothing_and_others_do(self, lab: Laboratory) -> None:
        direction, accounts = lab.submit(), Accounts(lab.store, lab.clock)
        accounts.reserve("call_1", claims(direction), 1.0, 10)
        first = revoking.revoke(lab.store, lab.clock, "key_1", TOKEN)
        lab.clock.advance(5)
        assert revoking.revoke(lab.store, lab.clock, "key_1", TOKEN) == first
        with pytest.raises(TokenError, match="revoked by an administrator"):
            accounts.reserve("call_2", claims(direction), 1.0, 10)
        accounts.reserve("call_3", claims(direction, id="tok_other"), 1.0, 10)
        with lab.store.begin(write=False) as tx:
            told = [(one.actor, one.subject) for one in tx.audit.since() if one.action == "token.revoked"]
        assert told == [("key_1", TOKEN)]

    def test_a_revocation_is_kept_until_its_token_has_ended_by_itself(self, lab: Laboratory) -> None:
        now = lab.clock.now()
        asked = Claims(tenant=LOCAL_TENANT, direction_id=lab.submit().id, role="r", model="m", id=TOKEN)
        longest = mint(dataclasses.replace(asked, expires_at=now + LONGEST_LIFE_S), b"s")
        assert read(longest, b"s", now).id == TOKEN
        with pytest.raises(TokenError, match="longer than a day"):
            read(mint(dataclasses.replace(asked, expires_at=now + LONGEST_LIFE_S + 1), b"s"), b"s", now)
        revoking.revoke(lab.store, lab.clock, "key_1", TOKEN)
        lab.clock.advance(LONGEST_LIFE_S)
        with pytest.raises(TokenError, match="expired"):
            read(longest, b"s", lab.clock.now())
        # An execution's token may live longer, and nothing says whose an id is.
        lab.clock.advance(LONGEST_EXECUTION_LIFE_S - LONGEST_LIFE_S)
        revoking.revoke(lab.store, lab.clock, "key_1", TOKEN[:-1] + "r")
        lab.clock.advance(1)
        revoking.revoke(lab.store, lab.clock, "key_1", TOKEN[:-1] + "s")
        with lab.store.begin(write=False) as tx:
            assert [one.id[-1] for one in tx.revocations.find()] == ["r", "s"]

    @pytest.mark.parametrize("key", ["", "tok_", "key_01kaw3v9m1c7d2e5f8g0h3j6kq", TOKEN.upper(), TOKEN + "0"])
    def test_what_is_no_token_s_id_is_not_found(self, lab: Laboratory, key: str) -> None:
        with pytest.raises(NotFoundError, match="no token with this id"):
            revoking.revoke(lab.store, lab.clock, "key_1", key)


def test_a_call_that_was_never_sent_is_given_back_once(lab: Laboratory) -> None:
    direction, accounts = lab.submit(), Accounts(lab.store, lab.clock)
    accounts.withdraw("call_1")
    accounts.reserve("call_1", claims(direction), 1.0, 10)
    for _ in range(2):
        accounts.withdraw("call_1")
    with lab.store.begin(write=False) as tx:
        assert [one.kind for one in tx.ledger.of_call("call_1")] == ["reserved", "released"]
        assert (tx.ledger.balance(direction.id).usd, tx.ledger.balance(TOKEN).tokens) == (0.0, 0)
        assert tx.ledger.open_calls() == ()
