"""One call from token to record: checked, reserved, sent, settled, kept."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fumehood.domain.ledger import CallText, Claims, ModelCall, ModelUsage
from fumehood.errors import FumehoodError, StoreUnavailableError
from fumehood.gateway import request, sse, tokens
from fumehood.gateway.accounts import Accounts, Reservation
from fumehood.gateway.adapt import adapt
from fumehood.gateway.hanging_up import HangUp, beginning
from fumehood.gateway.late import AWAY, Late
from fumehood.gateway.models import Model, Models
from fumehood.gateway.prices import Tokens, is_told
from fumehood.gateway.request import Body
from fumehood.gateway.scrub import without_keys, without_secrets
from fumehood.gateway.sse import Event, Tally
from fumehood.gateway.upstream import Message, Upstream, UpstreamError
from fumehood.observe import context, metrics, traces
from fumehood.ports import Artifacts, Clock, Store

_OK, _DISCONNECTED, _BROKEN, _TIMED_OUT = 200, 499, 502, 504
TRIES = 3
"""How often a call is sent of which no answer came that the provider may yet take money for."""
KEEPING = 8
"""Requests that are made ready to be kept at once; others wait for them, as their answers do."""
MOST_BESIDE = 256 * 1024
"""Bytes of a text that is kept beside the record of its call; a longer one lies with the artifacts."""
SHORT_TOKENS = 4096
_LOG = logging.getLogger("fumehood.gateway")

Encode = Callable[[Event], bytes]
"""Writes an event as the caller's protocol has it; nothing where it has no such thing."""


