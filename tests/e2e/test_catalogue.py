"""An idea that asks for data of the catalogue, by the real command in real sandboxes, from a server on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import OFFLINE, OWN_CODER, House
from tests.fakes.laboratory import TINY, write_template
from tests.fakes.quick import playbook
from tests.unit.test_fetching import Server

pytestmark = [pytest.mark.slow, pytest.mark.local, pytest.mark.latex]
TEXT = " ".join(f"word{number}" for number in range(400)).encode()
SHA256 = hashlib.sha256(TEXT).hexdigest()
PREPARE = """
import argparse
import hmac
import json
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser()
for name in ("arm", "part", "key", "seeds", "out_dir"):
    parser.add_argument(f"--{name}")
asked = parser.parse_args()
key = pathlib.Path(asked.key).read_bytes()
texts, shares = {"circle": " ".join(f"own{number}" for number in range(100))}, {"circle": 0.1}
if (HERE / "catalogue.json").exists():
    for name, told in json.loads((HERE / "catalogue.json").read_text()).items():
        texts[name], shares[name] = (HERE / f"data/catalogue/{name}.txt").read_text(), told["split"]
for name, text in texts.items():
    words = text.split()
    drawn = [hmac.digest(key, f"{asked.arm}/{name}/{at}".encode(), "sha256")[0] / 256 for at in range(len(words))]
    held = asked.part == "answers"
    kept = [word for word, chance in zip(words, drawn) if (chance < shares[name]) == held]
    pathlib.Path(asked.out_dir, f"{name}.txt").write_text(" ".join(kept))
"""
EXPERIMENT = """
import argparse
import json
import os
import pathlib

SCALE = 1.0

parser = argparse.ArgumentParser()
parser.add_argument("--out_dir", default="run_0")
out = pathlib.Path(parser.parse_args().out_dir)
out.mkdir(exist_ok=True)
seeds = [int(seed) for seed in os.environ.get("FUMEHOOD_SEEDS", "1,2").split(",")]
data = sorted(pathlib.Path(os.environ["FUMEHOOD_DATA"]).glob("*.txt"))
learnt = {path.stem: len(path.read_text().split()) for path in data}
samples = {name: [SCALE + seed % 8 / 4 + words / 1e6 for seed in seeds] for name, words in learnt.items()}
info = {name: {"means": {"loss": sum(of) / len(of)}, "final_info_dict": {"loss": of}} for name, of in samples.items()}
(out / "samples.json").write_text(json.dumps(samples))
(out / "final_info.json").write_text(json.dumps(info))
print("network:", sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else "none to be seen")
"""
EVALUATE = """
import argparse
import json
import pathlib

parser = argparse.ArgumentParser()
for name in ("outputs", "held_out", "train", "out_dir", "seeds"):
    parser.add_argument(f"--{name}")
asked = parser.parse_args()
samples = json.loads((pathlib.Path(asked.outputs) / "samples.json").read_text())
info = {}
for path in sorted(pathlib.Path(asked.held_out).glob("*.txt")):
    held, train = (set(file.read_text().split()) for file in (path, pathlib.Path(asked.train) / path.name))
    if held & train or not held:
        raise SystemExit(f"{path.name} was not split")
    values = samples[path.stem]
    info[path.stem] = {"means": {"error": sum(values) / len(values)}, "final_info_dict": {"error": values}}
(pathlib.Path(asked.out_dir) / "metrics.json").write_text(json.dumps(info))
"""


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    running.body = TEXT
    yield running
    running.stop()


def write_asking(folder: Path, *requests: str) -> Path:
    """Write a template of texts whose one idea asks for these."""
    asked = f"requests = {json.dumps(list(requests))}\n"
    files = {
        **TINY,
        "experiment.py": EXPERIMENT,
        "prepare.py": PREPARE,
        "evaluate.py": EVALUATE,
        "offline.toml": playbook().replace("interestingness = 6\n", f"interestingness = 6\n{asked}", 1),
        "template.toml": TINY["template.toml"] + '\n[catalogue]\nformats = ["text"]\n',
    }
    return write_template(folder / "asking", files)


def add(house: House, server: Server, name: str = "austen", *more: str) -> None:
    words = ("--from", f"{server.address}/{name}.txt", "--sha256", SHA256, "--bytes", str(len(TEXT)))
    told = ("--licence", "public domain", "--title", "Four hundred words", "--format", "text", "--split", "0.2")
    done = house.call("admin", "catalogue", "add", name, *words, *told, *more)
    assert done.returncode == 0, done.stderr


def records(out: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(out.rglob("run_*/record.json")):
        envelope = json.loads(path.read_bytes())
        found[path.parent.name] = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    return found


def check_measured_on_it(out: Path) -> None:
    found = records(out)
    assert set(found) == {"run_0", "run_1"}
    for one in found.values():
        assert set(one["metrics"]["error"]["datasets"]) == {"circle", "austen"}
        source = one["sources"]["austen"]
        assert (source["from"], source["licence"], source["sha256"]) == ("catalogue", "public domain", SHA256)
    assert found["run_0"]["template"] == found["run_1"]["template"]


def test_what_an_idea_asks_for_waits_for_an_admin_is_fetched_and_its_baseline_measured_again(
    make_house: Any, tmp_path: Path, server: Server
) -> None:
    house: House = make_house("catalogue", **OWN_CODER)
    template, out = write_asking(tmp_path, "austen"), tmp_path / "out"
    asked = ("--template", str(template), *OFFLINE, "--ideas", "1", "--runs", "1", "--out", str(out))
    add(house, server, "bronte")  # which ideas are told of, and this one does not ask for
    held = house.call("run", *asked)
    assert held.returncode == 4, held.stdout + held.stderr
    assert "austen, which is not in the catalogue" in held.stderr
    (waits,) = json.loads(house.call("admin", "approvals", "--json").stdout)
    assert waits["kind"] == "idea"
    assert "austen, which is not in the catalogue" in waits["why"]
    early = house.call("admin", "approve", waits["id"])
    assert early.returncode == 2
    assert "Add it to the catalogue first" in early.stderr
    # The connection breaks once on the way.
    server.breaks_at = [1000]
    add(house, server)
    assert "name: austen" in house.call("admin", "catalogue", "list").stdout
    assert house.call("admin", "approve", waits["id"]).returncode == 0
    done = house.call("run", *asked, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"given austen (public domain, SHA-256 {SHA256})" in done.stdout + done.stderr
    assert [told[0] for told in server.seen] == ["/austen.txt"] * 2
    check_measured_on_it(out)
    (paper,) = out.glob("experiments/*/latex/main.tex")
    assert "Four hundred words" in paper.read_text()
    verified = house.call("verify", str(out))
    assert verified.returncode == 0, verified.stdout + verified.stderr

    # The entry is gone, and what was measured with it is measured again from what was kept.
    assert house.call("admin", "catalogue", "remove", "austen").returncode == 0
    rerun = house.call("verify", str(out), "--rerun", "--template", str(template), "--sandbox", "local")
    assert rerun.returncode == 0, rerun.stdout + rerun.stderr
    assert "2 of 2 runs came to the same" in rerun.stdout
    replayed = house.call("replay", str(out), "--template", str(template), "--sandbox", "local")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert len(server.seen) == 2
    assert house.left() == []
