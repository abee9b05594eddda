"""A whole paper by a model of a real provider, whose place a strict double takes: one that answers, one that fails."""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fumehood.cli.servers import lasting_port
from fumehood.gateway.keys import VARIABLES
from fumehood.gateway.models import Models
from tests.e2e.conftest import OWN_CODER, House, again, substance
from tests.e2e.test_demo import SECTIONS, text_of
from tests.fakes import provider as fake
from tests.fakes.provider import Asked, Broken, Failure, Provider, Reply, serving
from tests.fakes.researcher import Researcher
from tests.fakes.watching import CANARIES, SECRETS, Watch

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.local, pytest.mark.latex]
MODEL = "claude-sonnet-4-5"
SMALL = ("--profile", "tiny", "--sandbox", "local", "--model", MODEL, "--ideas", "1", "--runs", "1")


@pytest.fixture(scope="module")
def provider() -> Iterator[tuple[Provider, str]]:
    made = Provider(Researcher())
    with serving(made.app) as url:
        yield made, url


@dataclass(frozen=True)
class Written:
    """A finished folder, and what was said on the way there."""

    house: House
    out: Path
    provider: Provider
    refused: subprocess.CompletedProcess[str]
    calls_when_refused: int
    told: dict[str, Any]
    lines: str
    watch: Watch

    @property
    def experiment(self) -> Path:
        """The folder of its one experiment."""
        return self.out / "experiments" / str(self.told["summary"]["experiments"][0]["name"])


@pytest.fixture(scope="module")
def written(
    make_house: Any, provider: tuple[Provider, str], small_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Written:
    """A paper begun with too small a budget, then carried to its end."""
    asked = ("run", "--template", str(small_template), *SMALL)
    house: House = make_house("real", FUMEHOOD_ANTHROPIC_BASE_URL=provider[1])
    out = tmp_path_factory.mktemp("real") / "out"
    for name, key in CANARIES.items():
        kept = house.call("keys", "set", name, said=f"{key}\n")
        assert (kept.returncode, [word for word in SECRETS if word in kept.stdout + kept.stderr]) == (0, [])
    with Watch(SECRETS) as watch:
        refused = house.call(*asked, "--budget-usd", "0.0001", "--out", str(out))
        calls = len(provider[0].asked)
        done = house.call(*asked, "--resume", "--budget-usd", "10", "--out", str(out), "--json")
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-3000:])
    return Written(house, out, provider[0], refused, calls, json.loads(done.stdout), done.stderr, watch)


def test_the_budget_refuses_with_a_sentence_before_anything_is_sent(written: Written) -> None:
    last = written.refused.stderr.strip().splitlines()[-1]
    assert written.refused.returncode == 4, written.refused.stderr
    assert "budget is $0.0001" in last
    assert last.endswith("Raise --budget-usd and give --resume to go on.")
    assert ".." not in last
    assert written.calls_when_refused == 0


def test_going_on_repeats_nothing_that_was_measured(written: Written) -> None:
    baseline = [line for line in (written.refused.stdout + written.lines).splitlines() if "run_0" in line]
    assert len(baseline) == len(set(baseline))


def test_the_folder_is_verified(written: Written) -> None:
    assert written.told["verified"]
    assert written.told["summary"]["cost_usd"] > 0
    assert written.house.call("verify", str(written.out)).returncode == 0
    assert written.house.left() == []


def test_the_paper_has_its_parts_and_names_the_model(written: Written) -> None:
    text = text_of(written.experiment / "paper.pdf")
    for section in SECTIONS:
        assert len(re.findall(rf"^(?:\d+\s+)?{section}s?$", text, re.MULTILINE)) == 1, section
    assert "Abstract" in text
    assert text.count("Figure 1:") == text.count("Table 1:") == 1
    assert f"language model {MODEL}" in re.sub(r"\s+", " ", text)
    for slip in ("12.34", "zebra"):
        assert slip not in text


def test_every_kind_of_question_was_asked(written: Written) -> None:
    script = written.provider.script
    assert isinstance(script, Researcher)
    assert {"idea", "reflection", "novelty_query", "coder", "fidelity", "plot", "notes", "title", "review"} <= set(
        script.roles
    )
    assert {"section abstract", "refine results", "refine related_work"} <= set(script.roles)
    assert script.roles.count("coder") == 2  # the first edit broke


def test_the_review_is_in_the_conference_form(written: Written) -> None:
    review = json.loads((written.experiment / "review.json").read_bytes())
    assert (review["Overall"], review["Decision"], review["reviewer"]) == (4, "Reject", MODEL)
    assert review["not judged"] == []
    assert [check["name"] for check in review["checks"] if not check["held"]] == []
    assert written.told["summary"]["mean_score"] == 4


def test_the_ledger_is_tokens_times_price(written: Written) -> None:
    # Beside the calls it holds what executions took of the machine.
    lines = [one for one in json.loads((written.out / "ledger.json").read_bytes()) if one["model"]]
    settled = [line for line in lines if line["kind"] == "settled"]
    rates = Models.shipped().of(MODEL).rates
    cost = sum(line["input_tokens"] * rates.input + line["output_tokens"] * rates.output for line in settled) / 1e6
    by_call: defaultdict[str, float] = defaultdict(float)
    for line in lines:
        by_call[line["call_id"]] += line["usd"]
    assert len(settled) == len(by_call) == len(written.provider.asked)
    assert sum(by_call.values()) == pytest.approx(cost)
    assert written.told["summary"]["cost_usd"] == pytest.approx(cost, abs=1e-6)


