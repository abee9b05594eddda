"""The pulse of a worker is felt while it takes hints or has a step in hand, and not otherwise."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from worker import pulse
from worker.pulse import Pulse


def test_a_step_in_hand_keeps_the_pulse_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT_EVERY_S", 0.02)
    path = tmp_path / "pulse"
    felt = Pulse(path)
    assert not path.exists()
    with felt.working():
        first = path.stat().st_mtime_ns
        deadline = time.monotonic() + 60
        while path.stat().st_mtime_ns == first:
            assert time.monotonic() < deadline, "it does not go on"
            time.sleep(0.005)
    seen = {path.stat().st_mtime_ns}
    for _ in range(3):
        time.sleep(0.1)
        seen.add(path.stat().st_mtime_ns)
    # One beat may be on its way at the very end, and as late as the machine is busy.
    assert len(seen) <= 2


def test_without_a_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Pulse(None).working():
        pass
    assert list(tmp_path.iterdir()) == []
