"""The way to the gateway of models: a token is found wherever an answer is cut, and only what is none passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.errors import BadInputError
from fumehood.settings import Settings
from sandbox.egress import granting
from sandbox.egress.granting import ModelGateway
from sandbox.egress.journal import Journal
from sandbox.egress.models import Models, Place
from sandbox.egress.request import RefusedError

TOKEN = "fhx_abcab.abcabd"
PIECES = st.lists(st.one_of(st.text("fhx_abcd.", max_size=6), st.sampled_from([TOKEN[:7], TOKEN[7:], TOKEN[:-1]])))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("journal")
    place = Place(scheme="http", host="127.0.0.1", port=1)
    return Models(place, TOKEN, Journal(folder / "lines", folder / "spent"), 10)


async def screened(models: Models, pieces: list[str]) -> str:
    async def come() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece.encode()

    return b"".join([piece async for piece in models._screened(come())]).decode()


@given(pieces=PIECES)
def test_an_answer_passes_whole_or_not_past_a_token(models: Models, pieces: list[str]) -> None:
    if TOKEN in "".join(pieces):
        with pytest.raises(RefusedError, match="quotes"):
            anyio.run(screened, models, pieces)
    else:
        assert anyio.run(screened, models, pieces) == "".join(pieces)


@pytest.mark.parametrize("cut", range(1, len(TOKEN)))
def test_a_token_is_found_wherever_it_is_cut(models: Models, cut: int) -> None:
    with pytest.raises(RefusedError, match="quotes"):
        anyio.run(screened, models, ["see: " + TOKEN[:cut], TOKEN[cut:] + "."])


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://gateway:8010", ("http", "gateway", 8010, "")),
        ("http://127.0.0.1:8010/", ("http", "127.0.0.1", 8010, "")),
        ("https://models.example/fumehood/", ("https", "models.example", 443, "/fumehood")),
        ("http://[::1]:8010", ("http", "::1", 8010, "")),
    ],
)
def test_the_gateway_may_stand_anywhere(url: str, place: tuple[str, str, int, str]) -> None:
    assert tuple(ModelGateway(url=url, secret=lambda: b"").place().values()) == place


@pytest.mark.parametrize(
    "url", ["gateway:8010", "ftp://gateway", "http://", "http://a@b", "http://a:x", "http://a?b=c", "http://a#b"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(BadInputError, match="FUMEHOOD_GATEWAY_URL"):
        ModelGateway(url=url, secret=lambda: b"")


def test_its_secret_is_looked_for_when_it_is_needed(tmp_path: Path) -> None:
    assert granting.of(Settings(state_dir=tmp_path)) is None
    found = granting.of(Settings(state_dir=tmp_path, gateway_url="http://gateway:8010"))
    assert found is not None
    assert found.secret() == b""
    place = tmp_path / "executions.secret"
    place.touch(mode=0o600)
    place.write_bytes(b"d" * 32)
    assert found.secret() == b"d" * 32
    assert "dddd" not in repr(found)
