"""The Aider coder: what it edited is read from the files, and a failure that Aider keeps to itself is told."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.domain.direction import Direction
from fumehood.domain.ids import DirectionId, TenantId
from fumehood.domain.ledger import Claims
from fumehood.domain.token import TokenError
from fumehood.errors import BadInputError, FumehoodError, ModelUnavailableError, OverBudgetError
from fumehood.gateway.app import answer_to, create_app
from fumehood.gateway.exchange import Desk
from fumehood.gateway.line import Line
from fumehood.gateway.models import Models
from fumehood.gateway.upstream import Upstream, UpstreamError
from fumehood.gateway.upstreams.faults import EVERY, Faulty
from fumehood.gateway.upstreams.offline import OfflineModel
from fumehood.llm.aider import AiderCoder
from fumehood.llm.aider_sessions import AiderSessions
from fumehood.ports import Call, Edit
from fumehood.store.clock import SystemClock
from fumehood.store.memory import MemoryStore
from tests.fakes.provider import serving

CODER_PYTHON = Path(__file__).parents[2] / ".venv-coder/bin/python"
WARM = AiderSessions(CODER_PYTHON)
"""Shared, for Aider takes seconds to import."""


PYTHONS = ("python3.10", "python3.11", "python3.12")
CANNOT_BE_MADE = not CODER_PYTHON.exists() and not any(shutil.which(name) for name in PYTHONS)
"""Aider needs one of these; where there is one, set-up made the environment, and its absence is a failure."""


def needs_aider(test: T) -> T:
    unfit = pytest.mark.skipif(CANNOT_BE_MADE, reason="Aider has no Python that it runs on here")
    marked: T = pytest.mark.slow(unfit(test))
    return marked


T = TypeVar("T", bound=Callable[..., Any])
SECRET = b"s" * 32
FILES = {"experiment.py": b"lr = 1\nprint(lr)\n", "plot.py": b"# plot\n"}
EDITABLE = ("experiment.py", "plot.py")
PLAYBOOK = '''
[[ideas]]
name = "a"
[[ideas.runs]]
[[ideas.runs.attempts]]
reply = """
experiment.py
```python
<<<<<<< SEARCH
lr = 1
=======
from helpers import lr
>>>>>>> REPLACE
```

helpers.py
```python
<<<<<<< SEARCH
=======
lr = 2
>>>>>>> REPLACE
```
"""
[[ideas.runs]]
[[ideas.runs.attempts]]
reply = """
OUTSIDE
```python
<<<<<<< SEARCH
=======
print("out")
>>>>>>> REPLACE
```

evaluate.py
```python
<<<<<<< SEARCH
frozen
=======
kind
>>>>>>> REPLACE
```

