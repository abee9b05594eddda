"""What a run's program prints, shown while it runs.

The api holds no engine, and the program may run on another machine. So the watcher, which sees the engine, copies
what is new into the table of outputs about once a second, and the api reads it there. A row's id is made of the
execution, its fence and the offset, and where to go on is read from the rows themselves: a watcher that is killed
leaves nothing to repair, and what is copied twice is one row. Rows of an execution that begins anew have a higher
fence, so they never mix. They are no evidence, which is the collected log: at most `MOST` bytes of each execution are
kept, and they go a minute after its end.
"""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Sequence

from fumehood.domain.execution import ExecutionState, Kind, Verdict
from fumehood.domain.experiment import Execution, Run, RunResult
from fumehood.domain.ids import RunId, container_name
from fumehood.domain.output import Output, Over, Printed
from fumehood.errors import NotFoundError, SandboxUnavailableError
from fumehood.ports import Artifacts, Clock, Sandbox, Store, Transaction

MOST = 1024 * 1024
"""Bytes of one execution that can be read while it runs."""
PIECE = 16 * 1024
KEPT_S = 60.0
"""How long pieces outlive their execution, so that who follows it reads its last words."""
_FENCE_AT, _EXECUTION_AT = 31, 51
_WHOLE: int = 2**_FENCE_AT - 1
"""A place after anything that an execution can have printed."""


def publish(store: Store, sandbox: Sandbox, clock: Clock) -> None:
    """Copy what the programs of runs have printed since the last time."""
    with store.begin(write=False) as tx:
        running = tx.executions.find(state=ExecutionState.LAUNCHED, kind=Kind.RUN)
    for execution in running:
        _copy(store, sandbox, clock, execution, is_over=False)


def finish(store: Store, sandbox: Sandbox, clock: Clock, execution: Execution) -> None:
    """Copy the rest of what an execution printed that has ended, before it is collected; once."""
    if execution.kind is not Kind.RUN:
        return
    with store.begin(write=False) as tx:
        end = tx.outputs.end(execution.id, execution.fence)
        is_done = any(not piece.data for piece in tx.outputs.find(id=_id(execution, end)))
    if not is_done:
        _copy(store, sandbox, clock, execution, is_over=True)


def forget(store: Store, clock: Clock) -> None:
    """Remove the pieces of executions that ended a while ago."""
    before = clock.now() - KEPT_S
    with store.begin(write=False) as tx:
        if not tx.outputs.left(before=before):
            return
    with store.begin() as tx:
        for key in tx.outputs.left(before=before):
            tx.outputs.forget(key)


def _copy(store: Store, sandbox: Sandbox, clock: Clock, execution: Execution, *, is_over: bool) -> None:
    with store.begin(write=False) as tx:
        end = tx.outputs.end(execution.id, execution.fence)
    room = max(0, min(execution.limits.output_bytes, MOST) - end)
    data = b""
    # What cannot be read now is read at the next look, or stands in the log that is collected.
    with contextlib.suppress(NotFoundError, SandboxUnavailableError):
        data = sandbox.follow(container_name(execution.id), end)[:room] if room else b""
    pieces = _pieces(execution, end, data if is_over else _whole(data), clock.now(), is_over=is_over)
    if not pieces:
        return
    with store.begin() as tx:
        now = tx.executions.get(execution.id)
        is_ours = now.state is ExecutionState.LAUNCHED and now.fence == execution.fence
        if is_ours and tx.outputs.end(execution.id, execution.fence) == end:
            tx.outputs.save(*pieces)


def _pieces(execution: Execution, offset: int, data: bytes, now: float, *, is_over: bool) -> list[Output]:
    cut: list[bytes] = []
    while data:
        cut.append(_whole(data[:PIECE]) or data[:PIECE])
        data = data[len(cut[-1]) :]
    made = []
    for part in [*cut, *([b""] if is_over else [])]:
        made.append(
            Output(
                id=_id(execution, offset),
                execution_id=execution.id,
                fence=execution.fence,
                offset=offset,
                data=part,
                at=now,
            )
        )
        offset += len(part)
    return made


def _whole(data: bytes) -> bytes:
    """Return bytes without a character at their end that is still incomplete."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return data[: len(data) - len(decoder.getstate()[0])]


def _id(execution: Execution, offset: int) -> str:
    return f"{execution.id}:{execution.fence}:{offset}"


def read(
    store: Store, artifacts: Artifacts, run_id: RunId, place: int, limit: int
) -> tuple[list[Printed], Over | None]:
    """Return what a run's newest attempt printed after a place, and the last word where nothing follows it."""
    with store.begin(write=False) as tx:
        run = tx.runs.get(run_id)
        executions = tx.executions.find(run_id=run_id, kind=Kind.RUN)
        if executions:
            return _printed(tx, executions[-1], _base(executions), place, limit)
        is_over = tx.directions.get(run.direction_id).is_final
    return _not_executed(artifacts, run, place, is_over=is_over)


def left(store: Store, run_id: RunId) -> str | None:
    """Return what is known of the output of a run's newest attempt that ended badly, which keeps no log; else None."""
    with store.begin(write=False) as tx:
        executions = tx.executions.find(run_id=run_id, kind=Kind.RUN)
    outcome = executions[-1].outcome if executions else None
    return outcome.output_tail if outcome and outcome.verdict is not Verdict.SUCCEEDED else None


def newest(store: Store, run_id: RunId) -> int:
    """Return the last place that there is to go on from."""
    with store.begin(write=False) as tx:
        executions = tx.executions.find(run_id=run_id, kind=Kind.RUN)
        if not executions:
            return _WHOLE
        last = executions[-1]
        end: int = _WHOLE if last.outcome else tx.outputs.end(last.id, last.fence)
        return _base(executions) + end


def _base(executions: Sequence[Execution]) -> int:
    place: int = (len(executions) - 1 << _EXECUTION_AT) + (executions[-1].fence << _FENCE_AT)
    return place


def _printed(
    tx: Transaction, execution: Execution, base: int, place: int, limit: int
) -> tuple[list[Printed], Over | None]:
    key, fence, offset = execution.id, execution.fence, max(0, place - base)
    shown = [
        Printed(
            place=base + piece.end,
            execution_id=key,
            offset=piece.offset,
            text=piece.data.decode("utf-8", "replace"),
        )
        for piece in tx.outputs.after(key, fence, offset, limit)
    ]
    outcome = execution.outcome
    if outcome is None or len(shown) == limit:
        return shown, None
    is_cut = outcome.truncated or tx.outputs.end(key, fence) >= MOST
    over = Over(verdict=outcome.verdict.value, exit_code=outcome.exit_code, truncated=is_cut)
    if offset < _WHOLE and outcome.output_tail and not tx.outputs.count(execution_id=key, fence=fence):
        shown.append(Printed(place=base + _WHOLE, execution_id=key, offset=None, text=outcome.output_tail))
    return shown, over


def _not_executed(artifacts: Artifacts, run: Run, place: int, *, is_over: bool) -> tuple[list[Printed], Over | None]:
    if run.log:
        text = artifacts.get(run.log).decode("utf-8", "replace")
        shown = [Printed(place=_WHOLE, execution_id=None, offset=None, text=text)] if place < _WHOLE and text else []
        return shown, Over(verdict="succeeded")
    if run.result is RunResult.PENDING and not is_over:
        return [], None
    return [], Over(verdict=run.attempts[-1].verdict if run.attempts else "cancelled")
