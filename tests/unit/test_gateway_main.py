"""The gateway as a process: it says where it listens, answers, and ends with its parent."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fumehood.gateway.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
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
    started = time.monotonic()
    gateway.stdin.close()
    assert gateway.wait(20) == 0
    assert time.monotonic() - started < 5
    assert gateway.stdout.read() == b""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])  # noqa: S104 - it is refused
def test_it_listens_on_this_machine_only(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", host, "--port", "0"]) == 2
    assert "--allow-remote" in capsys.readouterr().err
