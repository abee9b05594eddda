"""What can be read over HTTP: lists by cursor, files as safe downloads, and events as they come."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fumehood.domain.direction import DirectionState
from fumehood.domain.experiment import ExperimentOutcome
from fumehood.domain.ids import DirectionId
from fumehood.domain.tenant import Scope
from fumehood.gateway.models import Models
from fumehood.services import browsing, keys, tenants
from tests.api.test_api import ASKED, UNKNOWN, Served, problem
from tests.fakes.store import migrated

ABSENT = {"dir": UNKNOWN, "exp": "exp_" + "0" * 26, "run": "run_" + "0" * 26}
READ = (
    "/v1/directions/{dir}", "/v1/directions/{dir}/ideas", "/v1/directions/{dir}/experiments",
    "/v1/directions/{dir}/events", "/v1/experiments/{exp}", "/v1/experiments/{exp}/runs",
    "/v1/experiments/{exp}/artifacts", "/v1/experiments/{exp}/diff", "/v1/experiments/{exp}/paper",
    "/v1/experiments/{exp}/paper/source", "/v1/experiments/{exp}/claims", "/v1/experiments/{exp}/reviews",
    "/v1/experiments/{exp}/verification", "/v1/runs/{run}", "/v1/runs/{run}/log", "/v1/runs/{run}/record",
)  # fmt: skip


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.lab.artifacts.close()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("done"))
    made.client.post("/v1/directions", json=ASKED | {"ideas": 1})
    made.lab.go_on()
    yield made
    made.lab.artifacts.close()


def names(served: Served) -> dict[str, str]:
    lab = served.lab
    return {"dir": lab.direction().id, "exp": lab.experiments()[0].id, "run": lab.runs()[-1].id}


class TestReading:
    @pytest.mark.parametrize("path", READ)
    def test_all_of_a_finished_direction_can_be_read(self, done: Served, path: str) -> None:
        answer = done.client.get(path.format(**names(done)))
        assert answer.status_code == 200, answer.text

    @pytest.mark.parametrize("path", READ)
    @pytest.mark.parametrize("odd", ["", "x", "%00", "..%2f..", "z" * 3000, "dir_" + "0" * 27])
    def test_what_is_not_there_is_not_found(self, done: Served, path: str, odd: str) -> None:
        keys = dict.fromkeys(ABSENT, odd) if odd else ABSENT
        problem(done.client.get(path.format(**keys)), 404, "not-found")

    def test_the_diff_tells_which_edits_were_refused_or_flagged(self, served: Served) -> None:
        cheat = served.lab.template.joinpath("experiment.py").read_bytes() + b"import socket\n"
        served.lab.coder.script[1, 1] = ({"experiment.py": cheat}, "RUN: Out | it reaches out")
        served.client.post("/v1/directions", json=ASKED | {"ideas": 1})
        served.lab.go_on(until=lambda: len(served.lab.runs()) > 1)
        told = served.client.get(f"/v1/experiments/{served.lab.experiments()[0].id}/diff").json()
        (edit,) = told["audit"]
        assert (edit["subject"], edit["attempt"]) == ("run_1", 1)
        (finding,) = edit["findings"]
        assert (finding["kind"], finding["severity"], finding["path"]) == ("network", "refused", "experiment.py")
        assert finding["sentence"].startswith("experiment.py line 18 uses socket: a run has no network")

    @pytest.mark.parametrize("what", ["paper", "paper/source", "claims", "verification"])
    def test_what_is_not_there_yet_is_said(self, served: Served, what: str) -> None:
        served.client.post("/v1/directions", json=ASKED | {"ideas": 1})
        served.lab.go_on(until=lambda: bool(served.lab.experiments()))
        answer = served.client.get(f"/v1/experiments/{served.lab.experiments()[0].id}/{what}")
        assert "yet" in problem(answer, 404, "not-found")["detail"]

    def test_the_catalogue_and_the_results_can_be_read(self, done: Served) -> None:
        assert [one["name"] for one in done.client.get("/v1/templates").json()["items"]] == ["tiny"]
        models = {one["name"]: one for one in done.client.get("/v1/models").json()["items"]}
        assert models["offline"]["free"]
        assert models["offline"]["input_usd"] == 0
        sonnet = models["claude-sonnet-4-5"]
        assert (sonnet["upstream"], sonnet["free"], sonnet["cache_read_usd"]) == ("anthropic", False, 0.3)
        assert (sonnet["long"]["above_tokens"], sonnet["long"]["input_usd"]) == (200_000, 6.0)
        assert not models["claude-opus-5-5"]["capabilities"]["forced_tools"]
        [row] = done.client.get("/v1/reports/summary").json()["items"]
        assert (row["direction"], row["papers"]) == (done.lab.direction().id, 1)
        [key] = done.nobody.get("/v1/signing-keys").json()["items"]
        assert key["id"] == done.lab.signer.key_id

    def test_a_direction_can_be_cancelled_once_and_again(self, served: Served) -> None:
        known = served.client.post("/v1/directions", json=ASKED).json()["id"]
        for _ in range(2):
            answer = served.client.post(f"/v1/directions/{known}/cancel")
            assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        problem(served.client.post(f"/v1/directions/{UNKNOWN}/cancel"), 404, "not-found")


class TestBadInput:
    @pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=-1", "limit=x", f"limit={10**30}", "cursor=x",
                                       "cursor=", "cursor=%00", "state=odd", "colour=red", "limit=1&limit=2",
                                       "cursor=" + "a" * 5000, "cursor=AAAAAAAAAAAAAAAAAAAAAAAAAAAA"])  # fmt: skip
    def test_an_odd_query_is_refused(self, served: Served, query: str) -> None:
        problem(served.client.get(f"/v1/directions?{query}"), 422, "bad-input")

    @pytest.mark.parametrize("path", ["/healthz", "/v1/models", f"/v1/directions/{UNKNOWN}"])
    def test_no_route_takes_a_name_it_does_not_know(self, served: Served, path: str) -> None:
        problem(served.client.get(f"{path}?a=1"), 422, "bad-input")

    @pytest.mark.parametrize("verb", ["HEAD", "PUT", "DELETE", "PATCH"])
    def test_another_method_is_refused_with_those_that_do(self, served: Served, verb: str) -> None:
        answer = served.client.request(verb, "/v1/models")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")

    @pytest.mark.parametrize("given", ["-1", "x", "1.5", str(2**63)])
    def test_an_odd_place_in_the_events_is_refused(self, done: Served, given: str) -> None:
        path = f"/v1/directions/{names(done)['dir']}/events"
        problem(done.client.get(path, headers={"Last-Event-ID": given}), 422, "bad-input")


class TestLists:
    def make(self, served: Served, count: int) -> list[str]:
        return [served.client.post("/v1/directions", json=ASKED).json()["id"] for _ in range(count)]

    def test_pages_joined_are_the_list_and_each_links_to_the_next(self, served: Served) -> None:
        made, found, path = self.make(served, 5), [], "/v1/directions?limit=2"
        while path:
            answer = served.client.get(path)
            told = answer.json()
            found += [one["id"] for one in told["items"]]
            link = answer.headers.get("link", "")
            assert bool(told["next"]) == bool(link)
            path = link.partition(">")[0].removeprefix("<")
        assert found == made

    def test_a_cursor_is_good_for_its_own_list_only(self, served: Served) -> None:
        self.make(served, 3)
        cursor = served.client.get("/v1/directions?limit=1").json()["next"]
        assert served.client.get(f"/v1/directions?cursor={cursor}").status_code == 200
        for wrong in (f"/v1/reports/summary?cursor={cursor}", f"/v1/directions?state=queued&cursor={cursor}",
                      f"/v1/directions?cursor={cursor[:-1]}", f"/v1/directions?cursor=A{cursor[1:]}"):  # fmt: skip
            assert "cursor" in problem(served.client.get(wrong), 422, "bad-input")["detail"]

    def test_a_list_of_one_state_holds_no_other(self, served: Served) -> None:
        first, *_ = self.make(served, 3)
        served.client.post(f"/v1/directions/{first}/cancel")
        told = served.client.get("/v1/directions?state=cancelled").json()
        assert [one["id"] for one in told["items"]] == [first]

    @pytest.mark.parametrize("state", [None, DirectionState.QUEUED])
    def test_the_last_of_ten_thousand_costs_what_the_first_does(
        self, served: Served, tmp_path: Path, state: DirectionState | None
    ) -> None:
        served.client.post("/v1/directions", json=ASKED)
        sample = served.lab.direction()
        store = migrated(tmp_path / "many.db")
        with store.begin() as tx:
            for number in range(10_000):
                tx.directions.save(dataclasses.replace(sample, id=DirectionId(f"dir_{number:026d}")))
        shelf = browsing.Shelf(store, sample.tenant)
        after, seen = None, 0
        while page := shelf.directions(state, after, 200):
            after, seen = page[-1].id, seen + len(page)
        store.close()
        assert seen == 10_000
        # The plan looks the place up instead of walking to it.
        query = "EXPLAIN QUERY PLAN SELECT * FROM directions WHERE tenant = 't' AND row > 9000 ORDER BY row LIMIT 50"
        if state:
            query = query.replace("row >", "state = 'queued' AND row >")
        with sqlite3.connect(tmp_path / "many.db") as raw:
            [plan] = raw.execute(query)
        raw.close()
        assert plan[3].startswith("SEARCH")
        assert "tenant=?" in plan[3]
        assert "row>?" in plan[3]


class TestLog:
    def path(self, done: Served) -> str:
        return f"/v1/runs/{names(done)['run']}/log"

    @pytest.mark.parametrize(
        ("query", "accept"), [("?follow=true", "*/*"), ("", "text/event-stream"), ("?follow=true", "text/plain")]
    )
    def test_it_is_followed_where_that_is_asked_for(self, done: Served, query: str, accept: str) -> None:
        answer = done.client.get(self.path(done) + query, headers={"Accept": accept})
        assert answer.headers["content-type"].startswith("text/event-stream")
        piece, end = answer.text.split("\n\n")[:2]
        assert '"text": "done"' in piece
        assert end.startswith('event: end\ndata: {"verdict": "succeeded"')
        place = piece.partition("id: ")[2].partition("\n")[0]
        again = done.client.get(self.path(done) + "?follow=true", headers={"Last-Event-ID": place})
        assert again.text == f"{end}\n\n"

    def test_the_kept_log_can_be_asked_for_in_any_case(self, done: Served) -> None:
        answer = done.client.get(self.path(done) + "?follow=false", headers={"Accept": "text/event-stream"})
        assert (answer.headers["content-type"], answer.content) == ("application/octet-stream", b"done")

    def test_of_an_attempt_that_failed_the_end_can_be_downloaded(self, served: Served) -> None:
        served.lab.coder.script[1, 1] = ({"experiment.py": b"raise\n"}, "RUN: Broken | it raises")
        served.client.post("/v1/directions", json=ASKED | {"runs": 1})
        served.lab.go_on(until=lambda: any(run.attempts for run in served.lab.runs() if run.index == 1))
        (run,) = [one for one in served.lab.runs() if one.index == 1]
        answer = served.client.get(f"/v1/runs/{run.id}/log")
        assert answer.status_code == 200
        assert answer.text.endswith("RuntimeError: boom")
        assert answer.headers["x-content-type-options"] == "nosniff"

    def test_no_more_are_followed_than_the_server_holds(self, served: Served) -> None:
        served.client.post("/v1/directions", json=ASKED)
        served.lab.go_on(until=lambda: bool(served.lab.runs()))
        served.feed.streams = 1
        path = f"/v1/runs/{served.lab.runs()[0].id}/log?follow=true"
        problem(served.client.get(path), 429, "too-many-streams")


class TestAsked:
    """What a direction may be asked beside its template."""

    def test_all_of_it_is_kept_and_shown(self, served: Served) -> None:
        asked = {
            "budget": {"usd": 1.5, "usd_per_experiment": 0.5, "usd_per_call": 0.25, "gpu_seconds": 2.0, "wall_s": 3600},
            "priority": -2,
            "strategy": "list",
            "review": {"model": "offline", "reflections": 3, "ensemble": 5, "fewshot": 1},
        }
        known = served.client.post("/v1/directions", json=ASKED | asked)
        assert known.status_code == 202, known.text
        told = served.client.get(f"/v1/directions/{known.json()['id']}").json()
        assert {name: told[name] for name in asked} == asked
        assert told["parent"] is None

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"strategy": "tree"}, "There is no strategy 'tree' yet; there is list."),
            ({"priority": 6}, "priority"), ({"priority": 1.0}, "priority"), ({"priority": True}, "priority"),
            ({"budget": {"gpu_seconds": "1"}}, "budget.gpu_seconds"), ({"budget": {"wall_s": -1}}, "budget.wall_s"),
            ({"budget": {"wall_s": True}}, "budget.wall_s"), ({"review": {"ensemble": 0}}, "review.ensemble"),
            ({"review": {"odd": 1}}, "review.odd"), ({"parent": ""}, "parent"),
            ({"review_model": "a", "review": {"model": "b"}}, "two models"),
            ({"model": "gpt-none"}, "The price of the model 'gpt-none' is not known, so its cost could not be capped."),
            ({"review_model": "offline-2"}, "The price of the model 'offline-2' is not known"),
            ({"review": {"model": "vertex/x"}}, "The price of the model 'vertex/x' is not known"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_one_sentence(self, served: Served, asked: dict[str, Any], said: str) -> None:
        told = problem(served.client.post("/v1/directions", json=ASKED | asked), 422, "bad-input")
        assert said in told["detail"]
        assert served.lab.steps() == ()

    @pytest.mark.parametrize("allowed", [False, True])
    def test_a_model_is_one_that_the_admin_s_table_knows(self, tmp_path: Path, *, allowed: bool) -> None:
        own = tmp_path / "models.toml"
        own.write_text('[models.mine]\nupstream = "anthropic"\ncalled = "theirs"\ninput = 1.0\noutput = 2.0\n')
        made = Served(tmp_path / "served", models=Models.shipped(str(own), allow_unknown=allowed))
        try:
            names = [one["name"] for one in made.client.get("/v1/models").json()["items"]]
            assert "mine" in names
            # No key is asked for: whether there is one is the gateway's to know.
            assert made.client.post("/v1/directions", json=ASKED | {"model": "mine"}).status_code == 202
            unpriced = made.client.post("/v1/directions", json=ASKED | {"model": "vertex/other"})
            assert unpriced.status_code == (202 if allowed else 422)
        finally:
            made.lab.artifacts.close()

    def test_a_parent_is_a_confirmed_experiment_of_ones_own(self, served: Served) -> None:
        served.client.post("/v1/directions", json=ASKED | {"ideas": 1})
        served.lab.go_on()
        key = names(served)["exp"]
        told = problem(served.client.post("/v1/directions", json=ASKED | {"parent": key}), 409, "conflict")
        assert "must be confirmed" in told["detail"]
        foreign = TestClient(
            served.app,
            raise_server_exceptions=False,
            headers={"Authorization": f"Bearer {key_of_another(served)}"},
        )
        problem(foreign.post("/v1/directions", json=ASKED | {"parent": key}), 404, "not-found")
        problem(served.client.post("/v1/directions", json=ASKED | {"parent": ABSENT["exp"]}), 404, "not-found")
        found = served.lab.experiments()[0]
        served.lab.save(dataclasses.replace(found, outcome=ExperimentOutcome.CONFIRMED))
        answer = served.client.post("/v1/directions", json=ASKED | {"parent": key})
        assert (answer.status_code, answer.json()["parent"]) == (202, key)

    def test_another_budget_lets_go_on_what_the_old_one_held(self, served: Served) -> None:
        made = served.client.post("/v1/directions", json=ASKED | {"ideas": 1, "budget": {"wall_s": 0}}).json()
        path = f"/v1/directions/{made['id']}"
        served.lab.go_on()
        assert served.client.get(path).json()["hold"] == "over_budget"
        told = served.client.put(f"{path}/budget", json={"wall_s": 1e6}).json()
        assert (told["hold"], told["budget"]["wall_s"]) == ("none", 1e6)
        served.lab.go_on()
        assert served.client.get(path).json()["state"] == "done"
        problem(served.client.put(f"{path}/budget", json={}), 409, "conflict")
        noted = served.client.get("/v1/admin/audit?limit=200").json()["items"]
        assert [one["detail"]["wall_s"] for one in noted if one["action"] == "direction.budget"] == [1e6]


def key_of_another(served: Served) -> str:
    owner = tenants.create(served.lab.store, served.lab.clock, "test", "another")
    return keys.issue(
        served.lab.store, served.lab.clock, "test", tenant=owner.id, name="", scopes=(Scope.READ, Scope.WRITE)
    )[1]


class TestFork:
    def path(self, done: Served) -> str:
        return f"/v1/experiments/{done.lab.experiments()[0].id}/fork"

    def test_it_is_made_once_shown_as_one_and_written_down(self, served: Served) -> None:
        served.client.post("/v1/directions", json=ASKED | {"ideas": 1})
        served.lab.go_on()
        source = served.lab.experiments()[0].id
        asked = {"from": "writing", "edits": {"notes": "The circle gained most."}}
        once = {"Idempotency-Key": "one"}
        first, again = (
            served.client.post(f"/v1/experiments/{source}/fork", json=asked, headers=once) for _ in range(2)
        )
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json() == again.json()
        assert again.headers["idempotent-replayed"] == "true"
        told = first.json()
        assert (told["forked_from"], told["from_step"], told["edited"]) == (source, "writing", ["notes"])
        noted = served.client.get("/v1/admin/audit?limit=200").json()["items"]
        [entry] = [one for one in noted if one["action"] == "experiment.forked"]
        assert (entry["subject"], entry["detail"]["from"]) == (told["id"], "writing")
        served.lab.go_on()
        assert served.client.get(f"/v1/experiments/{told['id']}").json()["state"] == "done"

    @pytest.mark.parametrize(
        "asked",
        [
            {}, {"from": "x"}, {"from": "writing", "edits": {"odd": 1}}, {"from": 1}, {"from": "run_9"},
            {"from": "run_1", "edits": {"files": {"experiment.py": "\0"}}}, {"from": "writing", "edits": {"plan": " "}},
            {"from": "run_1", "edits": {"files": {"evaluate.py": "x"}}}, {"from_step": "writing"},
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_refused(self, done: Served, asked: dict[str, Any]) -> None:
        problem(done.client.post(self.path(done), json=asked), 422, "bad-input")

    def test_one_under_way_is_refused(self, served: Served) -> None:
        served.client.post("/v1/directions", json=ASKED | {"ideas": 1})
        served.lab.go_on(until=lambda: bool(served.lab.experiments()))
        problem(served.client.post(self.path(served), json={"from": "run_1"}), 409, "conflict")


class TestFiles:
    def listed(self, done: Served) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = done.client.get(
            f"/v1/experiments/{names(done)['exp']}/artifacts?limit=200"
        ).json()["items"]
        return found

    def test_each_file_comes_as_a_safe_download_with_its_hash(self, done: Served) -> None:
        for one in self.listed(done):
            answer = done.client.get(f"/v1/artifacts/{one['id']}")
            assert hashlib.sha256(answer.content).hexdigest() == one["sha256"]
            assert answer.headers["etag"] == f'"{one["sha256"]}"'
            assert answer.headers["content-disposition"].startswith("attachment; filename=")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
            made_here = one["path"] == "paper.pdf" or one["path"] in browsing.JSON_PRODUCTS
            assert (answer.headers["content-type"] == "application/octet-stream") is not made_here

    def test_a_part_can_be_asked_for_and_what_is_known_is_not_sent(self, done: Served) -> None:
        path = f"/v1/experiments/{names(done)['exp']}/paper"
        whole = done.client.get(path)
        part = done.client.get(path, headers={"Range": "bytes=2-4"})
        assert (part.status_code, part.content) == (206, whole.content[2:5])
        assert done.client.get(path, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
        problem(done.client.get(path, headers={"Range": "bytes=99999999-"}), 416, "range-not-satisfiable")
        for odd in ("bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,3-4", "x"):
            assert done.client.get(path, headers={"Range": odd}).content == whole.content

    @pytest.mark.parametrize("odd", ["x", "art_" + "0" * 26 + "_" + "0" * 32, "0" * 64, "%00"])
    def test_an_unknown_file_is_not_found(self, done: Served, odd: str) -> None:
        problem(done.client.get(f"/v1/artifacts/{odd}"), 404, "not-found")

    def test_the_source_is_whole_and_the_same_each_time(self, done: Served) -> None:
        path = f"/v1/experiments/{names(done)['exp']}/paper/source"
        first, again = done.client.get(path), done.client.get(path)
        assert first.content == again.content
        with zipfile.ZipFile(io.BytesIO(first.content)) as packed:
            assert "main.tex" in packed.namelist()


class TestEvents:
    def numbers(self, text: str) -> list[int]:
        return [int(line[4:]) for line in text.splitlines() if line.startswith("id: ")]

    def test_a_finished_direction_is_told_to_its_end(self, done: Served) -> None:
        answer = done.client.get(f"/v1/directions/{names(done)['dir']}/events")
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert self.numbers(answer.text) == [one.seq for one in done.lab.events()]
        assert answer.text.endswith("event: end\ndata: {}\n\n")

    def test_a_reader_resumes_in_the_middle(self, done: Served) -> None:
        all_of_it = [one.seq for one in done.lab.events()]
        path = f"/v1/directions/{names(done)['dir']}/events"
        answer = done.client.get(path, headers={"Last-Event-ID": str(all_of_it[2])})
        assert self.numbers(answer.text) == all_of_it[3:]

    def test_without_following_what_there_is_is_told(self, served: Served) -> None:
        known = served.client.post("/v1/directions", json=ASKED).json()["id"]
        answer = served.client.get(f"/v1/directions/{known}/events?follow=false")
        assert answer.status_code == 200
        assert "event: end" not in answer.text
