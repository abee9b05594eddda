"""The commands that ask a server, against the real application on a loopback port."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fumehood.cli import client, following, output, remote
from fumehood.cli.main import main
from fumehood.cli.remote import Server
from fumehood.cli.servers import lasting_port
from fumehood.domain.direction import Hold
from fumehood.domain.ids import DirectionId
from fumehood.domain.ledger import LedgerEntry
from fumehood.domain.step import Event
from fumehood.errors import BadInputError, MachineUnfitError
from fumehood.services import audit, directions, submissions
from fumehood.settings import Settings
from tests.api.test_api import KEY, UNKNOWN, Served
from tests.fakes.serving import Cutter, Recorder, serving
from worker import worlds

SUBMIT = ("submit", "--template", "tiny", "--profile", "tiny", "--ideas", "1", "--runs", "1")


@dataclasses.dataclass(frozen=True)
class Said:
    """What a command answered."""

    status: int
    out: str
    complained: str

    @property
    def sentence(self) -> str:
        (line,) = self.complained.strip().splitlines()
        return line.removeprefix("fumehood: ")

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Say = Callable[..., Said]


@pytest.fixture
def say(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Run a command against a server at a port."""

    def command(port: int, *words: str, key: str = KEY) -> Said:
        monkeypatch.setenv("FUMEHOOD_STATE_DIR", str(tmp_path / "nobody"))
        monkeypatch.setenv("FUMEHOOD_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("FUMEHOOD_API_KEY", key)
        status = main(words)
        told = capsys.readouterr()
        assert not (tmp_path / "nobody").exists()
        return Said(status, told.out, told.err)

    return command


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.lab.artifacts.close()


@pytest.fixture
def port(served: Served) -> Iterator[int]:
    with serving(served.app) as found:
        yield found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("done"))
    made.lab.submit(runs=1)
    made.lab.go_on()
    yield made
    made.lab.artifacts.close()


@pytest.fixture
def done_port(done: Served) -> Iterator[int]:
    with serving(done.app) as found:
        yield found


@pytest.fixture
def cutter(done_port: int) -> Iterator[Cutter]:
    made = Cutter(done_port)
    yield made
    made.close()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def recorded(recorder: Recorder) -> Iterator[int]:
    with serving(recorder) as found:
        yield found


class TestSubmit:
    def test_what_is_submitted_is_there(self, say: Say, served: Served, port: int) -> None:
        said = say(port, *SUBMIT, "--text", "Look at scales.", "--budget-usd", "2.5", "--novelty", "off",
                   "--budget-wall-s", "60", "--budget-gpu-s", "30", "--priority", "-2",
                   "--budget-experiment-usd", "1.5", "--budget-call-usd", "0.25")  # fmt: skip
        known = served.lab.direction()
        assert (said.status, said.complained) == (0, "")
        assert said.out == f"submitted {known.id}; `fumehood watch {known.id}` follows it\n"
        assert (known.text, known.budget_usd, known.novelty, known.runs) == ("Look at scales.", 2.5, False, 1)
        assert (known.budget_wall_s, known.budget_gpu_s, known.priority) == (60.0, 30.0, -2)
        assert (known.budget_usd_per_experiment, known.budget_usd_per_call) == (1.5, 0.25)

    def test_with_json_the_direction_is_the_one_document(self, say: Say, served: Served, port: int) -> None:
        said = say(port, *SUBMIT, "--json")
        assert (said.status, said.document["id"], said.complained) == (0, served.lab.direction().id, "")

    def test_it_can_be_followed_to_its_end(self, say: Say, served: Served, port: int) -> None:
        def work() -> None:
            while not served.lab.steps():
                pass
            served.lab.go_on()

        working = threading.Thread(target=work)
        working.start()
        said = say(port, *SUBMIT, "--watch", "--json")
        working.join()
        assert said.status == 0
        assert (said.document["direction"]["state"], said.document["summary"]["papers"]) == ("done", 1)
        assert "1 of 1 experiments finished" in said.complained

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (("--template", "nothing"), "There is no template 'nothing'."),
            (("--template", "../tiny"), "template: "),
            (("--ideas", "0"), "ideas: "),
            (("--budget-usd", "-1"), "budget.usd: "),
            (("--text", " "), "text is empty"),
        ],
    )
    def test_what_the_server_refuses_is_a_sentence_and_status_two(
        self, say: Say, port: int, words: tuple[str, ...], sentence: str
    ) -> None:
        said, told = say(port, *SUBMIT, *words), say(port, *SUBMIT, *words, "--json")
        assert (said.status, said.out, told.status) == (2, "", 2)
        assert sentence in said.sentence
        assert told.document == {"error": said.sentence, "exit_status": 2}

    def test_an_answer_that_is_cut_off_is_asked_for_with_the_same_key(
        self, say: Say, cutter: Cutter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "PAUSE_S", 0.01)
        cutter.cuts = [0, 30]
        said = say(cutter.port, "cancel", UNKNOWN)
        assert (said.status, said.sentence) == (2, "There is no direction with this id.")
        keys = [re.findall(rb"(?i)idempotency-key: (\S{26})\r\n", one) for one in cutter.requests]
        assert len(keys) == 3
        assert keys[0] == keys[1] == keys[2] != []
        say(cutter.port, "cancel", UNKNOWN)
        assert keys[0][0] not in cutter.requests[3]


