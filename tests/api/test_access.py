"""What is seen of a request: its id, one line in the log, and nothing that it holds."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.access import Access
from fumehood.domain.step import Side
from tests.api.test_api import ASKED, KEY, UNKNOWN, Served, problem

SECRET = "a-secret-of-a-caller"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.lab.artifacts.close()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "fumehood"):
        yield caplog


@pytest.mark.parametrize("given", ["12345678", "0193-abc.DEF_9", "a" * 64])
def test_a_well_formed_id_is_kept(served: Served, given: str) -> None:
    answer = served.client.get("/v1/nothing", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] == given
    assert problem(answer, 404, "not-found")["request_id"] == given


@pytest.mark.parametrize("given", ["", "short", "a" * 65, "with space", "-begins-badly", "línea", "a;b=c;d=e"])
def test_any_other_is_replaced(served: Served, given: str) -> None:
    answer = served.client.get("/healthz", headers={"X-Request-Id": given.encode()})
    assert answer.headers["x-request-id"].startswith("req_")


def test_each_request_has_an_id_of_its_own(served: Served) -> None:
    ids = {client.get("/v1/directions").headers["x-request-id"] for client in (served.client, served.nobody) * 2}
    assert len(ids) == 4


def test_a_request_is_one_line_with_the_route_and_not_the_address(
    served: Served, log: pytest.LogCaptureFixture
) -> None:
    served.client.get(f"/v1/directions/{UNKNOWN}?token={SECRET}", headers={"X-Request-Id": "request-1"})
    [line] = log.records
    assert line.getMessage().startswith("GET /v1/directions/{direction_id} 422 in ")
    told = line.__dict__
    assert (told["method"], told["route"], told["status"]) == ("GET", "/v1/directions/{direction_id}", 422)
    assert told["duration_s"] > 0
    assert not [value for value in told.values() if SECRET in str(value) or KEY in str(value) or UNKNOWN in str(value)]


def test_what_callers_make_up_is_neither_route_nor_method(served: Served, log: pytest.LogCaptureFixture) -> None:
    served.client.request("MADEUP", f"/{SECRET}")
    served.nobody.get(f"/{SECRET}")
    assert [line.getMessage().rpartition(" in ")[0] for line in log.records] == ["other other 404", "GET other 401"]


def test_probes_are_heard_only_when_something_is_wrong(served: Served, log: pytest.LogCaptureFixture) -> None:
    for path in ("/healthz", "/metrics", "/readyz"):
        served.nobody.get(path)
    assert [line.route for line in log.records if line.name == "fumehood.api.access"] == ["/readyz"]  # type: ignore[attr-defined]


def test_what_breaks_is_told_once_with_its_id(served: Served, log: pytest.LogCaptureFixture) -> None:
    def fail(side: Side) -> None:
        raise ZeroDivisionError(SECRET)

    served.hints.hint = fail  # type: ignore[method-assign]
    answer = served.client.post("/v1/directions", json=ASKED, headers={"X-Request-Id": "request-2"})
    told = problem(answer, 500, "internal")
    assert (told["request_id"], SECRET in answer.text) == ("request-2", False)
    assert [(line.levelname, bool(line.exc_info)) for line in log.records] == [("ERROR", True), ("INFO", False)]


def test_half_an_answer_is_cut_off(served: Served, log: pytest.LogCaptureFixture) -> None:
    async def breaks(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        raise ZeroDivisionError

    meters = next(one for one in served.app.user_middleware if one.cls is Access).kwargs["meters"]
    client = TestClient(Access(breaks, meters=meters, new_id=lambda: "req_1"))  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        client.get("/")
    assert log.records[-1].getMessage().startswith("GET other 200 in ")
