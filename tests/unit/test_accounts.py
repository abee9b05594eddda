"""What the gateway refuses before a call is paid for."""

from __future__ import annotations

import pytest

from fumehood.domain.ids import DirectionId
from fumehood.domain.ledger import Claims
from fumehood.domain.tenant import LOCAL_TENANT
from fumehood.gateway.accounts import Accounts
from fumehood.gateway.app import answer_to
from fumehood.gateway.upstream import UpstreamError
from fumehood.services import switches, tenants
from tests.fakes.laboratory import Laboratory


def claims(direction: DirectionId) -> Claims:
    return Claims(tenant=LOCAL_TENANT, direction_id=direction, role="coder", model="offline")


@pytest.mark.parametrize("everybody", [True, False])
def test_the_kill_switch_stops_calls_of_steps_in_hand(lab: Laboratory, everybody: bool) -> None:
    accounts, direction = Accounts(lab.store, lab.clock), lab.submit()
    accounts.reserve("call_1", claims(direction.id), 1.0, 10)
    tenant = None if everybody else LOCAL_TENANT
    if tenant:
        with lab.store.begin() as tx:
            tenants.local(tx, lab.clock)
    switches.pause(lab.store, lab.clock, "test", tenant, kill=True)
    with pytest.raises(UpstreamError, match="stopped all work") as refused:
        accounts.reserve("call_2", claims(direction.id), 1.0, 10)
    assert refused.value.retryable
    assert answer_to(refused.value).status_code == 503
    switches.resume(lab.store, lab.clock, "test", tenant)
    accounts.reserve("call_3", claims(direction.id), 1.0, 10)


def test_a_pause_lets_a_step_in_hand_end(lab: Laboratory) -> None:
    accounts, direction = Accounts(lab.store, lab.clock), lab.submit()
    switches.pause(lab.store, lab.clock, "test", None, kill=False)
    assert accounts.reserve("call_1", claims(direction.id), 1.0, 10).usd == 1.0
