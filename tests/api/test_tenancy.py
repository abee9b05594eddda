"""Who sees what and may do what: other tenants' things are not there, scopes hold, quotas and rates are exact."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from limits.errors import StorageError
from limits.storage import MemoryStorage

from api import door
from api.app import create_app
from api.rates import Rates
from fumehood.domain.direction import Hold
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import LedgerEntry
from fumehood.domain.reply import KEPT_S
from fumehood.domain.tenant import LOCAL_TENANT, PLATFORM, Scope
from fumehood.services import audit, keys, tenants
from fumehood.services.replies import FORGOTTEN_AT_ONCE
from fumehood.store.clock import SystemClock
from fumehood.store.sql import SqlStore
from tests.api.test_api import ASKED, KEY, Hints, Served, problem
from tests.api.test_reading import names
from tests.fakes.laboratory import Laboratory
from tests.fakes.postgres import PostgresServer
from tests.fakes.store import migrated

ALL = tuple(Scope)
AWAY = StorageError(ConnectionError("refused"))


def key_of(lab: Laboratory, tenant: str, *scopes: Scope) -> str:
    """Return a key of a tenant, who is made where there is none of that name."""
    with lab.store.begin(write=False) as tx:
        found = tx.tenants.find(name=tenant)
    owner = found[0] if found else tenants.create(lab.store, lab.clock, "test", tenant)
    return keys.issue(lab.store, lab.clock, "test", tenant=owner.id, name="", scopes=scopes or ALL)[1]


def as_holder(served: Served, key: str) -> TestClient:
    return TestClient(served.app, raise_server_exceptions=False, headers={"Authorization": f"Bearer {key}"})


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


class TestTenants:
    def test_nothing_of_another_tenant_is_there(self, done: Served) -> None:
        """Every operation with an id in its path, asked with the ids of somebody else's finished direction."""
        foreign = as_holder(done, key_of(done.lab, "foreign"))
        ids = {f"{kind}_id": key for kind, key in names_of_all(done).items()}
        asked = 0
        for path, operations in done.app.openapi()["paths"].items():
            if "{" not in path or path.startswith("/v1/admin"):
                continue
            place = path.format(**ids)
            for verb, operation in operations.items():
                body = sample_body(done, operation)
                theirs = done.client.request(verb, place, json=body) if verb == "get" else None
                ours = foreign.request(verb, place, json=body)
                problem(ours, 404, "not-found")
                assert theirs is None or theirs.status_code == 200, (verb, place)
                assert not any(key in ours.text for key in ids.values()), (verb, place)
                asked += 1
        assert asked > 20

    @pytest.mark.parametrize("path", ["/v1/directions", "/v1/reports/summary"])
    def test_lists_hold_ones_own_only(self, done: Served, path: str) -> None:
        foreign = as_holder(done, key_of(done.lab, "foreign"))
        assert foreign.get(path).json() == {"items": [], "next": None}
        assert len(done.client.get(path).json()["items"]) == 1

    def test_a_foreign_cursor_and_a_foreign_key_for_once_change_nothing(self, served: Served) -> None:
        foreign = as_holder(served, key_of(served.lab, "foreign"))
        once = {"Idempotency-Key": "the-same"}
        mine = served.client.post("/v1/directions", json=ASKED, headers=once).json()
        theirs = foreign.post("/v1/directions", json=ASKED, headers=once)
        assert theirs.status_code == 202
        assert theirs.json()["id"] != mine["id"]
        assert [one["id"] for one in foreign.get("/v1/directions").json()["items"]] == [theirs.json()["id"]]


def names_of_all(served: Served) -> dict[str, str]:
    found = names(served)
    artifact = served.client.get(f"/v1/experiments/{found['exp']}/artifacts").json()["items"][0]["id"]
    idea = served.lab.ideas()[0].id
    return {
        "direction": found["dir"], "experiment": found["exp"], "run": found["run"], "artifact": artifact, "idea": idea
    }  # fmt: skip


def sample_body(served: Served, operation: dict[str, Any]) -> Any:
    """Return the example of what an operation takes."""
    if "requestBody" not in operation:
        return None
    shape = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return served.app.openapi()["components"]["schemas"][shape]["examples"][0]


