"""The API in process: who may call, what comes back, and that every error is a problem document."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.app import create_app
from api.door import OPEN
from api.feed import Feed
from api.problem import STORE_AWAY
from api.rates import Rates
from fumehood.domain.ids import ID
from fumehood.domain.policy import Policy
from fumehood.domain.step import Side
from fumehood.errors import (
    BadInputError,
    ConflictError,
    FumehoodError,
    MachineUnfitError,
    NotFoundError,
    OverBudgetError,
    StoreUnavailableError,
    WorkFailedError,
)
from fumehood.gateway.models import Models
from fumehood.services import keys
from fumehood.services.screening import NO_POLICY
from tests.fakes.laboratory import Laboratory

KEY = "k" * 20
ASKED = {"template": "tiny", "profile": "tiny", "ideas": 2, "runs": 1, "text": "Look at scales."}
UNKNOWN = "dir_" + "0" * 26


class Hints:
    """A queue that remembers its hints."""

    def __init__(self) -> None:
        self.sides: list[Side] = []

    def hint(self, side: Side) -> None:
        self.sides.append(side)


class Served:
    """The application over a laboratory, with and without a key."""

    def __init__(self, folder: Path, policy: Policy = NO_POLICY, models: Models | None = None) -> None:
        self.lab = Laboratory(folder, policy=policy)
        keys.first(self.lab.store, self.lab.clock, KEY)
        self.hints = Hints()
        self.feed = Feed(self.lab.store, most=1)
        self.app: FastAPI = create_app(
            self.lab.store,
            self.lab.artifacts,
            self.lab.clock,
            self.hints,
            shipped=folder / "shipped",
            rates=Rates.alone("100000/minute", "100000/minute"),
            feed=self.feed,
            cursor_key=b"c" * 32,
            policy=policy,
            models=models,
            public_keys=lambda: {self.lab.signer.key_id: self.lab.signer.public_pem()},
        )
        self.nobody = TestClient(self.app, raise_server_exceptions=False)
        self.client = TestClient(self.app, raise_server_exceptions=False, headers={"Authorization": f"Bearer {KEY}"})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.lab.artifacts.close()


def problem(answer: httpx.Response, status: int, name: str) -> dict[str, Any]:
    """Return the problem document of an answer, which must be exactly one."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    told: dict[str, Any] = answer.json()
    assert set(told) == {"type", "title", "status", "detail", "request_id"}
    assert (told["type"], told["status"]) == (f"urn:fumehood:problem:{name}", status)
    assert told["detail"]
    assert told["request_id"] == answer.headers["x-request-id"]
    return told


