"""What `fumehood serve` decides before it serves: where it listens, and that its first key is made once."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from fumehood.cli import serve
from fumehood.errors import BadInputError, MachineUnfitError
from fumehood.settings import Settings
from fumehood.store.migrate import upgrade


def test_the_first_key_is_made_once_and_anew_when_nobody_was_told(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    upgrade(settings.resolved_database_url)
    key = serve._first_key(settings)
    assert key
    assert key.startswith("fh_")
    assert serve._first_key(settings) is None
    serve._forget(settings, key)
    again = serve._first_key(settings)
    assert again not in {None, key}


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