class TestScopes:
    @pytest.mark.parametrize(
        ("scopes", "allowed"),
        [
            ((Scope.READ,), {"read"}),
            ((Scope.WRITE,), {"write"}),
            ((Scope.ADMIN,), {"admin"}),
            ((Scope.READ, Scope.WRITE), {"read", "write"}),
        ],
    )
    def test_a_key_opens_what_its_scopes_say(
        self, served: Served, scopes: tuple[Scope, ...], allowed: set[str]
    ) -> None:
        client = as_holder(served, key_of(served.lab, "lab", *scopes))
        answers = {
            "read": client.get("/v1/directions"),
            "write": client.post("/v1/directions", json=ASKED),
            "admin": client.get("/v1/admin/tenants"),
        }
        for name, answer in answers.items():
            if name in allowed:
                assert answer.status_code < 300, answer.text
            else:
                assert name in problem(answer, 403, "forbidden")["detail"]

    def test_every_route_of_administration_asks_for_its_scope(self, served: Served) -> None:
        client = as_holder(served, key_of(served.lab, "lab", Scope.READ, Scope.WRITE))
        paths = [path for path in served.app.openapi()["paths"] if path.startswith("/v1/admin")]
        assert len(paths) > 9
        for path in paths:
            for verb in served.app.openapi()["paths"][path]:
                problem(client.request(verb, path), 403, "forbidden")