class TestAway:
    @pytest.mark.parametrize("words", [("list",), SUBMIT, ("watch", UNKNOWN), ("report",), ("show", UNKNOWN)])
    def test_where_no_server_is_the_status_is_three(self, say: Say, words: tuple[str, ...]) -> None:
        said = say(lasting_port(), *words, *(("--json",) if words != ("watch", UNKNOWN) else ()))
        assert said.status == 3
        assert said.complained.splitlines()[-1].startswith("fumehood: No server answers at http://127.0.0.1:")
        assert "Start one with `fumehood serve`, or set FUMEHOOD_URL." in said.complained

    @pytest.mark.parametrize("key", ["", "wrong"])
    def test_a_key_that_is_not_known_is_status_two(self, say: Say, port: int, key: str) -> None:
        for words in (("list",), SUBMIT, ("show", UNKNOWN)):
            said = say(port, *words, key=key)
            assert (said.status, said.sentence) == (
                2,
                "The server does not know this key: set FUMEHOOD_API_KEY to one that it made.",
            )

    def test_what_is_no_key_is_never_sent(self, say: Say, recorded: int, recorder: Recorder) -> None:
        for key in ("a b", "a\nb", "schlüssel"):
            said = say(recorded, "list", key=key)
            assert (said.status, said.sentence) == (
                2,
                "FUMEHOOD_API_KEY holds no key: it has spaces or odd characters.",
            )
        assert recorder.asked == []

    @pytest.mark.parametrize("url", ["x", "ftp://x", "http://", "http://x:99999", "127.0.0.1:8000", "http://[x"])
    def test_what_is_no_address_is_status_two(self, say: Say, url: str) -> None:
        said = say(1, "list", "--url", url)
        assert (said.status, said.sentence) == (
            2,
            f"{url!r} is no server's address: give one such as http://127.0.0.1:8000.",
        )

    def test_no_proxy_sees_the_key_on_its_way_to_this_machine(
        self, say: Say, recorded: int, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{lasting_port()}")
        recorder.body = {"items": [], "next": None}
        assert say(recorded, "list").status == 0

    @pytest.mark.parametrize(
        ("status", "exit_status"),
        [(402, 4), (429, 4), (400, 2), (403, 2), (404, 2), (409, 2), (422, 2), (500, 1), (503, 1), (302, 1)],
    )
    def test_each_refusal_has_its_status(
        self, say: Say, recorded: int, recorder: Recorder, status: int, exit_status: int
    ) -> None:
        recorder.status, recorder.body = status, {"detail": "Not now."}
        for words in (("list",), ("cancel", UNKNOWN), ("watch", UNKNOWN)):
            said = say(recorded, *words, "--json")
            assert said.document == {"error": "Not now.", "exit_status": exit_status}
        recorder.body = b"<html>"
        assert f"The server answered {status}" in say(recorded, "list").sentence

    def test_what_speaks_no_json_is_not_our_server(self, say: Say, recorded: int, recorder: Recorder) -> None:
        recorder.body = b"<html>"
        said = say(recorded, "list")
        assert (said.status, "is not Fumehood's API: it sends no JSON" in said.sentence) == (1, True)


class TestReading:
    def test_directions_are_listed_by_state(self, say: Say, port: int) -> None:
        first = say(port, *SUBMIT, "--json").document["id"]
        say(port, *SUBMIT)
        cancelled = say(port, "cancel", first)
        assert (cancelled.status, cancelled.out) == (0, f"{first} is cancelled\n")
        assert [one["id"] for one in say(port, "list", "--state", "cancelled", "--json").document] == [first]
        assert len(say(port, "list", "--json").document) == 2
        assert first in say(port, "list").out
        assert say(port, "list", "--state", "odd").status == 2

    def test_all_pages_of_a_list_are_read(self, say: Say, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "PAGE", 2)
        ids = [say(port, *SUBMIT, "--json").document["id"] for _ in range(5)]
        assert [one["id"] for one in say(port, "list", "--json").document] == ids

    def test_each_thing_is_shown_with_what_it_has(self, say: Say, done: Served, done_port: int) -> None:
        direction, experiment, run = done.lab.direction().id, done.lab.experiments()[0].id, done.lab.runs()[-1].id
        assert say(done_port, "show", direction, "--json").document["experiments"][0]["id"] == experiment
        assert run in [one["id"] for one in say(done_port, "show", experiment, "--json").document["runs"]]
        assert say(done_port, "show", run, "--json").document["result"] == "measured"
        shown = say(done_port, "show", direction).out
        assert f"id: {direction}\n" in shown
        assert f"  id: {experiment}\n" in shown

    @pytest.mark.parametrize("known", ["x", "dir_", "../healthz", "idea_" + "0" * 26, UNKNOWN + "/cancel", ""])
    def test_what_is_no_id_is_never_sent(self, say: Say, recorded: int, recorder: Recorder, known: str) -> None:
        for command in (("show",), ("watch",), ("cancel",), ("paper",)):
            said = say(recorded, *command, known)
            assert (said.status, "is no id that this command takes" in said.sentence) == (2, True)
        assert recorder.asked == []

    def test_the_results_come_in_each_format(self, say: Say, done: Served, done_port: int) -> None:
        known = done.lab.direction().id
        [row] = say(done_port, "report", "--json").document
        assert row == say(done_port, "report", "--direction", known, "--format", "json").document[0]
        [told] = csv.DictReader(say(done_port, "report", "--format", "csv").out.splitlines())
        assert (told["direction"], told["papers"], told["mean_score"]) == (known, "1", "")
        assert known in say(done_port, "report").out
        latex = say(done_port, "report", "--format", "latex").out
        assert latex.startswith("\\begin{tabular}{lllrrrrrrr}\n\\toprule\n")
        assert f"dir\\_{known[4:]} & offline & tiny & 1 & " in latex
        assert say(done_port, "report", "--direction", UNKNOWN).status == 2

    def test_the_tokens_of_each_stage_are_told(self, say: Say, served: Served, port: int) -> None:
        direction = served.lab.submit()
        for number, (role, inputs, cached) in enumerate([("idea", 100, 0), ("coder", 50, 40), ("coder", 30, 30)]):
            entry = LedgerEntry(
                id=f"evt_{number}", call_id=f"call_{number}", tenant=direction.tenant, direction_id=direction.id,
                kind="settled", role=role, model="m", usd=0.25, tokens=inputs + cached + 5, input_tokens=inputs,
                cached_tokens=cached, output_tokens=5, day="2026-01-01", at=1.0,
            )  # fmt: skip
            with served.lab.store.begin() as tx:
                tx.ledger.add(entry)
        told = {line.pop("stage"): line for line in say(port, "report", "--tokens", "--json").document}
        assert told == {
            "ideas": {"direction": direction.id, "calls": 1, "input_tokens": 100, "cached_tokens": 0,
                     "output_tokens": 5, "usd": 0.25},
            "coder": {"direction": direction.id, "calls": 2, "input_tokens": 80, "cached_tokens": 70,
                      "output_tokens": 10, "usd": 0.5},
        }  # fmt: skip
        rows = csv.DictReader(say(port, "report", "--tokens", "--format", "csv").out.splitlines())
        assert {one["stage"]: one["cached_tokens"] for one in rows} == {"ideas": "0", "coder": "70"}
        shown = say(port, "report", "--tokens").out
        assert "from the cache" in shown
        assert "0.5000" in shown


class TestLog:
    def test_a_run_is_followed_to_its_verdict(self, say: Say, done: Served, done_port: int) -> None:
        run = done.lab.runs()[-1].id
        told = say(done_port, "show", run, "--follow")
        assert (told.status, told.out, told.complained) == (0, "done", f"{run}: succeeded\n")
        told = say(done_port, "show", run, "--follow", "--json")
        assert told.document == {"run": run, "verdict": "succeeded", "log": "done"}

    def test_what_is_no_run_is_not_followed(self, say: Say, port: int) -> None:
        assert "run_..." in say(port, "show", UNKNOWN, "--follow").sentence

    def test_a_program_cannot_steer_the_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.print_program("50 %\r100 %\r\n\x1b[2J\ttab\0")
        assert capsys.readouterr().out == "50 %\n100 %\n\N{REPLACEMENT CHARACTER}[2J\ttab\N{REPLACEMENT CHARACTER}"


class TestPaper:
    def test_it_lies_where_it_was_asked_for_and_is_not_written_over(
        self, say: Say, done: Served, done_port: int, tmp_path: Path
    ) -> None:
        experiment = done.lab.experiments()[0]
        for known, out in ((experiment.id, tmp_path / "one.pdf"), (done.lab.direction().id, tmp_path / "deep/all")):
            said = say(done_port, "paper", known, "--out", str(out))
            place = out if out.suffix else out / f"{experiment.name}.pdf"
            assert (said.status, said.out) == (0, f"{place}\n")
            assert place.read_bytes() == b"%PDF-1.5 a paper"
            place.write_text("mine")
            again = say(done_port, "paper", known, "--out", str(out))
            assert (again.status, again.sentence) == (2, f"{place} is there already: give another --out.")
            assert place.read_text() == "mine"
            assert list(place.parent.glob(".new-*")) == []

    def test_where_there_is_none_yet_that_is_said(self, say: Say, served: Served, port: int, tmp_path: Path) -> None:
        known = served.lab.submit().id
        said = say(port, "paper", known, "--out", str(tmp_path / "out"))
        assert (said.status, said.sentence) == (2, f"{known} has no paper yet.")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["../x", "/etc/x", "", "a b", "a" * 41])
    def test_a_name_that_leads_elsewhere_is_not_used(self, name: str) -> None:
        with pytest.raises(BadInputError, match=r"no experiment's name: give --out"):
            client.file_name({"name": name})


