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
from tests.fakes.quick import playbook
from worker import worlds

pytestmark = [pytest.mark.kill, pytest.mark.local, pytest.mark.latex]
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
question = {"role": "user", "content": "Why so?"}
body = {"model": os.environ["FUMEHOOD_LLM_MODEL"], "max_tokens": 50, "messages": [question]}
whole = json.loads(ask("/v1/messages", body))["content"][0]["text"]
chat = json.loads(ask("/v1/chat/completions", body))["choices"][0]["message"]["content"]
streamed = ask("/v1/messages", body | {"stream": True})
assert whole == chat and "message_stop" in streamed, (whole, chat, streamed)
words = SCALE * int(re.search("[0-9]+", whole)[0])
info = {"chat": {"means": {"words": words}, "final_info_dict": {"words": [words]}}}
(out / "final_info.json").write_text(json.dumps(info))
"""
PLOT = """
import struct, zlib

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
picture = b"\\x89PNG\\r\\n\\x1a\\n" + head + chunk(b"IDAT", zlib.compress(b"\\0\\0")) + chunk(b"IEND", b"")
open("scores.png", "wb").write(picture)
"""
FILES = {
    **PLAIN,
    "experiment.py": ASKING,
    "plot.py": PLOT,
    "template.toml": 'title = "Asking"\n[metrics.words]\ntitle = "Words"\n[llm]\nusd_per_run = 0.10\n',
    "offline.toml": playbook(),
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


def test_a_direction_asks_its_model_and_is_repeated_without_one(make_house: Any, tmp_path: Path) -> None:
    house: House = make_house("asking")
    folder, out = write_template(tmp_path / "asking", FILES), tmp_path / "out"
    assert house.call("template", "check", str(folder)).returncode == 0
    words = ("--ideas", "1", "--runs", "1", "--novelty", "off", "--sandbox", "local", "--out", str(out))
    done = house.call("run", "--template", str(folder), "--model", "offline", *words, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "runs" in {line["stage"] for line in json.loads(done.stdout)["summary"]["usage"]}
    runs, lines, calls = kept(house)
    assert {(run.network, run.llm_usd) for run in runs} == {("allow:llm", 0.1)}
    paths = ["/v1/messages", "/v1/chat/completions", "/v1/messages"]
    assert [[(one.path, one.status) for one in run.outcome.egress] for run in runs] == [[(p, 200) for p in paths]] * 2
    accounts = [id_for_execution(run.id, run.fence) for run in runs for _ in paths]
    assert [one.token for one in lines if one.kind == "settled"] == accounts
    assert [json.loads(one.claims)["execution"] for one in calls] == [run.id for run in runs for _ in paths]
    again = house.call("replay", str(out), "--template", str(folder), "--sandbox", "local", "--json")
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert house.left() == []
