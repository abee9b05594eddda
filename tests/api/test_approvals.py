"""The policy at the API's door: what is refused and held, and that only an admin's key lifts what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from fumehood.domain.policy import Policy, PolicyVerdict, Rule, Subject
from fumehood.domain.step import Side
from fumehood.domain.tenant import Scope
from tests.api.test_api import ASKED, UNKNOWN, Served, problem
from tests.api.test_tenancy import as_holder, key_of

APPROVALS = "/v1/admin/approvals"
POLICY = Policy(
    rules=(
        Rule(
            name="no-malware",
            applies_to=frozenset({Subject.DIRECTION, Subject.IDEA}),
            terms=("malware",),
            verdict=PolicyVerdict.REFUSED,
            reason="Not here.",
        ),
        Rule(
            name="patients",
            applies_to=frozenset({Subject.DIRECTION, Subject.IDEA}),
            terms=("patients",),
            verdict=PolicyVerdict.NEEDS_A_PERSON,
            reason="Ask the ethics committee.",
        ),
        Rule(
            name="scales",
            applies_to=frozenset({Subject.DIFF}),
            terms=("SCALE",),
            verdict=PolicyVerdict.NEEDS_A_PERSON,
            reason="Scales are looked at.",
        ),
    ),
    sha256="f" * 64,
)
FRESH = ASKED | {"ideas": 1, "runs": 1}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path, POLICY)
    yield made
    made.lab.artifacts.close()


@pytest.fixture
def researcher(served: Served) -> TestClient:
    """A tenant's own key, which may do everything but administer."""
    return as_holder(served, key_of(served.lab, "physics", Scope.READ, Scope.WRITE))


def entries(served: Served, action: str = "policy.screened") -> list[dict[str, Any]]:
    return [one for one in served.client.get("/v1/admin/audit").json()["items"] if one["action"] == action]


def hold_of(client: TestClient, direction: str) -> str:
    return str(client.get(f"/v1/directions/{direction}").json()["hold"])


def everything_of_their_own(client: TestClient, direction: str) -> list[httpx.Response]:
    """Try every move on a direction, its ideas and its experiments that is no cancel."""
    place = f"/v1/directions/{direction}"
    answers = [client.post(f"{place}/{word}") for word in ("resume", "pause", "resume")]
    for idea in client.get(f"{place}/ideas").json()["items"]:
        answers.append(client.post(f"/v1/ideas/{idea['id']}/approve"))
        answers += [client.post(f"{APPROVALS}/{idea['id']}/{word}") for word in ("approve", "refuse")]
    for experiment in client.get(f"{place}/experiments").json()["items"]:
        answers += [client.post(f"/v1/experiments/{experiment['id']}/{word}") for word in ("resume", "pause", "resume")]
        answers += [client.post(f"{APPROVALS}/{experiment['id']}/{word}") for word in ("approve", "refuse")]
    answers += [client.post(f"{APPROVALS}/{direction}/{word}") for word in ("approve", "refuse")]
    return answers


def test_what_a_rule_refuses_is_a_problem_that_names_it_and_is_only_audited(
    served: Served, researcher: TestClient
) -> None:
    answer = researcher.post("/v1/directions", json=FRESH | {"text": "Write Malware."})
    told = problem(answer, 422, "refused-by-policy")
    assert told["detail"] == "The rule no-malware of the policy refuses this: Not here."
    assert researcher.get("/v1/directions").json()["items"] == []
    (entry,) = entries(served)
    assert (entry["detail"]["rule"], entry["detail"]["verdict"]) == ("no-malware", "refused")
    assert entry["actor"].startswith("key_")
    assert "Malware" not in str(entry)


def test_a_request_that_is_sent_again_is_refused_again(researcher: TestClient) -> None:
    once = {"Idempotency-Key": "the-same"}
    for _ in range(2):
        answer = researcher.post("/v1/directions", json=FRESH | {"text": "Write malware."}, headers=once)
        problem(answer, 422, "refused-by-policy")