```bash
touch SHELL
```
"""
'''


class Room:
    def __init__(
        self,
        url: str,
        outside: Path,
        playbook: str,
        upstreams: dict[str, Upstream],
        artifacts: MemoryArtifacts,
    ) -> None:
        self.url = url
        self.upstreams = upstreams
        self.artifacts = artifacts
        self.outside = outside
        self.playbook = playbook

    def edit(self, *, python: Path = CODER_PYTHON, timeout_s: float = 120.0, **claims: object) -> Edit:
        fields = {"run": 1, "attempt": 1, "idea": "a", "model": "offline", **claims}
        call = Call(
            claims=Claims(
                tenant=TenantId("ten_1"),
                direction_id=DirectionId("dir_1"),
                role="coder",
                playbook=self.playbook,
                **fields,  # type: ignore[arg-type]
            ),
            system="You edit.",
            prompt=f"!touch {self.outside.with_name('shell')}",
        )
        sessions = WARM if python == CODER_PYTHON else AiderSessions(python)
        coder = AiderCoder(sessions, self.url, SECRET, SystemClock(), timeout_s=timeout_s)
        return coder.edit(call, FILES, EDITABLE, {"evaluate.py": b"frozen\n"})


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    store, artifacts = MemoryStore(), MemoryArtifacts()
    direction = Direction(
        id=DirectionId("dir_1"),
        tenant=TenantId("ten_1"),
        template="t",
        text="",
        model="offline",
        review_model="offline",
        profile="tiny",
        ideas=1,
        runs=1,
        budget_usd=0.0,
    )
    with store.begin() as tx:
        tx.directions.save(direction)
    outside = tmp_path / "outside.py"
    text = PLAYBOOK.replace("OUTSIDE", str(outside)).replace("SHELL", str(tmp_path / "shell"))
    upstreams: dict[str, Upstream] = {"offline": OfflineModel(artifacts), "anthropic": OfflineModel(artifacts)}
    desk = Desk(
        store=store,
        artifacts=artifacts,
        clock=SystemClock(),
        secret=SECRET,
        upstreams=upstreams,
        models=Models.shipped(),
    )
    with serving(create_app(desk)) as url:
        yield Room(url, outside, artifacts.put(text.encode()), upstreams, artifacts)


@needs_aider
def test_aider_changes_and_adds_files_through_the_gateway(room: Room) -> None:
    done = room.edit()
    assert done.problems == ()
    assert done.changed == ("experiment.py", "helpers.py")
    assert done.files["experiment.py"] == b"from helpers import lr\nprint(lr)\n"
    assert done.files["helpers.py"] == b"lr = 2\n"
    assert "<<<<<<< SEARCH" in done.reply
    assert FILES["experiment.py"].startswith(b"lr = 1")


@needs_aider
def test_aider_cannot_write_outside_nor_to_frozen_files_nor_run_a_shell(room: Room) -> None:
    done = room.edit(run=2)
    assert done.changed == ()
    assert done.files == FILES
    assert not room.outside.exists()
    assert not room.outside.with_name("shell").exists()


@needs_aider
def test_a_reply_without_an_edit_is_no_problem(room: Room) -> None:
    done = room.edit(run=3)
    assert (done.reply, done.changed, done.problems) == ("ALL_COMPLETED", (), ())


@needs_aider
def test_a_failure_that_aider_keeps_to_itself_is_told(room: Room) -> None:
    done = room.edit(idea="unknown")
    assert done.changed == ()
    assert "no idea named" in done.problems[0]


@needs_aider
def test_a_gateway_that_is_not_there_is_told(room: Room) -> None:
    room.url = "http://127.0.0.1:9"
    done = room.edit(timeout_s=100)
    assert done.changed == ()
    assert done.problems


@needs_aider
def test_the_driver_stops_at_its_own_limit(room: Room) -> None:
    done = room.edit(timeout_s=0.05)
    assert done.changed == ()
    assert "stopped after" in done.problems[0]


def script(tmp_path: Path, body: str) -> Path:
    """Return a program that stands in for the coder environment's Python."""
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\n{SESSION}{body}\n")
    path.chmod(0o755)
    return path


SESSION = """
import json, os, pathlib, socket, struct, sys, time

session = socket.socket(fileno=socket.recv_fds(socket.socket(fileno=0), 1, 1)[1][0])
session.sendall(b"+")
size, = struct.unpack("!Q", session.recv(8))
request = json.loads(session.recv(size, socket.MSG_WAITALL))
os.dup2(os.open(request["output"], os.O_WRONLY | os.O_CREAT), 2)

def tell(report):
    told = json.dumps(report).encode()
    session.sendall(struct.pack("!Q", len(told)) + told)
"""


def test_what_is_beyond_its_right_is_put_back_and_told(room: Room, tmp_path: Path) -> None:
    done = room.edit(
        python=script(
            tmp_path,
            "work = pathlib.Path(request['folder'])\n"
            "(work / 'evaluate.py').write_text('kind')\n"
            "(work / 'plot.py').unlink()\n"
            "(work / 'random.py').write_text('x = 1')\n"
            "(work / 'link.py').symlink_to('/etc/hostname')\n"
            "(work / 'experiment.py').write_text('lr = 3')\n"
            "tell({'reply': 'done'})",
        )
    )
    assert done.changed == ("experiment.py",)
    assert set(done.files) == set(FILES)
    assert any("random.py" in problem for problem in done.problems)
    assert any("plot.py" in problem and "removed" in problem for problem in done.problems)


def test_a_driver_that_dies_or_does_not_start_is_told(room: Room, tmp_path: Path) -> None:
    died = room.edit(python=script(tmp_path, "sys.exit('no aider here')"))
    assert "no aider here" in died.problems[0]
    assert "could not be started" in room.edit(python=tmp_path / "missing").problems[0]


