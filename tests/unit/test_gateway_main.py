"""The gateway as a process: it says where it listens, answers, and ends with its parent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fumehood.domain.direction import Direction
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import Claims
from fumehood.gateway import tokens
from fumehood.gateway.__main__ import main
from fumehood.settings import Settings
from fumehood.store.clock import SystemClock
from fumehood.store.sql import open_store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gateway(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    environment = getattr(request, "param", {}) | {
        "FUMEHOOD_STATE_DIR": str(tmp_path / "state"),
        "PYTHONPATH": str(ROOT),
        "ANTHROPIC_API_KEY": "sk-ant-x",
    }
    command = [sys.executable, "-m", "fumehood.gateway", "--port", "0", "--with-parent"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT) as process:
        yield process
        process.kill()


def test_it_tells_its_address_answers_and_ends_with_its_parent(
    gateway: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert gateway.stdin is not None
    assert gateway.stdout is not None
    url = json.loads(gateway.stdout.readline())["url"]
    assert url.startswith("http://127.0.0.1:")
    assert httpx.get(f"{url}/healthz", timeout=20).status_code == 200
    assert (tmp_path / "state/gateway.secret").stat().st_mode & 0o777 == 0o600
    gateway.stdin.close()
    assert gateway.wait(20) == 0
    assert gateway.stdout.read() == b""


@pytest.mark.parametrize(
    ("gateway", "status", "words"),
    [
        ({}, 400, "The price of the model 'vertex/any' is not known"),
        ({"FUMEHOOD_ALLOW_UNPRICED": "true"}, 424, "`fumehood keys set vertex`"),
    ],
    indirect=["gateway"],
)
def test_a_model_without_a_price_is_asked_only_where_that_is_allowed(
    gateway: subprocess.Popen[bytes], tmp_path: Path, status: int, words: str
) -> None:
    assert gateway.stdout is not None
    url = json.loads(gateway.stdout.readline())["url"]
    settings = Settings(state_dir=tmp_path / "state")
    store, key = open_store(settings.resolved_database_url), DirectionId(SystemClock().new_id("dir"))
    with store.begin() as tx:
        tx.directions.save(
            Direction(
                id=key, tenant=TenantId("ten_1"), template="t", text="", model="m", review_model="m", profile="tiny",
                ideas=1, runs=1,
            )
        )  # fmt: skip
    store.close()
    expires = SystemClock().now() + 60
    claims = Claims(tenant=TenantId("ten_1"), direction_id=key, role="idea", model="vertex/any", expires_at=expires)
    body = {"model": "vertex/any", "max_tokens": 5, "messages": [{"role": "user", "content": "?"}]}
    headers = {"x-api-key": tokens.mint(claims, tokens.secret_of(settings))}
    answer = httpx.post(f"{url}/v1/messages", json=body, headers=headers, timeout=20)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])  # noqa: S104 - it is refused
def test_it_listens_on_this_machine_only(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", host, "--port", "0"]) == 2
    assert "--allow-remote" in capsys.readouterr().err
