"""Seeded `kill -9` over every process and server of an installation while directions run, and an account of it.

    .venv/bin/python -m bench.chaos --kills 200 --directions 20

What is killed is started again as whoever keeps a service does. Exits 1 when a direction did not end well, when
anything was lost, run twice or left, and when a quota, a lease or a reservation did not come back.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.account import Account, Starts
from fumehood.settings import Settings
from tests import leaks
from tests.installation import OURS, SERVERS, Installation, lab_of

RESULTS = Path("bench/results")
VICTIMS = (*OURS, *SERVERS)
SHORTEST_S, LONGEST_S = 0.1, 2.5
"""Between two kills; shorter than what was killed takes to come back, often enough that several are away at once."""
ENDS_WITHIN_S = 120.0
"""How long the last directions may go on once nothing is killed any more, and as long again for each under way."""


@dataclass(frozen=True)
class Kill:
    """Who is killed, and how long after the one before."""

    victim: str
    after_s: float


def schedule(seed: int, kills: int) -> list[Kill]:
    """Return the kills of a seed: each victim as often as the others, in an order of chance."""
    # Apart, so that more kills go on where fewer end.
    draw, pauses = random.Random(f"{seed} victims"), random.Random(f"{seed} pauses")  # noqa: S311 - an order, no secret
    victims: list[str] = []
    while len(victims) < kills:
        victims += draw.sample(VICTIMS, len(VICTIMS))
    return [Kill(victim, round(pauses.uniform(SHORTEST_S, LONGEST_S), 3)) for victim in victims[:kills]]


class Chaos:
    """An installation, and the kills that it has to outlive."""

    def __init__(self, installation: Installation, directions: int, say: Callable[[str], object]) -> None:
        self.installation = installation
        self.submitted: list[str] = []
        self.killed: collections.Counter[str] = collections.Counter()
        self.restarts: collections.Counter[str] = collections.Counter()
        self._directions = directions
        self._say = say

    def carry_out(self, kills: list[Kill]) -> None:
        """Kill by the schedule, with a new direction every so often, and wait until all have ended."""
        for number, kill in enumerate(kills):
            while len(self.submitted) * len(kills) <= number * self._directions:
                self._submit()
            self._wait(kill.after_s)
            self._until(lambda victim=kill.victim: self.installation.is_alive(victim), 60, f"{kill.victim} is back")
            self.installation.kill(kill.victim)
            self.killed[kill.victim] += 1
            if (number + 1) % 20 == 0:
                self._say(f"{number + 1} of {len(kills)} kills, {len(self.submitted)} directions")
        while len(self.submitted) < self._directions:
            self._submit()
        left = [one for one in self.submitted if not self.installation.is_over(one)]
        within_s = ENDS_WITHIN_S * (1 + len(left))
        self._until(lambda: all(map(self.installation.is_over, self.submitted)), within_s, "every direction ends")

    def _submit(self) -> None:
        # Of its own seed, so that none takes over another's baseline.
        number = len(self.submitted)
        self.submitted.append(self.installation.submit(120, f"chaos-{number}", number))

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._tend()
            time.sleep(min(0.05, left))

    def _until(self, holds: Callable[[], bool], within_s: float, what: str) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"{what}: not within {within_s:.0f} s"
            self._tend()
            time.sleep(0.05)

    def _tend(self) -> None:
        self.restarts.update(self.installation.tend())


def chaos(seed: int, kills: int, directions: int, folder: Path, say: Callable[[str], object]) -> dict[str, Any]:
    """Let an installation live through a seed's kills; every figure, and what was wrong."""
    installation = Installation(folder / "it", lab_of(Settings()))
    begun = time.monotonic()
    wrong: list[str] = []
    try:
        installation.begin()
        made = Chaos(installation, directions, say)
        account = Account(installation)
        with Starts(installation.state / "executions") as starts:
            try:
                made.carry_out(schedule(seed, kills))
                account.wait_for_the_last()
            except AssertionError as error:
                wrong.append(str(error).splitlines()[0])
        wrong += account.wrong(made.submitted, starts.seen())
        installation.stop(*OURS)
        wrong += account.left()
        figures = account.figures(starts.seen())
        if wrong:
            keep = Path(tempfile.mkdtemp(prefix="fumehood-chaos-logs-"))
            shutil.copytree(folder / "it/logs", keep, dirs_exist_ok=True)
            say(f"what the processes said is in {keep}")
    finally:
        installation.end()
    return {
        "seed": seed, "kills": dict(sorted(made.killed.items())), "restarts": dict(sorted(made.restarts.items())),
        "directions": directions, "took_s": round(time.monotonic() - begun, 1), **figures, "wrong": wrong,
    }  # fmt: skip


@contextmanager
def own_folder() -> Iterator[Path]:
    """Lend a folder on a disk, and take away what is made beside it."""
    folder = Path(tempfile.mkdtemp(prefix="fumehood-chaos-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        leaks.remove_empty_run_folders(folder)
        shutil.rmtree(folder, ignore_errors=True)


def table(told: dict[str, Any]) -> Iterator[str]:
    """Return what came of it as lines."""
    yield f"{'killed':10} {'times':>6} {'started again':>14}"
    for name in VICTIMS:
        yield f"{name:10} {told['kills'].get(name, 0):6} {told['restarts'].get(name, 0):14}"
    yield ""
    for name in ("took_s", "ends", "executions", "starts_seen", "begun_again"):
        yield f"{name:14} {told.get(name)}"
    yield "nothing was lost, run twice or left" if not told["wrong"] else "WRONG:"
    yield from told["wrong"]


def main(say: Callable[[str], object] = print) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--directions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    # Told to end, it ends what it started, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    say(f"--seed {asked.seed} draws these kills again")
    with own_folder() as folder:
        told = chaos(asked.seed, asked.kills, asked.directions, folder, lambda line: print(line, file=sys.stderr))
    place = asked.results / f"chaos-{time.strftime('%Y-%m-%d')}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    for line in (*table(told), f"written to {place}"):
        say(line)
    return 1 if told["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
