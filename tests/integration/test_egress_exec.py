"""`fumehood sandbox exec --network`, as a person calls it, against a stand-in for the service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox import installation
from tests.fakes.upstream import serving

ROOT = Path(__file__).parents[2]
CODE = """
import os, urllib.request
place = os.environ["SEMANTIC_SCHOLAR_URL"] + "/graph/v1/paper/search?query=diffusion"
print(urllib.request.urlopen(place).read().decode())
"""


class Command:
    """The command on a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        (folder / "workspace").mkdir()
        (folder / "workspace" / "ask.py").write_text(CODE)

    def call(self, module: str, *words: str, told: str = "", **settings: str) -> tuple[int, Any, str]:
        environment = {
            "PATH": "/usr/bin:/bin",
            "FUMEHOOD_STATE_DIR": str(self.state),
            "PYTHONPATH": str(ROOT),
            **settings,
        }
        done = subprocess.run(
            [sys.executable, "-m", module, *words],
            env=environment,
            input=told,
            capture_output=True,
            text=True,
            timeout=90,
        )
        return done.returncode, done.stdout, done.stderr

    def exec(self, adapter: str, network: str, **settings: str) -> tuple[int, Any, str]:
        words = ("--workspace", str(self.folder / "workspace"), "--out", str(self.folder / "out"), "--image", "plain")
        status, said, complained = self.call(
            "fumehood.cli.sandbox", "exec", "--adapter", adapter, "--network", network, "--memory", "256",
            "--storage", "16", "--wall", "30", *words, "--", "python3", "ask.py", **settings,
        )  # fmt: skip
        return status, json.loads(said) if said else None, complained


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.mark.parametrize(
    "adapter", [pytest.param("local", marks=pytest.mark.local), pytest.param("docker", marks=pytest.mark.docker)]
)
def test_a_granted_service_is_asked_recorded_and_replayed(command: Command, adapter: str) -> None:
    with serving() as double:
        doubles = json.dumps({"semantic-scholar": double.url})
        code, _, _ = command.call("fumehood.cli.main", "keys", "set", "semantic-scholar", told="the-key-from-outside\n")
        assert code == 0
        settings = {"FUMEHOOD_EGRESS_DOUBLES": doubles, "FUMEHOOD_EGRESS": "record"}
        status, told, complained = command.exec(adapter, "allow:semantic-scholar", **settings)
        assert told, (status, complained)
        assert (status, told["output_tail"]) == (0, '{"total": 1}\n'), (told, complained)
        request = {"method": "GET", "capability": "semantic-scholar", "path": "/graph/v1/paper/search"}
        assert told["egress"] == [{**request, "status": 200, "bytes": 12, "cached": False}]
        assert "S2" in told["isolation"]
        assert double.hits[0][1]["x-api-key"] == "the-key-from-outside"
    status, told, complained = command.exec(adapter, "allow:semantic-scholar", FUMEHOOD_EGRESS="replay")
    assert told, (status, complained)
    assert (status, told["output_tail"]) == (0, '{"total": 1}\n')
    assert told["egress"] == [{**request, "status": 200, "bytes": 12, "cached": True}]
    home = installation.find(command.state, Path("/run/fumehood"))
    assert list(home.folder.iterdir()) == []
    home.folder.rmdir()


@pytest.mark.local
@pytest.mark.parametrize(
    ("network", "settings", "status", "sentence"),
    [
        ("allow:example.com", {}, 2, "semantic-scholar, openalex, arxiv, llm"),
        ("relay:asks:fh-00000000000000000000000000:1:1:1:1:1", {}, 2, "The network is none or allow:NAME"),
        ("allow:llm", {}, 3, "no direction that would pay"),
        ("allow:arxiv", {"FUMEHOOD_EGRESS": "off"}, 3, "FUMEHOOD_EGRESS"),
        ("allow:arxiv", {"FUMEHOOD_EGRESS": "on"}, 2, "live, record, replay, off"),
        ("allow:arxiv", {"FUMEHOOD_EGRESS_DOUBLES": '{"arxiv": "http://10.0.0.1:80"}'}, 2, "loopback"),
        ("allow:arxiv", {"FUMEHOOD_EGRESS_UPSTREAMS": '{"arxiv": "http://127.0.0.1:80"}'}, 2, "https"),
    ],
)
def test_what_is_not_granted_is_refused_in_a_sentence(
    command: Command, network: str, settings: dict[str, str], status: int, sentence: str
) -> None:
    code, _, complained = command.exec("local", network, **settings)
    assert code == status
    assert sentence in complained
    assert "Traceback" not in complained