class TestWatch:
    def texts(self, done: Served) -> list[str]:
        return [one.text for one in done.lab.events()]

    def test_a_finished_direction_is_told_to_its_end(self, say: Say, done: Served, done_port: int) -> None:
        known = done.lab.direction().id
        said = say(done_port, "watch", known)
        assert (said.status, said.complained) == (0, "")
        lines = [line.partition("] ")[2] for line in said.out.splitlines()]
        told = [one for one in lines if one in self.texts(done)]
        assert told == self.texts(done)
        assert said.out.endswith(f"{known} is done\n`fumehood paper {known}` fetches its papers\n")

    def test_one_that_did_not_come_to_its_end_is_status_one(self, say: Say, served: Served, port: int) -> None:
        known = served.lab.submit().id
        say(port, "cancel", known)
        said = say(port, "watch", known, "--json")
        assert (said.status, said.document["direction"]["state"]) == (1, "cancelled")

    def test_a_stream_that_is_cut_goes_on_where_it_was(
        self, done: Served, cutter: Cutter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(following, "FIRST_PAUSE_S", 0.01)
        cutter.cuts = [100, 400, 300, 900, 10, 1200, 0, 2500]
        settings = Settings(url=f"http://127.0.0.1:{cutter.port}", api_key=KEY)
        with Server.of(settings) as server:
            told = list(following.events(server, done.lab.direction().id))
        assert [one.text for one in told] == self.texts(done)
        assert len(cutter.requests) == 9
        assert b"last-event-id" in cutter.requests[-1].lower()

    def test_a_server_that_stays_away_is_given_up(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(following, "PATIENCE_S", 0.3)
        monkeypatch.setattr(following, "LONGEST_PAUSE_S", 0.1)
        with serving(served.app) as port:
            server = Server.of(Settings(url=f"http://127.0.0.1:{port}", api_key=KEY))
            stream = following.events(server, served.lab.submit().id)
            assert next(stream).kind == "direction.submitted"
        with server, pytest.raises(MachineUnfitError, match="No server answers"):
            list(stream)

    @pytest.mark.parametrize(("hold", "status"), [(Hold.OVER_BUDGET, 4), (Hold.NO_MODEL, 1), (Hold.POLICY, 4)])
    def test_a_direction_that_a_person_must_mend_ends_the_command(
        self, say: Say, served: Served, port: int, hold: Hold, status: int
    ) -> None:
        direction = served.lab.submit()
        with served.lab.store.begin() as tx:
            tx.directions.save(dataclasses.replace(direction, hold=hold))
            tx.events.append(Event(direction_id=direction.id, kind=hold.value, text="held: it is not to be had."))
        said = say(port, "watch", direction.id)
        assert said.status == status
        assert said.complained == "fumehood: held: it is not to be had. Nothing is lost.\n"

    def test_a_hold_that_was_lifted_is_history(self, say: Say, served: Served, port: int) -> None:
        direction = served.lab.submit()
        with served.lab.store.begin() as tx:
            tx.events.append(Event(direction_id=direction.id, kind=Hold.NO_MODEL.value, text="held: away"))
        directions.cancel(served.lab.store, served.lab.clock, DirectionId(direction.id))
        assert say(port, "watch", direction.id).status == 1

    def test_what_is_no_event_is_told(self, say: Say, recorded: int, recorder: Recorder) -> None:
        recorder.body = b"id: 1\ndata: {}\n\n"
        said = say(recorded, "watch", UNKNOWN, "--json")
        assert said.document == {"error": "What the server sends is not an event of Fumehood's.", "exit_status": 1}


def test_feedback_is_sent_to_what_it_is_about(say: Say, recorded: int, recorder: Recorder) -> None:
    for known, kind in ((UNKNOWN, "directions"), ("exp_" + "0" * 26, "experiments")):
        assert say(recorded, "feedback", known, "Try more.").status == 0
        assert recorder.asked[-1] == ("POST", f"/v1/{kind}/{known}/feedback", {"text": "Try more."})


class TestLocalReport:
    @pytest.fixture
    def report(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., Said]:
        def command(*words: str) -> Said:
            monkeypatch.setenv("FUMEHOOD_STATE_DIR", str(tmp_path / "state"))
            status = main(("report", *words))
            told = capsys.readouterr()
            return Said(status, told.out, told.err)

        return command

    def test_the_state_folder_is_read_where_no_server_is_named(
        self, report: Callable[..., Said], done: Served, tmp_path: Path
    ) -> None:
        settings = Settings(state_dir=tmp_path / "state")
        worlds.prepare_state(settings)
        store = worlds.store_of(settings)
        asked = done.lab.asked()
        made = submissions.submit(store, worlds.artifacts_of(settings), done.lab.clock, asked, done.lab.template.parent)
        store.close()
        assert [row["direction"] for row in report("--json").document] == [made.id]
        assert [row["papers"] for row in report("--direction", made.id, "--json").document] == [0]

    def test_one_that_is_not_there_is_not_made(self, report: Callable[..., Said], tmp_path: Path) -> None:
        said = report()
        assert (said.status, "There is no state folder" in said.sentence) == (2, True)
        assert not (tmp_path / "state").exists()


def test_an_administrator_does_everything_by_commands(say: Say, port: int, served: Served) -> None:
    """Against the routes themselves: a tenant of one key, a quota that refuses, the switch, and the audit of it all."""
    assert say(port, "admin", "tenant", "create", "vision", "--json").status == 0
    made = say(port, "admin", "key", "create", "--tenant", "vision", "--scope", "read", "--scope", "write", "--json")
    key = made.document["key"]
    assert say(port, "admin", "quota", "set", "vision", "directions=1", "runs=2").status == 0
    assert say(port, "admin", "budget", "set", "vision", "--usd-day", "5", "--usd-total", "50").status == 0
    told = say(port, "admin", "quota", "show", "vision", "--json").document["quotas"]
    assert told == {"directions": 1.0, "runs": 2.0, "usd_day": 5.0, "usd": 50.0}
    assert say(port, *SUBMIT, key=key).status == 0
    refused = say(port, *SUBMIT, key=key)
    assert (refused.status, "1 directions at once" in refused.sentence) == (4, True)
    assert say(port, "admin", "pause", "--tenant", "vision", "--kill").status == 0
    assert say(port, "admin", "resume", "--tenant", "vision").status == 0
    rotated = say(port, "admin", "key", "rotate", made.document["id"], "--json").document
    assert say(port, "list", key=rotated["key"]).status == 0
    assert say(port, "admin", "key", "revoke", rotated["id"]).status == 0
    assert say(port, "admin", "lease", "list", "--json").document == []
    [usage] = say(port, "admin", "usage", "--tenant", "vision", "--json").document
    assert (usage["name"], usage["directions"]) == ("vision", 1)
    actions = [one["action"] for one in say(port, "admin", "audit", "--json").document]
    # The first two are the server's own: its tenant, and the key that it was given.
    assert actions[:2] == ["tenant.created", "key.issued"]
    assert actions[2:] == [
        "tenant.created", "key.issued", "quota.set", "quota.set", "direction.submitted", "work.killed", "work.resumed",
        "key.rotated", "key.revoked",
    ]  # fmt: skip
    audit.seal(served.lab.store)
    head = say(port, "admin", "audit", "--verify", "--json").document["head"]
    told = say(port, "admin", "audit", "--verify", "--head", head, "--json").document
    assert (told["entries"], told["head"]) == (11, head)
    with served.lab.store.begin() as tx:
        tx.audit._entries.pop()  # type: ignore[attr-defined]
    cut = say(port, "admin", "audit", "--verify", "--head", head)
    assert (cut.status, "no entry 11 with the seal that was given" in cut.sentence) == (1, True)
    assert say(port, "admin", "tenant", "list", key=key).status == 2


def test_a_comment_is_kept_and_one_that_nobody_would_read_is_refused(say: Say, port: int, served: Served) -> None:
    assert say(port, *SUBMIT).status == 0
    direction = served.lab.direction().id
    assert say(port, "feedback", direction, "Look closer.").status == 0
    with served.lab.store.begin(write=False) as tx:
        assert [one.text for one in tx.feedback.find()] == ["Look closer."]
    assert say(port, "cancel", direction).status == 0
    assert say(port, "feedback", direction, "Too late.").status == 2
