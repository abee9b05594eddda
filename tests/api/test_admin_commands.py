"""`fumehood admin ...` says over HTTP what was meant, and prints what the server answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fumehood.cli.main import main
from tests.fakes.serving import Recorder, serving

TENANT, KEY = "ten_" + "0" * 26, "key_" + "0" * 26
TOKEN = "tok_" + "0" * 26
HELD = "dir_" + "0" * 26
PAGE = {"items": [{"id": TENANT, "name": "physics"}], "next": None}


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def say(
    recorder: Recorder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    with serving(recorder) as port:

        def command(*words: str) -> tuple[int, str, str]:
            monkeypatch.setenv("FUMEHOOD_URL", f"http://127.0.0.1:{port}")
            status = main(("admin", *words))
            told = capsys.readouterr()
            return status, told.out, told.err

        yield command


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("tenant create physics", ("POST", "/v1/admin/tenants", {"name": "physics"})),
        (
            f"key create --tenant {TENANT} --scope read --scope write",
            ("POST", "/v1/admin/keys", {"tenant": TENANT, "scopes": ["read", "write"]}),
        ),
        (
            f"key create --tenant {TENANT} --scope read --name ci",
            ("POST", "/v1/admin/keys", {"tenant": TENANT, "scopes": ["read"], "name": "ci"}),
        ),
        (f"key rotate {KEY}", ("POST", f"/v1/admin/keys/{KEY}/rotate", None)),
        (f"key revoke {KEY}", ("DELETE", f"/v1/admin/keys/{KEY}", None)),
        (f"token revoke {TOKEN}", ("POST", f"/v1/admin/tokens/{TOKEN}/revoke", None)),
        (
            f"quota set {TENANT} runs=4 usd_day=2.5",
            ("PUT", f"/v1/admin/quotas/{TENANT}", {"runs": 4, "usd_day": 2.5}),
        ),
        (f"quota show {TENANT}", ("GET", f"/v1/admin/quotas/{TENANT}", None)),
        (f"budget set {TENANT} --usd-day 5", ("PUT", f"/v1/admin/budgets/{TENANT}", {"usd_day": 5.0})),
        (
            f"budget set {TENANT} --usd-day 5 --usd-total 50",
            ("PUT", f"/v1/admin/budgets/{TENANT}", {"usd_day": 5.0, "usd": 50.0}),
        ),
        (f"budget show {TENANT}", ("GET", f"/v1/admin/budgets/{TENANT}", None)),
        ("pause", ("POST", "/v1/admin/pause", {"tenant": None, "kill": False})),
        (f"pause --tenant {TENANT} --kill", ("POST", "/v1/admin/pause", {"tenant": TENANT, "kill": True})),
        (f"resume --tenant {TENANT}", ("POST", "/v1/admin/resume", {"tenant": TENANT})),
        (
            "catalogue add austen --from https://texts.example/a --sha256 "
            + "ab" * 32
            + " --bytes 40 --licence PD --title Novels --format text --tenant physics",
            (
                "POST",
                "/v1/admin/catalogue",
                {
                    "name": "austen",
                    "kind": "data",
                    "title": "Novels",
                    "url": "https://texts.example/a",
                    "licence": "PD",
                    "sha256": "ab" * 32,
                    "bytes": 40,
                    "format": "text",
                    "split": 0.05,
                    "templates": [],
                    "tenants": ["physics"],
                },
            ),
        ),
        ("catalogue remove austen", ("DELETE", "/v1/admin/catalogue/austen", None)),
        (f"approve {HELD}", ("POST", f"/v1/admin/approvals/{HELD}/approve", None)),
        (f"refuse {HELD}", ("POST", f"/v1/admin/approvals/{HELD}/refuse", None)),
    ],
)
def test_each_command_is_one_request(say: Any, recorder: Recorder, words: str, asked: Any) -> None:
    recorder.body = {"id": "new", "secret": "fh_once"}
    status, out, complained = say(*words.split())
    assert (status, complained, recorder.asked) == (0, "", [asked])
    assert out == "id: new\nsecret: fh_once\n"
    assert json.loads(say(*words.split(), "--json")[1]) == recorder.body


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("tenant list", "/v1/admin/tenants?limit=200"),
        ("key list", "/v1/admin/keys?limit=200"),
        ("lease list", "/v1/admin/leases?limit=200"),
        ("audit", "/v1/admin/audit?limit=200"),
        ("audit --after 7", "/v1/admin/audit?limit=200&after=7"),
        ("usage", "/v1/admin/usage?limit=200"),
        ("approvals", "/v1/admin/approvals?limit=200"),
        (f"usage --tenant {TENANT}", f"/v1/admin/usage?limit=200&tenant={TENANT}"),
    ],
)
def test_lists_are_read_to_their_end(say: Any, recorder: Recorder, words: str, path: str) -> None:
    recorder.body = PAGE
    assert json.loads(say(*words.split(), "--json")[1]) == PAGE["items"]
    assert say(*words.split())[1] == f"id: {TENANT}\nname: physics\n\n"
    assert recorder.asked == [("GET", path, None)] * 2


@pytest.mark.parametrize("head", ["", f"7:{'a' * 64}"])
def test_the_audit_is_verified(say: Any, recorder: Recorder, head: str) -> None:
    recorder.body = {"entries": 7, "head": f"7:{'a' * 64}"}
    words = ("audit", "--verify", *(("--head", head) if head else ()))
    assert say(*words) == (0, f"entries: 7\nhead: 7:{'a' * 64}\n", "")
    query = f"?head=7%3A{'a' * 64}" if head else ""
    assert recorder.asked == [("GET", f"/v1/admin/audit/verify{query}", None)]


def test_an_audit_that_does_not_hold_is_status_1(say: Any, recorder: Recorder) -> None:
    sentence = "The audit's entry 3 was changed, or one before it was taken out."
    recorder.status, recorder.body = 409, {"type": "urn:fumehood:problem:tampered", "detail": sentence}
    status, out, complained = say("audit", "--verify")
    assert (status, out) == (1, "")
    assert sentence in complained


def test_a_key_that_was_taken_away_without_a_word_is_told(say: Any, recorder: Recorder) -> None:
    recorder.status, recorder.body = 204, b""
    assert say("key", "revoke", KEY) == (0, f"revoked: {KEY}\n", "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("key", "revoke", "../tenants"), "'../tenants' is no id."),
        (("key", "rotate", ".."), "'..' is no id."),
        (("quota", "show", "a/b"), "'a/b' is no id."),
        (("approve", "../pause"), "'../pause' is no id."),
        (("quota", "set", TENANT, "runs"), "'runs' is no quota: give NAME=VALUE."),
        (("quota", "set", TENANT, "runs=many"), "'runs=many' is no quota: its value must be a number."),
        (("budget", "set", TENANT), "Nothing is to be set: give --usd-day or --usd-total."),
        (("budget", "set", TENANT, "--usd-day", "-1"), "Invalid value for '--usd-day'"),
        (("audit", "--head", f"7:{'a' * 64}"), "--head is checked by --verify: give both."),
        (("audit", "--verify", "--after", "7"), "--verify looks at the whole audit: leave --after out."),
        (("audit", "--verify", "--head", "7"), "'7' is no head: give SEQ:SEAL, as --verify prints it."),
        (("key", "create", "--tenant", TENANT), "Missing option '--scope'"),
    ],
)
def test_what_cannot_be_meant_is_never_sent(
    say: Any, recorder: Recorder, words: tuple[str, ...], sentence: str
) -> None:
    status, _, complained = say(*words)
    assert (status, sentence in complained, recorder.asked) == (2, True, [])