def test_every_call_is_kept_and_shows_no_secret(written: Written) -> None:
    calls = [
        json.loads(line)
        for path in (written.out / "llm_calls.jsonl", written.experiment / "llm_calls.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(calls) == len(written.provider.asked)
    assert {call["status"] for call in calls} == {200}
    assert all(call["request"]["messages"] and call["reply"]["content"] for call in calls)
    for path in written.out.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert [word for word in (*SECRETS, "fhg_") if word.encode() in data] == [], path


def test_no_key_is_in_a_log_a_row_a_file_of_a_run_or_an_environment(written: Written) -> None:
    kept = written.house.state / "keys/providers.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    looked_at = {path for path in written.house.state.rglob("*") if path.is_file()} - {kept}
    assert written.house.state / "fumehood.db" in looked_at
    for path in looked_at:
        data = path.read_bytes()
        assert [word for word in SECRETS if word.encode() in data] == [], path
    assert written.watch.sandboxes > 0
    assert written.watch.met == set()


def test_it_comes_to_the_same_again_without_the_provider(written: Written, small_template: Path) -> None:
    asked = len(written.provider.asked)
    status, told = again(written.house, written.out, "--template", str(small_template))
    assert (status, told["different"]) == (0, []), told
    assert any("/run_1.py (SHA-256" in one for one in told["same"])
    assert any("/latex/main.tex" in one for one in told["same"])
    assert len(written.provider.asked) == asked


class FailsByTurns:
    """A provider behind which every third call fails, in turn in each of the ways that there are."""

    def __init__(self, inner: Researcher) -> None:
        self.seen: set[str] = set()
        self._inner = inner
        self._calls = 0

    def __call__(self, asked: Asked) -> Reply:
        self._calls += 1
        turn, rest = divmod(self._calls, 3)
        if rest:
            return self._inner(asked)
        ways = self._ways(asked)
        name = list(ways)[(turn - 1) % len(ways)]
        self.seen.add(name)
        return ways[name]

    def _ways(self, asked: Asked) -> dict[str, Reply]:
        cut = fake.message([{"type": "text", "text": "The first half of"}], "max_tokens")
        odd = fake.text('```json\n{"answer": [1,\n```') if asked.body.get("tools") else Broken(cut, 0)
        return {
            "limit": Failure(429, "rate_limit_error", headers={"retry-after": "0.2"}),
            "overload": Failure(529, "overloaded_error"),
            "broken": Failure(500, "api_error"),
            "stream cut": Broken(cut, 0),
            "malformed": odd,
            "refusal": fake.message([], "refusal"),
            "long": cut,
        }


def failed(told: subprocess.CompletedProcess[str]) -> str:
    """Return the one sentence of a command that ended with status 1."""
    assert told.returncode == 1, (told.stdout[-2000:], told.stderr[-2000:])
    (sentence,) = told.stderr.strip().splitlines()
    return sentence


def test_one_that_refuses_is_away_is_overloaded_and_fails_every_third_call_costs_time_only(
    written: Written, make_house: Any, small_template: Path, tmp_path: Path
) -> None:
    asked = ("run", "--template", str(small_template), *SMALL, "--budget-usd", "10")
    port, out = lasting_port(), tmp_path / "out"
    # Our own coder: the paper above is Aider's where it is there.
    settings = {"FUMEHOOD_ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}", **OWN_CODER}
    soon = {"FUMEHOOD_MODEL_TRIES": "2"}
    wrong: House = make_house("away", **settings, **soon, ANTHROPIC_API_KEY="sk-ant-test-wrong")
    researcher = Researcher()
    provider = Provider(researcher)
    with serving(provider.app, port):
        refused = failed(wrong.call(*asked, "--out", str(out)))
    assert "Anthropic refuses the platform's key" in refused
    assert "fumehood keys set anthropic" in refused
    assert len(provider.asked) == 1

    # The key comes by the environment alone, and no process that works with it has it there.
    settings |= {variable: CANARIES[name] for name, variable in VARIABLES.items()}
    house = House(state=wrong.state, lab=wrong.lab, settings={**settings, **soon})
    unreached = failed(house.call(*asked, "--resume", "--out", str(out)))
    assert "The provider could not be reached (ConnectionRefusedError)" in unreached
    assert unreached.endswith("give --resume to go on.")

    def overloaded(asked: Asked) -> Reply:
        if "You carry out a registered research idea" in json.dumps(asked.body):
            return Failure(529, "overloaded_error", "Overloaded")
        return researcher(asked)

    provider.script = overloaded
    with serving(provider.app, port):
        assert "Overloaded" in failed(house.call(*asked, "--resume", "--out", str(out)))
    assert researcher.roles.count("idea") == 1

    failing = FailsByTurns(researcher)
    provider.script = failing
    house = House(state=wrong.state, lab=wrong.lab, settings=settings)
    with serving(provider.app, port), Watch(SECRETS, after_s=2.0) as watch:
        done = house.call(*asked, "--resume", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert failing.seen == {"limit", "overload", "broken", "stream cut", "malformed", "refusal", "long"}
    assert json.loads(done.stdout)["verified"]
    assert researcher.roles.count("idea") == 1
    assert substance(out) == substance(written.out)
    assert (watch.sandboxes > 0, watch.met) == (True, set())
    assert not (house.state / "keys/providers.json").exists()
    assert house.left() == []