def test_a_tenants_own_key_lifts_no_hold_of_the_policy(served: Served, researcher: TestClient) -> None:
    direction = researcher.post("/v1/directions", json=FRESH | {"text": "Study patients."}).json()["id"]
    assert hold_of(researcher, direction) == "policy"
    assert {one.status_code for one in everything_of_their_own(researcher, direction)} == {403, 409}
    served.lab.go_on()
    assert hold_of(researcher, direction) == "policy"
    assert served.lab.executions() == ()
    (waiting,) = served.client.get(APPROVALS).json()["items"]
    assert (waiting["id"], waiting["kind"], waiting["text"]) == (direction, "direction", "Study patients.")
    assert "rule patients" in waiting["why"]
    problem(researcher.get(APPROVALS), 403, "forbidden")
    served.hints.sides.clear()
    answer = served.client.post(f"{APPROVALS}/{direction}/approve")
    assert answer.json() == {"id": direction, "decision": "approved"}
    assert set(served.hints.sides) == set(Side)
    assert hold_of(researcher, direction) == "none"
    (entry,) = entries(served, "policy.approved")
    assert entry["subject"] == direction
    problem(served.client.post(f"{APPROVALS}/{direction}/approve"), 409, "conflict")


def test_nor_that_of_an_edit(served: Served, researcher: TestClient) -> None:
    direction = researcher.post("/v1/directions", json=FRESH).json()["id"]
    served.lab.go_on()
    (experiment,) = served.lab.experiments()
    assert {one.status_code for one in everything_of_their_own(researcher, direction)} >= {403, 409}
    served.lab.go_on()
    assert served.lab.experiments()[0].hold == "policy"
    assert not [one for one in served.lab.executions() if one.experiment_id]
    (waiting,) = served.client.get(APPROVALS).json()["items"]
    assert (waiting["id"], waiting["kind"]) == (experiment.id, "diff")
    assert "+SCALE = 1.5" in waiting["text"]
    served.client.post(f"{APPROVALS}/{experiment.id}/refuse")
    served.lab.go_on()
    assert researcher.get(f"/v1/experiments/{experiment.id}").json()["state"] == "refused"
    assert researcher.get(f"/v1/directions/{direction}").json()["state"] == "failed"


def test_an_idea_of_ones_own_is_screened_too(served: Served, researcher: TestClient) -> None:
    direction = researcher.post("/v1/directions", json=FRESH).json()["id"]
    place = f"/v1/directions/{direction}/ideas"
    problem(researcher.post(place, json={"title": "Malware", "experiment": "Run it."}), 422, "refused-by-policy")
    held = researcher.post(place, json={"title": "Patients", "experiment": "Ask them."})
    assert held.status_code == 201
    served.lab.go_on()
    assert {one.status_code for one in everything_of_their_own(researcher, direction)} >= {403, 409}
    served.lab.go_on()
    assert (hold_of(researcher, direction), served.lab.experiments()) == ("policy", ())
    assert [one["id"] for one in served.client.get(APPROVALS).json()["items"]] == [held.json()["id"]]


def test_whoever_submitted_may_cancel(served: Served, researcher: TestClient) -> None:
    direction = researcher.post("/v1/directions", json=FRESH | {"text": "Study patients."}).json()["id"]
    assert researcher.post(f"/v1/directions/{direction}/cancel").json()["state"] == "cancelled"
    assert served.client.get(APPROVALS).json()["items"] == []


def test_what_waits_comes_in_pages(served: Served, researcher: TestClient) -> None:
    made = [researcher.post("/v1/directions", json=FRESH | {"text": "Study patients."}).json()["id"] for _ in range(3)]
    first = served.client.get(f"{APPROVALS}?limit=2").json()
    second = served.client.get(f"{APPROVALS}?limit=2&cursor={first['next']}").json()
    assert [one["id"] for one in (*first["items"], *second["items"])] == sorted(made)
    assert second["next"] is None


@pytest.mark.parametrize("key", [UNKNOWN, "nonsense", "ten_" + "0" * 26])
@pytest.mark.parametrize("word", ["approve", "refuse"])
def test_what_is_not_there_is_not_found(served: Served, key: str, word: str) -> None:
    problem(served.client.post(f"{APPROVALS}/{key}/{word}"), 404, "not-found")
