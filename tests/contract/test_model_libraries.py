"""The libraries that programs in a sandbox ask their model with, through the gateway of an execution."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import anthropic
import openai
import pytest
from anyio.from_thread import start_blocking_portal

from fumehood.domain.execution import ExecutionState, Kind, Spec
from fumehood.domain.experiment import Execution
from fumehood.domain.ids import ExecutionId, container_name
from fumehood.domain.token import execution_secret
from sandbox.egress import forward, inside, serving
from sandbox.egress.desk import Reply
from sandbox.egress.granting import ModelGateway
from sandbox.egress.journal import Journal
from sandbox.egress.models import Models, Place
from tests.fakes.gateway import SECRET, Gateway, gateway

EXECUTION = ExecutionId("exec_01kaw3v9m1c7d2e5f8g0h3j6kq")
SAID = "The offline model read 2 words."


@contextmanager
def asking(served: Gateway, folder: Path) -> Iterator[Mapping[str, str]]:
    """Serve an execution's gateway and the forwarder before it; yields what its program finds in its environment."""
    labels = {"execution": EXECUTION, "direction": served.direction.id}
    spec = Spec(
        name=container_name(EXECUTION), kind=Kind.RUN, command=("true",), image="lab", network="allow:llm",
        labels=labels,
    )  # fmt: skip
    with served.store.begin() as tx:
        tx.executions.save(
            Execution(
                id=EXECUTION, direction_id=served.direction.id, kind=Kind.RUN, image="lab", command=("true",),
                network=spec.network, state=ExecutionState.LAUNCHED,
            )
        )  # fmt: skip
    known = ModelGateway(url=served.url, secret=lambda: execution_secret(SECRET))
    models = Models(Place(**known.place()), known.token(spec), Journal(folder / "lines", folder / "spent"), 100)
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.create_server(("127.0.0.1", 0)) as inner,
        pytest.MonkeyPatch.context() as patch,
        start_blocking_portal() as portal,
    ):
        patch.setattr(forward, "SOCKET", str(folder / "socket"))
        listener.bind(str(folder / "socket"))
        listener.listen(16)
        listener.setblocking(False)

        async def answer(*_: object) -> Reply:
            raise AssertionError("nothing else is asked")

        serve = portal.start_task_soon(lambda: serving.serve(listener, answer, pass_on=models.pass_on))
        before = portal.start_task_soon(forward.forward, inner)
        port = inner.getsockname()[1]
        yield {name: text.replace(f":{inside.PORT}", f":{port}") for name, text in inside.environment(spec).items()}
        before.cancel()
        serve.cancel()


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with gateway() as served, asking(served, tmp_path) as found:
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        yield


def test_anthropic_s_library_needs_nothing_but_its_environment() -> None:
    with anthropic.Anthropic() as client:
        asked: list[anthropic.types.MessageParam] = [{"role": "user", "content": "Why so?"}]
        whole = client.messages.create(model="offline", max_tokens=50, messages=asked)
        assert [block.text for block in whole.content if block.type == "text"] == [SAID]
        with client.messages.stream(model="offline", max_tokens=50, messages=asked) as stream:
            assert "".join(stream.text_stream) == SAID
        assert client.messages.count_tokens(model="offline", messages=asked).input_tokens > 0
        with pytest.raises(anthropic.PermissionDeniedError, match="not for 'other'"):
            client.messages.create(model="other", max_tokens=1, messages=asked)


def test_openai_s_library_needs_nothing_but_its_environment() -> None:
    with openai.OpenAI() as client:
        model = client.models.list().data[0].id
        asked: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Why so?"}]
        whole = client.chat.completions.create(model=model, messages=asked)
        assert (model, whole.choices[0].message.content) == ("offline", SAID)
        pieces = client.chat.completions.create(model=model, messages=asked, stream=True)
        assert "".join(one.choices[0].delta.content or "" for one in pieces if one.choices) == SAID