class WrongModelError(FumehoodError):
    """The caller asked for another model than its token allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Everything a call needs."""

    store: Store
    artifacts: Artifacts
    clock: Clock
    secret: bytes
    upstreams: Mapping[str, Upstream]
    """By the names that the models' table gives them."""
    models: Models
    keys: Callable[[], Iterable[str]] = tuple
    """The providers' keys, which no record may hold."""
    most_beside: int = MOST_BESIDE
    accounts: Accounts = field(init=False)
    late: Late = field(init=False)
    keeping: ThreadPoolExecutor = field(init=False)
    """Makes what is asked ready to be kept while the provider is waited for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "accounts", Accounts(self.store, self.clock))
        object.__setattr__(self, "late", Late())
        object.__setattr__(self, "keeping", ThreadPoolExecutor(KEEPING, "keeping"))

    def claims(self, token: str) -> Claims:
        """Return what a token says; `TokenError` when it is none of ours, or has ended."""
        return tokens.read(token, self.secret, self.clock.now())

    def model(self, claims: Claims) -> tuple[str, str]:
        """Return the one model that a token is for, and who answers for it."""
        name = self.accounts.bound(claims).model
        return name, self.models.of(name).upstream

    def upstream(self, claims: Claims, body: Body) -> Upstream:
        """Return the side that answers for the model that the token and the request name."""
        if body["model"] != claims.model:
            raise WrongModelError(f"This token is for the model {claims.model!r}, not for {body['model']!r}.")
        return self.upstreams[self.models.of(claims.model).upstream]

    def count(self, claims: Claims, raw: bytes) -> int:
        """Return how many tokens a prompt has."""
        claims = self.accounts.bound(claims)
        body = request.parse(raw, counting=True)
        upstream = self.upstream(claims, body)
        self.accounts.check(claims)
        return upstream.count(claims, adapt(body, self.models.of(claims.model)))

    def open(self, claims: Claims, raw: bytes, parent: str = "") -> Exchange:
        """Check a call and reserve its worst case; `parent` is the `traceparent` of whoever asks."""
        claims = self.accounts.bound(claims)
        body = request.parse(raw)
        upstream = self.upstream(claims, body)
        facts = self.models.of(claims.model)
        adapted = adapt(body, facts)
        most_input, most_output = request.most_input_tokens(adapted), adapted["max_tokens"]
        worst = facts.at_worst(most_input, most_output, cached=request.uses_cache(adapted))
        call_id = self.clock.new_id("call")
        reservation = self._reserve(call_id, claims, worst, most_input + most_output)
        return Exchange(self, upstream, facts, reservation, body, adapted, parent)

    def _reserve(self, call_id: str, claims: Claims, usd: float, most_tokens: int) -> Reservation:
        try:
            return self.accounts.reserve(call_id, claims, usd, most_tokens)
        except StoreUnavailableError:
            # The commit may have come through though nobody heard of it, and then it would stay reserved for good.
            self.late.carry_out(lambda: self.accounts.withdraw(call_id))
            raise


class Exchange:
    """One call under way; it is closed exactly once, whatever happens."""

    def __init__(
        self,
        desk: Desk,
        upstream: Upstream,
        facts: Model,
        reservation: Reservation,
        asked: Body,
        body: Body,
        parent: str = "",
    ) -> None:
        self._desk = desk
        self._upstream = upstream
        self._facts = facts
        self._reservation = reservation
        self._asked = asked
        self._body = body
        self._parent = parent
        self._started = desk.clock.now()
        self._tries = 1
        self._closing = threading.Lock()
        self._is_closed = False
        # A short one is ready in less time than a thread takes to begin.
        is_long = request.most_input_tokens(body) > SHORT_TOKENS
        self._kept_request = desk.keeping.submit(self._keep, asked, tuple(desk.keys())) if is_long else None

    @property
    def wants_stream(self) -> bool:
        """Whether the caller asked for events."""
        return bool(self._body.get("stream"))

    @property
    def prompt(self) -> Tokens:
        """The tokens of a call that was left before anything came, at the most that this can be."""
        return self._at_most(self.most_output if self.thinks else 0)

    @property
    def worst(self) -> Tokens:
        """The tokens of a call of which nothing is known but that it was sent: what was set aside for it."""
        return self._at_most(self.most_output)

    @property
    def most_output(self) -> int:
        """How many tokens the answer may have."""
        return int(self._body["max_tokens"])

    def _at_most(self, output: int) -> Tokens:
        most_input, cached = request.most_input_tokens(self._body), request.uses_cache(self._body)
        return self._facts.worst_tokens(most_input, output, cached=cached)

    @property
    def thinks(self) -> bool:
        """Whether the model may write what nobody is shown, and what is paid for all the same."""
        return bool(self._facts.headroom or self._body.get("thinking"))

    def send(self) -> Message:
        """Return the whole answer."""
        try:
            message = self._upstream.send(self._reservation.claims, self._body)
        except BaseException as error:
            self.fail(error)
            if again := self._again(error):
                return again.send()
            raise
        self.close(_OK, message, message.get("usage"))
        return message

    def stream(self, encode: Encode = sse.encode) -> Relay:
        """Return the answer's events, written by `encode`; what fails before the first one is raised here."""
        hang_up = HangUp()
        try:
            with beginning(hang_up):
                return Relay(self, self._upstream.stream(self._reservation.claims, self._body), encode, hang_up)
        except BaseException as error:
            self.fail(error)
            if again := self._again(error):
                return again.stream(encode)
            raise

    def fail(self, error: BaseException) -> None:
        """Close a call that got no answer; one that may have been paid for has cost what was set aside."""
        text = str(error) if isinstance(error, FumehoodError) else type(error).__name__
        status, usage = 500, Tokens()
        if isinstance(error, UpstreamError):
            status, usage = error.status, self.worst if error.maybe_paid else Tokens()
        self.close(status, {"type": "error", "error": {"message": text}}, usage)

    def _again(self, error: BaseException) -> Exchange | None:
        """Return the same call with money of its own, where it may be sent once more; None where it may not."""
        is_cut = isinstance(error, UpstreamError) and error.maybe_paid and error.status != _TIMED_OUT
        if not is_cut or self._tries >= TRIES:
            return None
        again = self._desk.open(self._reservation.claims, json.dumps(self._asked).encode(), self._parent)
        again._tries = self._tries + 1
        return again

    def close(self, status: int, reply: Mapping[str, Any], usage: object) -> None:
        """Settle by the `usage` that a provider told, or by tokens; release where these are none. The first time only.

        While database or artifacts are away that is done later; the worst case stays reserved until then, and the
        answer, which is paid for, goes out.
        """
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        ended = self._desk.clock.now()
        self._desk.late.carry_out(lambda: self._book_or_forfeit(status, reply, usage, ended))

    def _book_or_forfeit(self, status: int, reply: Mapping[str, Any], usage: object, ended: float) -> None:
        try:
            self._book(status, reply, usage, ended)
        except AWAY:
            raise
        except Exception:  # noqa: BLE001 - logged; whoever waits has a right to the answer
            # The answer is paid for and goes out. What is not known to be less has cost what was set aside.
            _LOG.exception("the call %s could not be written down", self._reservation.call_id)
            self._desk.accounts.forfeit(self._reservation.call_id)

    def _book(self, status: int, reply: Mapping[str, Any], usage: object, ended: float) -> None:
        spent = usage if isinstance(usage, Tokens) else self._counted(usage)
        if spent == Tokens():
            call, text = self._record(status, reply, ModelUsage(), ended)
            self._desk.accounts.release(self._reservation, call, text)
        else:
            call, text = self._record(status, reply, spent.usage(self._facts.cost(spent)), ended)
            self._desk.accounts.settle(self._reservation, call, text)
        self._tell(call)

    def _counted(self, usage: object) -> Tokens:
        """Return the tokens of an answer; what its provider does not count, it may have used all that it might."""
        told = usage if isinstance(usage, Mapping) else {}
        if not is_told(told, "input_tokens"):
            return self.worst
        return Tokens.of(told if is_told(told, "output_tokens") else {**told, "output_tokens": self.most_output})

    def _tell(self, call: ModelCall) -> None:
        metrics.MODEL_CALL_SECONDS.labels(call.upstream, call.role, str(call.status)).observe(call.duration_s)
        told = {name: getattr(call, name) for name in ("role", "model", "upstream", "status")}
        told |= {
            "call": call.id,
            "token": self._reservation.claims.id,
            "duration_s": round(call.duration_s, 6),
            **dataclasses.asdict(call.usage),
        }
        claims = self._reservation.claims
        with context.working_on(tenant=claims.tenant, direction=claims.direction_id, experiment=claims.experiment_id):
            if traces.is_on():
                ends = call.at + call.duration_s
                named = {name: value for name, value in told.items() if name != "duration_s"}
                traces.ended("model call", self._parent or self._origin(), call.at, ends, **context.ids(), **named)
            _LOG.info("%s for %s: %d in %.3f s", call.model, call.role, call.status, call.duration_s, extra=told)

    def _origin(self) -> str:
        """Return the trace of the direction, for callers that carry none, as a coder's program."""
        with self._desk.store.begin(write=False) as tx:
            first = tx.steps.find(direction_id=self._reservation.claims.direction_id, name="begin")
        return "".join(traces.carried_by(step.payload) for step in first)

    def _keep(self, said: Mapping[str, Any], keys: Iterable[str]) -> tuple[str, bytes]:
        """Return a text's SHA-256, and the text itself where it is to lie beside the record; a longer one is kept."""
        text = without_keys(json.dumps(without_secrets(said), ensure_ascii=False, sort_keys=True), keys)
        data = text.encode("utf-8", "surrogatepass")
        if len(data) > self._desk.most_beside:
            return self._desk.artifacts.put(data), b""
        return hashlib.sha256(data).hexdigest(), data

    def _request(self, keys: Iterable[str]) -> tuple[str, bytes]:
        if self._kept_request is None:
            return self._keep(self._asked, keys)
        try:
            return self._kept_request.result()
        except AWAY:
            # The artifacts may be back by now.
            return self._keep(self._asked, keys)

    def _record(
        self, status: int, reply: Mapping[str, Any], usage: ModelUsage, ended: float
    ) -> tuple[ModelCall, CallText]:
        claims, keys = self._reservation.claims, tuple(self._desk.keys())
        request_sha256, request = self._request(keys)
        reply_sha256, replied = self._keep(reply, keys) if reply else ("", b"")
        call = ModelCall(
            id=self._reservation.call_id,
            direction_id=claims.direction_id,
            experiment_id=claims.experiment_id,
            role=claims.role,
            model=claims.model,
            upstream=self._upstream.name,
            claims=_written(claims),
            request=request_sha256,
            reply=reply_sha256,
            status=status,
            usage=usage,
            at=self._started,
            duration_s=ended - self._started,
        )
        return call, CallText(id=call.id, request=request, reply=replied)


