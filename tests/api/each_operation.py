"""Whatever is sent to any operation, the answer is one that the API's own description allows (schemathesis).

What is tried is thought up while tests are collected, which takes some ten seconds: `test_schema.py` has it done once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import CHECKS, load_all_checks

from tests.api.test_api import ASKED, KEY, Served

load_all_checks()
# A cursor that was not given out and a template that is not there are refused, which no schema can say.
BY_MEANING = CHECKS.get_by_names(["positive_data_acceptance"])
# A stream has no end to wait for, and what has no workers is rightly not ready: both have tests of their own.
NOT_HERE = "/events$|^/readyz$"


_FOLDER = tempfile.TemporaryDirectory(prefix="fumehood-described-")
SERVED = Served(Path(_FOLDER.name))
# A body that is wrong and too long besides may be refused for either.
REFUSED = {"negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 503]}}
CONFIG = schemathesis.Config.from_dict({"checks": REFUSED})
schema = schemathesis.openapi.from_asgi("/openapi.json", SERVED.app, config=CONFIG).exclude(path_regex=NOT_HERE)


@pytest.fixture(scope="module", autouse=True)
def served() -> Iterator[None]:
    """Something is there to be read; in the end nothing is left of it."""
    SERVED.client.post("/v1/directions", json=ASKED)
    yield
    SERVED.lab.artifacts.close()
    _FOLDER.cleanup()


@schema.parametrize()
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_described(case: Case) -> None:
    case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, excluded_checks=BY_MEANING)