class TestKey:
    @pytest.mark.parametrize("path", ["/healthz", "/openapi.json", "/docs"])
    def test_health_and_documentation_are_open(self, served: Served, path: str) -> None:
        assert served.nobody.get(path).status_code == 200

    def test_the_page_of_the_documentation_asks_no_other_host(self, served: Served) -> None:
        page = served.nobody.get("/docs")
        loaded = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text)
        assert len(loaded) == 3
        for path in loaded:
            assert path.startswith("/docs/")
            assert len(served.nobody.get(path).content) > 1000
        (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == f"'self' 'sha256-{digest}'"
        assert policy["connect-src"] == "'self'"

    @pytest.mark.parametrize(
        "headers",
        [{}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"},
         {"Authorization": "Bearer "}, {"Authorization": b"Bearer \xff\xfe"}],
    )  # fmt: skip
    def test_without_the_key_nothing_else_is(self, served: Served, headers: dict[str, Any]) -> None:
        for answer in (
            served.nobody.post("/v1/directions", json=ASKED, headers=headers),
            served.nobody.get(f"/v1/directions/{UNKNOWN}", headers=headers),
        ):
            problem(answer, 401, "unauthorised")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert served.lab.steps() == ()

    def test_every_operation_of_the_api_asks_for_it(self, served: Served) -> None:
        for path, operations in served.app.openapi()["paths"].items():
            for verb, operation in operations.items():
                assert path in OPEN or operation["security"], f"{verb} {path}"


class TestDirections:
    def test_what_is_submitted_can_be_read(self, served: Served) -> None:
        answer = served.client.post("/v1/directions", json=ASKED)
        assert answer.status_code == 202
        told = answer.json()
        assert ID.fullmatch(told["id"])
        assert (told["state"], told["text"], told["ideas"], told["hold"]) == ("queued", "Look at scales.", 2, "none")
        assert served.client.get(f"/v1/directions/{told['id']}").json() == told
        assert served.hints.sides == [Side.WRITE]
        assert [step.name for step in served.lab.steps()] == ["begin"]

    def test_its_progress_can_be_seen(self, served: Served) -> None:
        told = served.client.post("/v1/directions", json=ASKED | {"ideas": 1}).json()
        served.lab.go_on()
        later = served.client.get(f"/v1/directions/{told['id']}").json()
        assert (later["state"], later["error"]) == ("done", "")
        assert later["ended_at"] is not None

    @pytest.mark.parametrize("known", [UNKNOWN, "x", "dir_", "%00", "..%2f..", "dir_" + "z" * 3000])
    def test_an_unknown_one_is_not_found(self, served: Served, known: str) -> None:
        problem(served.client.get(f"/v1/directions/{known}"), 404, "not-found")

    @pytest.mark.parametrize(
        ("changes", "where"),
        [
            ({"template": None}, "template"),
            ({"template": ""}, "template"),
            ({"template": "../tiny"}, "template"),
            ({"template": "/work/tiny"}, "template"),
            ({"template": ".."}, "template"),
            ({"template": "tiny\n"}, "template"),
            ({"text": " "}, "text is empty"),
            ({"text": "x" * 20_001}, "text"),
            ({"text": 5}, "text"),
            ({"ideas": 0}, "ideas"),
            ({"ideas": 501}, "ideas"),
            ({"ideas": "many"}, "ideas"),
            ({"runs": 0}, "runs"),
            ({"seed": -1}, "seed"),
            ({"seed": 10**30}, "seed"),
            ({"profile": "huge"}, "no profile 'huge'"),
            ({"model": ""}, "model"),
            ({"sandbox": "none"}, "sandbox"),
            ({"budget": {"usd": -1}}, "budget.usd"),
            ({"budget": {"eur": 1}}, "budget.eur"),
            ({"tenant": "ten_1"}, "tenant"),
            # What a lab has is decided by whoever runs the machine, and by its templates.
            ({"packages": ["tiny==1.0"]}, "packages"),
            ({"wheels": ["/tmp/tiny-1.0-py3-none-any.whl"]}, "wheels"),
        ],
    )
    def test_input_that_cannot_be_used_is_named(self, served: Served, changes: dict[str, Any], where: str) -> None:
        told = problem(served.client.post("/v1/directions", json=ASKED | changes), 422, "bad-input")
        assert where in told["detail"]
        assert served.lab.steps() == ()

    def test_a_template_is_a_name_and_an_existing_folder_is_none(self, served: Served, tmp_path: Path) -> None:
        (tmp_path / "shipped" / "empty").mkdir()
        told = problem(served.client.post("/v1/directions", json=ASKED | {"template": "empty"}), 422, "bad-input")
        assert told["detail"] == "There is no template 'empty'."

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b'"x"', b'{"template": "\\ud800"}'])
    def test_a_body_that_is_no_object_is_refused(self, served: Served, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        problem(served.client.post("/v1/directions", content=body, headers=headers), 422, "bad-input")

    def test_a_body_that_is_no_text_is_refused(self, served: Served) -> None:
        headers = {"Content-Type": "application/json"}
        problem(served.client.post("/v1/directions", content=b"\xff", headers=headers), 400, "bad-request")

    @pytest.mark.parametrize("usd", ["NaN", "Infinity", "-Infinity", "1e999"])
    def test_a_budget_is_a_finite_number(self, served: Served, usd: str) -> None:
        body = json.dumps(ASKED | {"budget": {"usd": 0}}).replace('"usd": 0', f'"usd": {usd}')
        answer = served.client.post("/v1/directions", content=body, headers={"Content-Type": "application/json"})
        problem(answer, 422, "bad-input")


class TestErrors:
    def test_an_unknown_route_is_a_problem(self, served: Served) -> None:
        problem(served.client.get("/v1/nothing"), 404, "not-found")

    def test_a_wrong_method_says_which_would_do(self, served: Served) -> None:
        answer = served.client.delete("/v1/directions")
        problem(answer, 405, "method-not-allowed")
        assert answer.headers["allow"] == "GET, POST"

    @pytest.mark.parametrize(
        ("error", "status", "name"),
        [
            (BadInputError("no"), 422, "bad-input"),
            (NotFoundError("no"), 404, "not-found"),
            (ConflictError("no"), 409, "conflict"),
            (OverBudgetError("no"), 402, "over-budget"),
            (MachineUnfitError("no"), 503, "machine-unfit"),
            (WorkFailedError("secret"), 500, "internal"),
            (FumehoodError("secret"), 500, "internal"),
            (ZeroDivisionError("secret"), 500, "internal"),
        ],
    )
    def test_each_error_has_its_status_and_ours_tell_nothing(
        self, served: Served, error: Exception, status: int, name: str
    ) -> None:
        def fail(side: Side) -> None:
            raise error

        served.hints.hint = fail  # type: ignore[method-assign]
        told = problem(served.client.post("/v1/directions", json=ASKED), status, name)
        assert "secret" not in told["detail"]

    @pytest.mark.parametrize("headers", [{"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {KEY}"}])
    @pytest.mark.parametrize("known", [True, False])
    def test_a_database_that_is_away_is_told_in_the_log_alone(
        self, served: Served, headers: dict[str, str], caplog: pytest.LogCaptureFixture, *, known: bool
    ) -> None:
        def away(*, write: bool = True) -> NoReturn:
            raise StoreUnavailableError("The database does not answer (connection to 10.0.0.7 failed for fumehood).")

        if known:
            served.nobody.get("/v1/directions", headers=headers)
        served.lab.store.begin = away  # type: ignore[method-assign]
        answer = served.nobody.get("/v1/directions", headers=headers)
        assert problem(answer, 503, "machine-unfit")["detail"] == STORE_AWAY
        assert answer.headers["retry-after"] == "5"
        assert "10.0.0.7" in caplog.text

    def test_the_documented_errors_are_problems(self, served: Served) -> None:
        for path, operations in served.app.openapi()["paths"].items():
            for operation in operations.values():
                for status, answer in operation["responses"].items():
                    if status >= "400":
                        assert "application/problem+json" in answer["content"], (path, status)