@functools.lru_cache(tokens.READ)
def _written(claims: Claims) -> str:
    """Return claims as a call's record has them."""
    kept = {key: value for key, value in dataclasses.asdict(claims).items() if key != "expires_at"}
    return json.dumps(kept, sort_keys=True)


class Relay:
    """Hands a stream's events on, as bytes, and closes the call by what was seen of it."""

    def __init__(self, exchange: Exchange, events: Iterator[Event], encode: Encode, hang_up: HangUp) -> None:
        self._exchange = exchange
        self.hang_up = hang_up
        """Ends the provider's stream from any thread; `next` then returns None."""
        self._events = events
        self._encode = encode
        self._tally = Tally()
        self._is_cut = False

    def next(self) -> bytes | None:
        """Return the next event; None after the last, when the call is closed."""
        try:
            event = next(self._events, None)
        except UpstreamError as error:
            if self.hang_up.is_done:
                self._finish(_DISCONNECTED)
                return None
            self._is_cut = error.maybe_paid
            event = _error(error.kind, str(error))
        except BaseException:
            self._finish(500)
            raise
        if event is None and (self._tally.is_whole or self._tally.error is not None):
            self._finish(_OK)
            return None
        if event is None:
            # Not every client notices that an end is missing.
            self._is_cut = True
            event = _error("api_error", "The provider's stream broke off.")
        self._tally.see(event)
        if self._tally.is_whole or self._tally.error is not None:
            # Closed before the last event goes out: who has read a stream to its end finds it in the ledger.
            self._finish(_OK)
        return self._encode(event)

    def close(self) -> None:
        """End it early: the caller has gone. What was counted until now is settled."""
        self._finish(_DISCONNECTED)

    def _finish(self, status: int) -> None:
        tally = self._tally
        if tally.error is not None or (status == _OK and not tally.is_whole):
            status = _BROKEN
        try:
            close = getattr(self._events, "close", None)
            if close is not None:
                close()
        finally:
            reply = tally.message or {"type": "error", "error": tally.error or {}}
            self._exchange.close(status, reply, self._usage(status))

    def _usage(self, status: int) -> object:
        if self._tally.message is not None:
            is_known = self._tally.is_counted or not self._exchange.thinks
            unseen = {} if is_known else {"output_tokens": self._exchange.most_output}
            return self._tally.usage | unseen
        if self._is_cut:
            return self._exchange.worst
        # The provider has the prompt, and was left before it said what that is.
        return self._exchange.prompt if status == _DISCONNECTED else Tokens()


def _error(kind: str, message: str) -> Event:
    return {"type": "error", "error": {"type": kind, "message": message}}
