"""A template whose program asks the direction's model, carried out by the real command in real sandboxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fumehood.domain.execution import Kind
from fumehood.domain.token import id_for_execution
from fumehood.settings import Settings
from tests.e2e.conftest import House
from tests.fakes.laboratory import PLAIN, write_template
from tests.fakes.quick import PLAYBOOK
from worker import worlds

pytestmark = [pytest.mark.local, pytest.mark.latex]
ASKING = """
import argparse, json, os, pathlib, re, urllib.request

SCALE = 1.0

def ask(path, body):
    place = os.environ["ANTHROPIC_BASE_URL"] + path
    request = urllib.request.Request(place, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()

parser = argparse.ArgumentParser()
parser.add_argument("--out_dir", default="run_0")
out = pathlib.Path(parser.parse_args().out_dir)
out.mkdir(exist_ok=True)
body = {"model": os.environ["FUMEHOOD_LLM_MODEL"], "max_tokens": 50, "messages": [{"role": "user", "content": "Why so?"}]}
whole = json.loads(ask("/v1/messages", body))["content"][0]["text"]
chat = json.loads(ask("/v1/chat/completions", body))["choices"][0]["message"]["content"]
streamed = ask("/v1/messages", body | {"stream": True})
assert whole == chat and "message_stop" in streamed, (whole, chat, streamed)
words = SCALE * int(re.search("[0-9]+", whole)[0])
info = {"chat": {"means": {"words": words}, "final_info_dict": {"words": [words]}}}
(out / "final_info.json").write_text(json.dumps(info))
"""
FILES = {
    **PLAIN,
    "experiment.py": ASKING,
    "template.toml": 'title = "Asking"\n[metrics.words]\ntitle = "Words"\n[llm]\nusd_per_run = 0.10\n',
    "offline.toml": PLAYBOOK,
}


def kept(house: House) -> tuple[Any, Any, Any]:
    """Return the executions of programs, the ledger's lines about their calls, and the records of those."""
    store = worlds.store_of(Settings(state_dir=house.state))
    try:
        with store.begin(write=False) as tx:
            runs = tx.executions.find(kind=Kind.RUN)
            lines = [line for one in tx.directions.find() for line in tx.ledger.entries(one.id)]
            return runs, [one for one in lines if one.role == "execution"], tx.calls.find(role="execution")
    finally:
        store.close()


def test_a_baseline_asks_its_model(make_house: Any, tmp_path: Path) -> None:
    house: House = make_house("asking")
    folder = write_template(tmp_path / "asking", FILES)
    assert house.call("template", "check", str(folder)).returncode == 0
    done = house.call("template", "baseline", str(folder), "--sandbox", "local", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["final_info"]["chat"]["means"] == {"words": 2.0}
    (run,), lines, calls = kept(house)
    assert (run.network, run.llm_usd) == ("allow:llm", 0.1)
    assert [(one.path, one.status) for one in run.outcome.egress] == [
        ("/v1/messages", 200), ("/v1/chat/completions", 200), ("/v1/messages", 200)
    ]  # fmt: skip
    account = id_for_execution(run.id, run.fence)
    assert [(one.kind, one.token) for one in lines] == [("reserved", account), ("settled", account)] * 3
    assert {json.loads(one.claims)["execution"] for one in calls} == {run.id}
    assert house.left() == []
