"""What the API says of itself is what it does: every answer is documented, whatever is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.door import LONGEST_BODY, OPEN
from api.schemas import DirectionCreate
from tests.api.test_api import ASKED, UNKNOWN, Served

DIRECTIONS, DIRECTION = "/v1/directions", "/v1/directions/{direction_id}"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = sorted(DirectionCreate.model_fields)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.lab.artifacts.close()


@pytest.fixture(scope="module")
def described(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = served.nobody.get("/openapi.json").json()
    return found


def is_documented(described: dict[str, Any], verb: str, path: str, answer: httpx.Response) -> None:
    """Check an answer against its operation: the status, the type of content and the fields."""
    documented = described["paths"][path][verb]["responses"][str(answer.status_code)]["content"]
    [(kind, content)] = documented.items()
    assert answer.headers["content-type"] == kind
    schema = content["schema"]
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert set(answer.json()) == set(schema["properties"])


def test_every_operation_documents_its_problems_and_no_others(described: dict[str, Any]) -> None:
    names: list[str] = []
    for path, operations in described["paths"].items():
        for verb, operation in operations.items():
            assert operation["summary"], (verb, path)
            assert operation["description"], (verb, path)
            names.append(operation["operationId"])
            problems = {int(status): answer for status, answer in operation["responses"].items() if status >= "400"}
            needed = {422} | (set() if path in OPEN else {401, 403, 429, 503}) | ({404} if "{" in path else set())
            assert needed <= set(problems) <= needed | {400, 402, 404, 409, 413, 416, 503}, (verb, path)
            for answer in problems.values():
                schema = answer["content"]["application/problem+json"]["schema"]
                assert set(answer["content"]) == {"application/problem+json"}
                assert set(schema["required"]) >= {"type", "title", "status", "detail", "request_id"}
    assert len(names) == len(set(names))


def test_every_answer_has_an_example(described: dict[str, Any]) -> None:
    shapes = described["components"]["schemas"]
    for path, operations in described["paths"].items():
        for verb, operation in operations.items():
            [answer] = [told for status, told in operation["responses"].items() if status < "300"]
            for content in answer["content"].values():
                shape = shapes.get(content["schema"].get("$ref", "").rpartition("/")[2], {})
                inner = shape.get("properties", {}).get("items", {}).get("items", {}).get("$ref", "")
                item = shapes.get(inner.rpartition("/")[2], {})
                assert "example" in content or "examples" in shape or "examples" in item, (verb, path)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, json.dumps(ASKED).encode(), 202),
        ({"Authorization": "Bearer wrong"}, b"{}", 401),
        ({}, b"\xff", 400),
        ({}, b"[" * 100_000, 400),
        ({}, b" " * (LONGEST_BODY + 1), 413),
        ({}, b"{}", 422),
    ],
)
def test_each_answer_to_a_post_is_as_documented(
    served: Served, described: dict[str, Any], headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = served.client.post(DIRECTIONS, content=body, headers={"Content-Type": "application/json"} | headers)
    assert answer.status_code == status
    is_documented(described, "post", DIRECTIONS, answer)


def test_a_body_without_a_length_is_no_longer_than_another(served: Served) -> None:
    pieces = (b" " * 65_536 for _ in range(LONGEST_BODY // 65_536 + 1))
    assert served.client.post(DIRECTIONS, content=pieces).status_code == 413


def test_each_answer_to_a_get_is_as_documented(served: Served, described: dict[str, Any]) -> None:
    known = served.client.post(DIRECTIONS, json=ASKED).json()["id"]
    for client, name, status in (
        (served.client, known, 200),
        (served.client, UNKNOWN, 404),
        (served.nobody, known, 401),
    ):
        answer = client.get(f"{DIRECTIONS}/{name}")
        assert answer.status_code == status
        is_documented(described, "get", DIRECTION, answer)


def test_the_examples_are_accepted() -> None:
    for example in DirectionCreate.model_json_schema()["examples"]:
        DirectionCreate.model_validate(example)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
    more=st.dictionaries(st.text(), JSON, max_size=1),
)
def test_whatever_is_sent_the_answer_is_documented(
    served: Served, described: dict[str, Any], changes: dict[str, Any], more: dict[str, Any]
) -> None:
    body = json.dumps(ASKED | changes | more).encode()
    answer = served.client.post(DIRECTIONS, content=body, headers={"Content-Type": "application/json"})
    is_documented(described, "post", DIRECTIONS, answer)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.characters(), min_size=1))
def test_any_text_is_kept_as_it_is_or_refused(served: Served, described: dict[str, Any], text: str) -> None:
    answer = served.client.post(DIRECTIONS, content=json.dumps(ASKED | {"text": text}).encode())
    is_documented(described, "post", DIRECTIONS, answer)
    if answer.status_code == 202:
        assert answer.json()["text"] == text.strip()


@pytest.mark.parametrize("path", ["/", "/admin", "/metrics/", "/redoc", "/docs/x", "/healthz/", "//healthz"])
@pytest.mark.parametrize("verb", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_is_open_that_was_not_opened(served: Served, verb: str, path: str) -> None:
    answer = served.nobody.request(verb, path, follow_redirects=False)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")


def test_what_is_open_reads_only(described: dict[str, Any]) -> None:
    opened = {path for path in described["paths"] if path in OPEN}
    assert opened == {"/healthz", "/readyz", "/metrics", "/v1/signing-keys"}
    assert all(set(described["paths"][path]) == {"get"} for path in opened)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * (LONGEST_BODY + 1)])
def test_the_key_is_asked_for_before_a_body_is_read(served: Served, body: bytes) -> None:
    assert served.nobody.post(DIRECTIONS, content=body).status_code == 401