class TestKeys:
    def test_a_key_is_shown_once_rotated_and_revoked(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(door, "KNOWN_S", 0.0)
        asked = {"tenant": "local", "name": "ci", "scopes": ["read"]}
        issued = served.client.post("/v1/admin/keys", json=asked).json()
        assert issued["key"].startswith("fh_")
        assert served.client.get("/v1/admin/keys").text.count(issued["key"]) == 0
        assert as_holder(served, issued["key"]).get("/v1/directions").status_code == 200
        rotated = served.client.post(f"/v1/admin/keys/{issued['id']}/rotate").json()
        for key in (issued["key"], rotated["key"]):
            assert as_holder(served, key).get("/v1/directions").status_code == 200
        served.lab.clock.advance(keys.OVERLAP_S + 1)
        problem(as_holder(served, issued["key"]).get("/v1/directions"), 401, "unauthorised")
        assert as_holder(served, rotated["key"]).get("/v1/directions").status_code == 200
        revoked = served.client.delete(f"/v1/admin/keys/{rotated['id']}").json()
        assert revoked["revoked_at"]
        problem(as_holder(served, rotated["key"]).get("/v1/directions"), 401, "unauthorised")
        assert served.client.delete(f"/v1/admin/keys/{rotated['id']}").json() == revoked
        problem(served.client.post(f"/v1/admin/keys/{rotated['id']}/rotate"), 409, "conflict")

    def test_no_text_of_a_key_is_kept(self, tmp_path: Path) -> None:
        store = migrated(tmp_path / "store.db")
        text = keys.first(store, SystemClock())
        assert text
        assert keys.first(store, SystemClock()) is None
        store.close()
        kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert text.split("_", 2)[2].encode() not in kept

    def test_a_key_that_the_environment_gives_takes_the_place_of_the_one_before(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(door, "KNOWN_S", 0.0)
        lab, other = served.lab, "n" * 40
        client = as_holder(served, other)
        (mine,) = served.client.get("/v1/admin/keys").json()["items"]
        issued = served.client.post("/v1/admin/keys", json={"tenant": "local", "scopes": ["read"]}).json()
        rotated = served.client.post(f"/v1/admin/keys/{mine['id']}/rotate").json()
        keys.first(lab.store, lab.clock, KEY)
        assert as_holder(served, rotated["key"]).get("/v1/directions").status_code == 200
        for _ in range(2):
            keys.first(lab.store, lab.clock, other)
        for gone in (KEY, rotated["key"]):
            problem(as_holder(served, gone).get("/v1/directions"), 401, "unauthorised")
        assert as_holder(served, issued["key"]).get("/v1/directions").status_code == 200
        given = client.get("/v1/admin/keys").json()["items"][-1]["id"]
        told = [(one["action"], one["subject"]) for one in client.get("/v1/admin/audit").json()["items"]]
        assert told[-3:] == [("key.issued", given), ("key.revoked", mine["id"]), ("key.revoked", rotated["id"])]
        # What was revoked stays so, and opens no way back to revoking the one that is in its place.
        keys.first(lab.store, lab.clock, KEY)
        assert client.get("/v1/admin/keys").status_code == 200

    def test_no_other_key_has_the_name_of_that_one(self, served: Served) -> None:
        asked = {"tenant": "local", "name": "FUMEHOOD_API_KEY", "scopes": ["read"]}
        problem(served.client.post("/v1/admin/keys", json=asked), 422, "bad-input")

    def test_a_key_asked_for_twice_is_made_once_and_not_shown_again(self, served: Served) -> None:
        asked = {"tenant": "local", "name": "ci", "scopes": ["read"]}
        once = {"Idempotency-Key": "one"}
        assert served.client.post("/v1/admin/keys", json=asked, headers=once).status_code == 201
        told = problem(served.client.post("/v1/admin/keys", json=asked, headers=once), 409, "conflict")
        assert "rotate" in told["detail"]

    def test_a_rotation_sent_again_makes_no_second_key(self, served: Served) -> None:
        asked = {"tenant": "local", "name": "ci", "scopes": ["read"]}
        issued = served.client.post("/v1/admin/keys", json=asked).json()
        once = {"Idempotency-Key": "one"}
        rotated = served.client.post(f"/v1/admin/keys/{issued['id']}/rotate", headers=once)
        assert rotated.status_code == 201
        told = problem(served.client.post(f"/v1/admin/keys/{issued['id']}/rotate", headers=once), 409, "conflict")
        assert rotated.json()["id"] in told["detail"]
        assert len(served.client.get("/v1/admin/keys").json()["items"]) == 3


class TestTokens:
    def test_a_token_is_revoked_once_and_the_audit_says_by_whom(self, served: Served) -> None:
        token = "tok_" + "1" * 26
        for once in ({"Idempotency-Key": "one"}, {"Idempotency-Key": "one"}, {}):
            told = served.client.post(f"/v1/admin/tokens/{token}/revoke", headers=once)
            assert (told.status_code, told.json()) == (200, {"id": token, "at": served.lab.clock.now()})
        entries = served.client.get("/v1/admin/audit").json()["items"]
        [entry] = [one for one in entries if one["action"] == "token.revoked"]
        assert (entry["subject"], entry["actor"][:4]) == (token, "key_")
        problem(served.client.post("/v1/admin/tokens/tok_1/revoke"), 404, "not-found")

    def test_usage_tells_the_kinds_of_tokens_apart(self, served: Served) -> None:
        line = LedgerEntry(
            id="evt_1", call_id="call_1", tenant=LOCAL_TENANT, direction_id=DirectionId("dir_1"), kind="settled",
            role="idea", model="m", usd=0.5, tokens=17, input_tokens=10, cached_tokens=4, output_tokens=3,
        )  # fmt: skip
        with served.lab.store.begin() as tx:
            tx.ledger.add(line)
        total = served.client.get("/v1/usage").json()["total"]
        assert [total[name] for name in ("tokens", "input_tokens", "cached_tokens", "output_tokens")] == [17, 10, 4, 3]


class TestOnce:
    def test_the_same_key_is_one_direction_and_another_request_is_refused(self, served: Served) -> None:
        once = {"Idempotency-Key": "abc"}
        first = served.client.post("/v1/directions", json=ASKED, headers=once)
        again = served.client.post("/v1/directions", json=ASKED, headers=once)
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json() == again.json()
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        told = problem(served.client.post("/v1/directions", json=ASKED | {"ideas": 1}, headers=once), 422, "bad-input")
        assert "Idempotency-Key" in told["detail"]
        assert len(served.client.get("/v1/directions").json()["items"]) == 1

    def test_every_post_takes_a_key(self, served: Served) -> None:
        posts = {path: each["post"] for path, each in served.app.openapi()["paths"].items() if "post" in each}
        assert len(posts) > 15
        for path, operation in posts.items():
            assert "Idempotency-Key" in {one["name"].title() for one in operation.get("parameters", ())}, path

    def test_a_decision_that_is_sent_again_later_does_not_undo_the_one_after_it(self, served: Served) -> None:
        known = served.client.post("/v1/directions", json=ASKED | {"ideas": 1}).json()["id"]
        served.lab.go_on_to("code")
        experiment, idea = served.lab.experiments()[0].id, served.lab.ideas()[0].id
        for place, first, then in (
            (f"/v1/directions/{known}", "pause", "resume"),
            (f"/v1/experiments/{experiment}", "pause", "resume"),
            (f"/v1/experiments/{experiment}", "resume", "pause"),
            (f"/v1/ideas/{idea}", "approve", "approve"),
            ("/v1/admin", "pause", "resume"),
            ("/v1/admin", "resume", "pause"),
        ):
            body = {"json": {}} if place == "/v1/admin" else {}
            once = {"Idempotency-Key": f"{place} {first}".replace(" ", "/")}
            assert served.client.post(f"{place}/{first}", headers=once, **body).status_code == 200
            later = served.client.post(f"{place}/{then}", **body).json()
            again = served.client.post(f"{place}/{first}", headers=once, **body)
            assert (again.status_code, again.json()) == (200, later), place
            assert again.headers["idempotent-replayed"] == "true"
        once = {"Idempotency-Key": "cancel"}
        told = [served.client.post(f"/v1/directions/{known}/cancel", headers=once) for _ in range(2)]
        assert told[0].json() == told[1].json()
        assert told[1].headers["idempotent-replayed"] == "true"

    def test_what_is_too_old_to_be_asked_for_is_not_kept(self, served: Served) -> None:
        for number in range(60):
            asked = {"Idempotency-Key": f"old-{number}"}
            assert served.client.post("/v1/admin/resume", json={}, headers=asked).status_code == 200
        served.lab.clock.advance(KEPT_S + 1)
        left = []
        for number in range(3):
            served.client.post("/v1/admin/resume", json={}, headers={"Idempotency-Key": f"new-{number}"})
            with served.lab.store.begin(write=False) as tx:
                left.append(tx.replies.count())
        assert left == [61 - FORGOTTEN_AT_ONCE, 62 - 2 * FORGOTTEN_AT_ONCE, 3]

    @pytest.mark.parametrize("key", ["", "a b", "x" * 201, "\N{LATIN SMALL LETTER E WITH ACUTE}"])
    def test_an_odd_key_is_refused(self, served: Served, key: str) -> None:
        answer = served.client.post("/v1/directions", json=ASKED, headers={"Idempotency-Key": key.encode()})
        problem(answer, 422, "bad-input")


class Real:
    """The application on a real database, asked by many at once."""

    def __init__(self, folder: Path, store: SqlStore) -> None:
        self.lab = Laboratory(folder, store=store)
        self.store = store
        keys.first(store, self.lab.clock, KEY)
        self.app = create_app(
            store, self.lab.artifacts, self.lab.clock, Hints(), shipped=folder / "shipped", cursor_key=b"c" * 32,
            rates=Rates.alone("100000/minute", "100000/minute"), public_keys=dict,
        )  # fmt: skip
        self.client = TestClient(self.app, headers={"Authorization": f"Bearer {KEY}"})

    def submit_at_once(self, times: int, **headers: str) -> list[httpx.Response]:
        with self.client, ThreadPoolExecutor(20) as pool:
            return list(
                pool.map(lambda _: self.client.post("/v1/directions", json=ASKED, headers=headers), range(times))
            )


@pytest.fixture(params=["sqlite", "postgresql"])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Real]:
    if request.param == "sqlite":
        store = migrated(tmp_path / "store.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        store = SqlStore(server.migrated())
    made = Real(tmp_path, store)
    yield made
    store.close()
    made.lab.artifacts.close()


class TestAtOnce:
    def test_of_two_hundred_submits_a_quota_of_five_lets_five_in(self, real: Real) -> None:
        tenants.set_quotas(real.store, real.lab.clock, "test", LOCAL_TENANT, {"directions": 5})
        answers = real.submit_at_once(200)
        assert sorted({answer.status_code for answer in answers}) == [202, 402]
        assert sum(answer.status_code == 202 for answer in answers) == 5
        assert "5 directions at once" in next(one for one in answers if one.status_code == 402).json()["detail"]
        with real.store.begin(write=False) as tx:
            assert tx.directions.count() == 5

    def test_the_same_key_fifty_times_is_one_direction(self, real: Real) -> None:
        answers = real.submit_at_once(50, **{"Idempotency-Key": "same"})
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        with real.store.begin(write=False) as tx:
            assert (tx.directions.count(), len(tx.steps.find())) == (1, 1)


class Broken(MemoryStorage):
    """A counter that is away while it is told so."""

    is_away = False

    def get_sliding_window(self, *given: Any, **named: Any) -> Any:
        if self.is_away:
            raise AWAY
        return super().get_sliding_window(*given, **named)

    def acquire_sliding_window_entry(self, *given: Any, **named: Any) -> Any:
        if self.is_away:
            raise AWAY
        return super().acquire_sliding_window_entry(*given, **named)


class TestRates:
    @pytest.fixture
    def make(self, tmp_path: Path) -> Iterator[Callable[[Rates], TestClient]]:
        lab = Laboratory(tmp_path)
        keys.first(lab.store, lab.clock, KEY)

        def made(rates: Rates) -> TestClient:
            app = create_app(
                lab.store, lab.artifacts, lab.clock, Hints(), shipped=tmp_path / "shipped", cursor_key=b"c" * 32,
                rates=rates, public_keys=dict,
            )  # fmt: skip
            return TestClient(app, headers={"Authorization": f"Bearer {KEY}"})

        yield made
        lab.artifacts.close()

    def test_reads_and_writes_are_counted_apart_and_told(self, make: Callable[[Rates], TestClient]) -> None:
        client = make(Rates.alone("2/hour", "1/hour"))
        first = client.get("/v1/directions")
        assert (first.headers["ratelimit-limit"], first.headers["ratelimit-remaining"]) == ("2", "1")
        assert 0 < int(first.headers["ratelimit-reset"]) <= 3600
        assert client.post("/v1/directions", json=ASKED).status_code == 202
        refused = client.post("/v1/directions", json=ASKED)
        assert "1 write requests" in problem(refused, 429, "too-many-requests")["detail"]
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/v1/directions").status_code == 200
        problem(client.get("/v1/directions"), 429, "too-many-requests")
        assert client.get("/healthz").status_code == 200

    def test_without_its_counter_reads_pass_and_writes_wait(self, make: Callable[[Rates], TestClient]) -> None:
        storage = Broken()
        client = make(Rates(storage, "100/minute", "100/minute"))
        assert client.post("/v1/directions", json=ASKED).status_code == 202
        storage.is_away = True
        assert client.get("/v1/directions").status_code == 200
        refused = client.post("/v1/directions", json=ASKED)
        problem(refused, 503, "unavailable")
        assert refused.headers["retry-after"] == "5"
        assert len(client.get("/v1/directions").json()["items"]) == 1


class TestAdministration:
    def test_quotas_budgets_and_usage(self, served: Served) -> None:
        client = served.client
        made = client.post("/v1/admin/tenants", json={"name": "vision"})
        assert made.status_code == 201
        problem(client.post("/v1/admin/tenants", json={"name": "vision"}), 409, "conflict")
        told = client.put("/v1/admin/quotas/vision", json={"runs": 4, "tokens_day": 1000}).json()
        assert told["quotas"] == {"runs": 4.0, "tokens_day": 1000.0}
        told = client.put("/v1/admin/budgets/vision", json={"usd_day": 5}).json()
        assert told["quotas"] == {"runs": 4.0, "tokens_day": 1000.0, "usd_day": 5.0}
        told = client.put(f"/v1/admin/quotas/{made.json()['id']}", json={"runs": None}).json()
        assert told["quotas"] == {"tokens_day": 1000.0, "usd_day": 5.0}
        for odd in ({"lunch": 1}, {"runs": -1}, {"usd": 1}):
            problem(client.put("/v1/admin/quotas/vision", json=odd), 422, "bad-input")
        problem(client.put("/v1/admin/quotas/nobody", json={}), 404, "not-found")
        assert [one["name"] for one in client.get("/v1/admin/usage").json()["items"]] == ["local", "vision"]
        assert [one["name"] for one in client.get("/v1/admin/usage?tenant=vision").json()["items"]] == ["vision"]
        problem(client.get("/v1/admin/usage?tenant=nobody"), 404, "not-found")
        assert client.get("/v1/usage").json()["name"] == "local"

    def test_each_change_stands_in_the_audit_with_who_made_it(self, served: Served) -> None:
        direction = served.client.post("/v1/directions", json=ASKED).json()["id"]
        served.client.post(f"/v1/directions/{direction}/pause")
        served.client.post(f"/v1/directions/{direction}/feedback", json={"text": "Look closer."})
        served.client.post(f"/v1/directions/{direction}/cancel")
        served.client.post("/v1/admin/pause", json={"kill": True})
        served.client.post("/v1/admin/resume", json={})
        found = served.client.get("/v1/admin/audit").json()["items"]
        assert [one["action"] for one in found] == [
            "tenant.created", "key.issued", "direction.submitted", "direction.paused", "feedback.given",
            "direction.cancelled", "work.killed", "work.resumed",
        ]  # fmt: skip
        with served.lab.store.begin(write=False) as tx:
            (mine,) = tx.keys.find()
        assert [one["actor"] for one in found] == [PLATFORM] * 2 + [mine.id] * 6
        assert {one["seal"] for one in found} == {""}
        assert audit.seal(served.lab.store) == 8
        assert audit.verify(served.lab.store).entries == 8
        first, second = served.client.get("/v1/admin/audit?limit=2").json()["items"]
        assert first["seal"] != second["seal"] != ""
        page = served.client.get("/v1/admin/audit?limit=2").json()["next"]
        for query in (f"limit=2&cursor={page}", f"after={second['seq']}"):
            assert served.client.get(f"/v1/admin/audit?{query}").json()["items"][0]["action"] == "direction.submitted"

    def test_the_audit_is_verified_up_to_its_head(self, served: Served, caplog: pytest.LogCaptureFixture) -> None:
        place, store = "/v1/admin/audit/verify", served.lab.store
        assert served.client.get(place).json() == {"entries": 0, "seq": 0, "seal": "", "head": ""}
        with caplog.at_level(logging.INFO, "fumehood.audit"):
            audit.seal(store)
        early = served.client.get(place).json()
        assert (early["entries"], early["seq"], early["head"]) == (2, 2, f"2:{early['seal']}")
        assert early["head"] in caplog.text
        served.client.post("/v1/admin/pause", json={})
        assert served.client.get(place).json() == early
        audit.seal(store)
        late = served.client.get(place, params={"head": early["head"]}).json()
        assert (late["entries"], late["seq"]) == (3, 3)
        for odd in ("3", "3:", "x:" + "0" * 64, "3:" + "0" * 63):
            problem(served.client.get(place, params={"head": odd}), 422, "bad-input")
        # Its last entry is taken out, and another is written in the place of it.
        del store._tables.audit[2:]
        assert served.client.get(place).json() == early
        for cut in (False, True):
            told = problem(served.client.get(place, params={"head": late["head"]}), 409, "tampered")
            assert "entry 3" in told["detail"], cut
            served.client.post("/v1/admin/resume", json={})
            audit.seal(store)
        store._tables.audit[0] = dataclasses.replace(store._tables.audit[0], actor="nobody")
        assert "entry 1" in problem(served.client.get(place), 409, "tampered")["detail"]


class TestDecisions:
    def test_ideas_wait_for_approval_and_only_those_approved_are_carried_out(self, served: Served) -> None:
        client, lab = served.client, served.lab
        direction = client.post("/v1/directions", json=ASKED | {"approve": "ideas"}).json()["id"]
        lab.go_on()
        assert client.get(f"/v1/directions/{direction}").json()["hold"] == "approval"
        first, second = client.get(f"/v1/directions/{direction}/ideas").json()["items"]
        assert {first["decision"], second["decision"]} == {"open"}
        client.post(f"/v1/ideas/{first['id']}/reject")
        lab.go_on()
        assert lab.experiments() == ()
        assert client.post(f"/v1/ideas/{second['id']}/approve").json()["decision"] == "approved"
        lab.go_on()
        assert client.get(f"/v1/directions/{direction}").json()["state"] == "done"
        assert [one.name for one in lab.experiments()] == [second["name"]]
        problem(client.post(f"/v1/ideas/{first['id']}/approve"), 409, "conflict")

    def test_each_step_waits_where_each_is_approved(self, served: Served) -> None:
        client, lab = served.client, served.lab
        direction = client.post("/v1/directions", json=ASKED | {"ideas": 1, "approve": "every_step"}).json()["id"]
        lab.go_on()
        (idea,) = client.get(f"/v1/directions/{direction}/ideas").json()["items"]
        client.post(f"/v1/ideas/{idea['id']}/approve")
        held = []
        for _ in range(30):
            lab.go_on()
            (experiment,) = lab.experiments()
            if experiment.is_final:
                break
            assert experiment.hold is Hold.APPROVAL
            held.append(experiment.state.value)
            client.post(f"/v1/experiments/{experiment.id}/resume")
        assert experiment.state.value == "done"
        assert {"coding", "running", "plotting", "writing", "reviewing"} <= set(held)

    def test_an_approval_that_is_sent_again_approves_one_step(self, served: Served) -> None:
        client, lab = served.client, served.lab
        direction = client.post("/v1/directions", json=ASKED | {"ideas": 1, "approve": "every_step"}).json()["id"]
        lab.go_on()
        (idea,) = client.get(f"/v1/directions/{direction}/ideas").json()["items"]
        client.post(f"/v1/ideas/{idea['id']}/approve")
        lab.go_on()
        place, states = f"/v1/experiments/{lab.experiments()[0].id}/resume", []
        for _ in range(3):
            client.post(place, headers={"Idempotency-Key": "one"})
            lab.go_on()
            states.append(lab.experiments()[0].state)
        assert len(set(states)) == 1
        assert lab.experiments()[0].hold is Hold.APPROVAL
        client.post(place, headers={"Idempotency-Key": "two"})
        lab.go_on()
        assert lab.experiments()[0].state is not states[0]

    def test_a_persons_own_idea_is_carried_out(self, served: Served) -> None:
        client, lab = served.client, served.lab
        direction = client.post("/v1/directions", json=ASKED | {"ideas": 1}).json()["id"]
        lab.go_on_to("begin_experiment")
        own = {"title": "Scale by three", "experiment": "Multiply by three."}
        once = {"Idempotency-Key": "own"}
        for _ in range(2):
            assert client.post(f"/v1/directions/{direction}/ideas", json=own, headers=once).status_code == 201
        lab.go_on()
        assert client.get(f"/v1/directions/{direction}").json()["state"] == "done"
        ideas = client.get(f"/v1/directions/{direction}/ideas").json()["items"]
        assert [one["scored_by"] for one in ideas][-1] == "person"
        assert [one.name for one in lab.experiments()][-1] == "scale_by_three"
        assert len(ideas) == 2
        problem(client.post(f"/v1/directions/{direction}/ideas", json=own), 409, "conflict")

    def test_what_a_person_says_is_read_by_the_next_call_for_code_and_ideas(self, served: Served) -> None:
        client, lab = served.client, served.lab
        direction = client.post("/v1/directions", json=ASKED | {"ideas": 1}).json()["id"]
        client.post(f"/v1/directions/{direction}/feedback", json={"text": "Mind the <b>thin</b> shapes."})
        lab.go_on_to("code")
        (experiment,) = lab.experiments()
        client.post(f"/v1/experiments/{experiment.id}/feedback", json={"text": "Keep it simple."})
        lab.go_on()
        idea = next(call for call in lab.model.calls if call.claims.role == "idea")
        code = lab.coder.calls[0]
        assert "Mind the" in idea.prompt
        assert "Keep it simple." not in idea.prompt
        assert "Mind the" in code.prompt
        assert "Keep it simple." in code.prompt

    def test_a_paused_experiment_stands_still_and_goes_on_where_it_stood(self, served: Served) -> None:
        client, lab = served.client, served.lab
        client.post("/v1/directions", json=ASKED | {"ideas": 1})
        lab.go_on_to("code")
        (experiment,) = lab.experiments()
        client.post(f"/v1/experiments/{experiment.id}/pause")
        lab.go_on()
        assert lab.experiments()[0].state is experiment.state
        client.post(f"/v1/experiments/{experiment.id}/resume")
        lab.go_on()
        assert lab.experiments()[0].state.value == "done"
        problem(client.post(f"/v1/experiments/{experiment.id}/pause"), 409, "conflict")


def test_a_tenant_of_no_row_has_no_limits(served: Served) -> None:
    tenant, *_ = tenants.usage(served.lab.store, served.lab.clock, TenantId("ten_" + "1" * 26))
    assert dataclasses.asdict(tenant)["quotas"] == {}
