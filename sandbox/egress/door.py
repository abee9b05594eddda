"""What an adapter does about the way out of an execution: admit it, open it, open it again, close it for good."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fumehood.domain.execution import Egress, Spec
from fumehood.errors import ConflictError, FumehoodError, SandboxUnavailableError
from fumehood.gateway.keys import Keys
from sandbox import records, uids
from sandbox.egress import cache, capabilities, granting, inside, journal
from sandbox.egress.pair import Side, is_relayed, side
from sandbox.egress.rules import Rules
from sandbox.egress.upstream import Base
from sandbox.installation import Installation
from sandbox.records import Record
from sandbox.starting import Starting

GATEWAY, RELAY = "egress", "relay"
"""The two kinds of process, by the names of their locks."""
_PROGRAMS = {GATEWAY: Path(__file__).with_name("gateway.py"), RELAY: Path(__file__).with_name("relay.py")}
_FILES = ("egress.jsonl", "egress.spent", "egress.heard", "egress.pid", "relay.pid", "relay.json")
_END_PATIENCE_S, _REOPEN_S = 5.0, 1.0


class Opening:
    """A gateway or a relay that is being started, early, so that it is there when the program is."""

    def __init__(self, process: Starting, plan: dict[str, Any]) -> None:
        self._process, self._plan = process, plan

    def go(self) -> None:
        """Wait until it serves, or raise with why it does not."""
        self._process.go(self._plan)

    def abandon(self) -> None:
        """Let it end, when it was told nothing yet."""
        self._process.abandon()


class Door:
    """The way out of the executions of one installation."""

    def __init__(self, home: Installation, rules: Rules) -> None:
        self._home, self._rules = home, rules

    def check(self, spec: Spec) -> None:
        """Refuse what is not granted here."""
        if is_relayed(spec):
            side(spec)
            return
        self._rules.granted(spec.network)
        if capabilities.asks_model(spec.network):
            granting.check(spec, self._rules.models)

    def begin(self, record: Record, spec: Spec, uid: int) -> Opening | None:
        """Make the folder and start what answers in it; None where there is no way out."""
        if not inside.has_way_out(spec):
            return None
        folder = self._home.make_run_folder(self.folder(spec.name))
        folder.chmod(0o755)
        inside.fill(folder)
        for name in _FILES:
            (record.folder / name).touch(mode=0o644)
            self._home.give(record.folder / name)
        if not is_relayed(spec):
            return self._start(record, GATEWAY, self._gateway_plan(spec, uid))
        told = side(spec)
        # The one that answers is launched first, and waits for the relay that comes with the other.
        return self._start(record, RELAY, self._relay_plan(spec, told, uid)) if told.caps else None

    def reopen(self, record: Record) -> None:
        """Start a gateway in the place of one that died while its execution runs."""
        # Looked for first, because this is asked of every execution again and again.
        if not (record.folder / "egress.jsonl").exists() or record.is_supervised(GATEWAY):
            return
        told = record.read("spec.json")
        if told is None or not str(told["spec"]["network"]).startswith("allow:") or _was_just_started(record):
            return
        with record.locked(wait=False) as held:
            uid = uids.claims(self._home.run_dir, self._home.id).get(record.name)
            if not held or uid is None or record.is_supervised(GATEWAY) or record.read("exit.json"):
                return
            # What cannot be started now is tried by whoever looks next; the program sees refused connections.
            with suppress(FumehoodError, OSError):
                self._start(record, GATEWAY, self._gateway_plan(record.spec(), uid)).go()

    def settle(self, record: Record) -> tuple[tuple[Egress, ...], str]:
        """Take in what an execution that ended left; every request it made, and how its dialogue ended."""
        self._end(record)
        cache.take_in(self._home, record.folder / "egress.heard")
        return journal.told(record.folder / "egress.jsonl"), _ending(record)

    def close(self, record: Record) -> None:
        """End whatever answers, and give its user back."""
        self._end(record)
        uids.release(self._home.run_dir, self._owner(record.name))

    def folder(self, name: str) -> Path:
        """Return where the sockets of an execution lie."""
        return self._home.folder / name / "egress"

    def _start(self, record: Record, name: str, plan: dict[str, Any]) -> Opening:
        return Opening(Starting(record, program=_PROGRAMS[name], name=name), plan)

    def _gateway_plan(self, spec: Spec, uid: int) -> dict[str, Any]:
        home, rules = self._home, self._rules
        keys = Keys(home.state_dir)
        sources = {}
        for one in rules.granted(spec.network):
            base = rules.base(one)
            sources[one.name] = {
                **asdict(base),
                "key": keys.get(one.name) or "",
                "pace": str(self._pace(base) / f"{base.host}.{base.port}".replace(":", "_")),
                "interval_s": one.interval_s if rules.interval_s is None else rules.interval_s,
            }
        return {
            "mode": rules.mode,
            "models": self._models(spec),
            "requests": rules.requests,
            "sources": sources,
            "cache": str(cache.place(home)),
            "socket": str(self.folder(spec.name) / "socket"),
            "uid": uid,
            "own_uid": uids.claim(home.run_dir, self._owner(spec.name)),
            "wall_s": spec.limits.wall_s,
        }

    def _models(self, spec: Spec) -> dict[str, Any] | None:
        """Return the way to the gateway of models; the token goes through a pipe, and lies in no file."""
        gateway = self._rules.models
        if gateway is None or not capabilities.asks_model(spec.network):
            return None
        return {**gateway.place(), "token": gateway.token(spec)}

    def _pace(self, base: Base) -> Path:
        """Return where the pace of an upstream is kept: one for all installations on this host, a double's apart."""
        home = self._home
        return (
            home.make_folder(home.state_dir / "pace") if base.is_double else home.make_run_folder(home.run_dir / "pace")
        )

    def _relay_plan(self, spec: Spec, told: Side, uid: int) -> dict[str, Any]:
        home, peer = self._home, records.find(self._home, told.peer)
        peer_uid = uids.claims(home.run_dir, home.id).get(told.peer)
        theirs = peer.read("spec.json")
        if theirs is None or peer_uid is None or peer.read("exit.json"):
            raise ConflictError(f"The execution {told.peer}, which is to answer, is not running.")
        if theirs["spec"]["fence"] != spec.fence or theirs["spec"]["network"] != f"relay:answers:{spec.name}":
            raise ConflictError(f"The executions {spec.name} and {told.peer} are not a pair.")
        assert told.caps is not None, "only the one that asks has a relay"  # noqa: S101 - narrows the type
        return {
            "sockets": [str(self.folder(spec.name) / "relay"), str(self.folder(told.peer) / "relay")],
            "uids": [uid, peer_uid],
            "folders": [str(home.executions / spec.name), str(home.executions / told.peer)],
            "own_uid": uids.claim(home.run_dir, self._owner(spec.name)),
            "caps": asdict(told.caps),
            "wall_s": spec.limits.wall_s,
        }

    def _owner(self, name: str) -> str:
        return f"{self._home.id}/{name}.egress"

    def _end(self, record: Record) -> None:
        """Kill gateway and relay; the kernel gives up a dead one's lock."""
        deadline = time.monotonic() + _END_PATIENCE_S
        for name in (GATEWAY, RELAY):
            while record.is_supervised(name):
                if time.monotonic() > deadline:
                    raise SandboxUnavailableError(f"The {name} of {record.name} cannot be ended.", reason="unkillable")
                _kill(record, name)
                time.sleep(0.002)


def _was_just_started(record: Record) -> bool:
    """Tell whether a gateway was begun a moment ago; one that always dies must not be begun without end."""
    try:
        return time.time() - (record.folder / f"{GATEWAY}.log").stat().st_mtime < _REOPEN_S
    except FileNotFoundError:
        return False


def _ending(record: Record) -> str:
    try:
        told = json.loads((record.folder / "relay.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return ""
    return f"The dialogue ended after {told['messages']} questions: {told['end']}."


def _kill(record: Record, name: str) -> None:
    with suppress(OSError, ValueError):
        pid = int((record.folder / f"{name}.pid").read_text(encoding="ascii"))
        descriptor = os.pidfd_open(pid)
        try:
            # A number is given out again; what this one runs says whether it is still the same process.
            line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if os.fsencode(record.folder) in line and os.fsencode(_PROGRAMS[name]) in line:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