@pytest.mark.parametrize("cap", ["token", "direction", "experiment"])
def test_a_session_at_its_own_cap_keeps_what_it_changed(room: Room, tmp_path: Path, cap: str) -> None:
    refusal = bytes(answer_to(OverBudgetError("The token's own cap is $5.00.", cap=cap)).body).decode()
    change = "(pathlib.Path(request['folder']) / 'experiment.py').write_text('lr = 3')\n"
    said = f"tell({{'said': [{refusal!r}]}})"
    if cap == "token":
        done = room.edit(python=script(tmp_path, change + said))
        assert done.changed == ("experiment.py",)
        assert "own cap" in done.problems[0]
    for body in (said,) if cap == "token" else (change + said,):
        with pytest.raises(OverBudgetError, match="own cap") as refused:
            room.edit(python=script(tmp_path, body))
        assert (refused.value.cap, refused.value.is_directions) == (cap, cap == "direction")
        assert ("FUMEHOOD_CODER_CAP_USD" in str(refused.value)) is (cap == "token")


def test_a_refused_token_waits_for_a_person(room: Room, tmp_path: Path) -> None:
    refusal = bytes(answer_to(TokenError("The token was revoked by an administrator.")).body).decode()
    with pytest.raises(ModelUnavailableError, match="revoked") as refused:
        room.edit(python=script(tmp_path, f"tell({{'said': [{refusal!r}]}})"))
    assert refused.value.mendable


def test_a_refusal_for_want_of_budget_is_not_hidden(room: Room, tmp_path: Path) -> None:
    said = "tell({'said': ['x urn:fumehood:problem:over-budget y']})"
    with pytest.raises(OverBudgetError):
        room.edit(python=script(tmp_path, said))


@needs_aider
@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (OverBudgetError('The budget is "used" up.'), OverBudgetError),
        (UpstreamError("The key is refused.", status=424, kind="api_error", mendable=True), ModelUnavailableError),
        (UpstreamError("Overloaded.", status=529, kind="overloaded_error", retryable=True), ModelUnavailableError),
        (UpstreamError("Not there.", status=502, kind="api_error", retryable=True), ModelUnavailableError),
    ],
)
def test_what_the_gateway_answers_reaches_the_step_through_aider(
    room: Room, answer: FumehoodError, raised: type[FumehoodError]
) -> None:
    asked = []

    def refuse(_: Request) -> Response:
        asked.append(answer)
        return answer_to(answer)

    with serving(Starlette(routes=[Route("/v1/messages", refuse, methods=["POST"])])) as url:
        room.url = url
        with pytest.raises(raised) as caught:
            room.edit(model="claude-sonnet-4-5")
    assert str(caught.value) == str(answer)
    assert len(asked) == 1  # the gateway has tried again already
    if isinstance(caught.value, ModelUnavailableError) and isinstance(answer, UpstreamError):
        assert (caught.value.retryable, caught.value.mendable) == (answer.retryable, answer.mendable)


@needs_aider
@pytest.mark.kill
@pytest.mark.parametrize("fault", ["refusal", "long"])
def test_an_answer_that_is_none_is_asked_for_again(room: Room, fault: str) -> None:
    room.upstreams["offline"] = Faulty(OfflineModel(room.artifacts), [fault], Line("offline"))
    for _ in range(EVERY):
        done = room.edit()
        assert (done.changed, done.problems) == (("experiment.py", "helpers.py"), ())


@needs_aider
@pytest.mark.kill
def test_one_that_never_comes_is_no_edit(room: Room) -> None:
    room.upstreams["offline"] = Faulty(OfflineModel(room.artifacts), ["refusal"], Line("offline"), every=1)
    done = room.edit()
    assert done.changed == ()
    assert done.problems


def test_a_working_copy_with_paths_that_lead_out_is_refused() -> None:
    coder = AiderCoder(AiderSessions(Path(sys.executable)), "http://127.0.0.1:9", SECRET, SystemClock())
    call = Call(
        claims=Claims(tenant=TenantId("t"), direction_id=DirectionId("d"), role="coder", model="offline"),
        system="",
        prompt="",
    )
    with pytest.raises(BadInputError):
        coder.edit(call, {"../x.py": b""}, ["../x.py"], {})
