"""What `fumehood serve` decides before it serves: where it listens, and that its first key is made once."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from fumehood.cli import serve
from fumehood.errors import BadInputError, MachineUnfitError


def test_the_key_is_made_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    key = serve._first_key(tmp_path)
    assert key
    assert key.startswith("fh_")
    assert serve._first_key(tmp_path) is None
    place = tmp_path / serve.KEY_FILE
    assert (place.read_text(), place.stat().st_mode & 0o777) == (key, 0o600)


@pytest.mark.parametrize(
    ("host", "told"),
    [("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://127.0.0.1:")],  # noqa: S104
)
def test_the_address_that_is_told_can_be_asked(host: str, told: str) -> None:
    with serve._listening(host, 0) as listener:
        url = serve._url(listener)
        assert url.startswith(told)
        with socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=5):
            pass


def test_a_port_in_use_and_a_foreign_address_are_sentences() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineUnfitError) as refused, serve._listening("127.0.0.1", port):
            pass
    assert str(refused.value) == f"127.0.0.1:{port} cannot be listened on: Address already in use. Give another --port."
    with pytest.raises(MachineUnfitError, match="Cannot assign"), serve._listening("192.0.2.1", 0):
        pass
    with pytest.raises(BadInputError, match="not an address of this machine"), serve._listening("nowhere.invalid", 0):
        pass


@pytest.mark.parametrize(("sent", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_what_stops_the_rest_outlives_a_second_signal(sent: signal.Signals, raised: type[BaseException]) -> None:
    def stop_twice() -> None:
        with serve._ending_once():
            try:
                signal.raise_signal(sent)
            finally:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(sent)
    with pytest.raises(raised) as ended:
        stop_twice()
    assert getattr(ended.value, "code", 0) == 0
    assert signal.getsignal(sent) == before
