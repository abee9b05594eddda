"""Server-sent events of the Messages API: written, read, made from a message and put together into one."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

from fumehood.gateway.prices import Tokens, is_told
from fumehood.gateway.request import strict_json

Event = dict[str, Any]

_PIECE = 240
"""Characters in one delta of a message that was whole from the start."""


def encode(event: Event) -> bytes:
    """Return an event as it goes over the wire."""
    # All of it ASCII: half a pair of surrogates, as a cut answer may hold, is no UTF-8.
    data = json.dumps(event, separators=(",", ":"))
    return f"event: {event.get('type', 'message')}\ndata: {data}\n\n".encode()


def decode(lines: Iterable[str]) -> Generator[Event, None, None]:
    """Read events from the lines of a response; what is not a JSON object is left out."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            try:
                event = json.loads("\n".join(data))
            except (ValueError, RecursionError):
                event = None
            data = []
            if isinstance(event, dict):
                yield event


def events_of(message: Mapping[str, Any]) -> Iterator[Event]:
    """Return the event sequence by which a provider would have streamed this message."""
    usage = dict(message["usage"])
    start = {
        **message,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 1},
    }
    yield {"type": "message_start", "message": start}
    for index, block in enumerate(message["content"]):
        yield {"type": "content_block_start", "index": index, "content_block": _empty(block)}
        if index == 0:
            yield {"type": "ping"}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]},
        "usage": {"output_tokens": usage["output_tokens"]},
    }
    yield {"type": "message_stop"}


def _empty(block: Mapping[str, Any]) -> Event:
    return {**block, "input": {}} if block["type"] == "tool_use" else {**block, "text": ""}


def _deltas(block: Mapping[str, Any]) -> Iterator[Event]:
    if block["type"] == "tool_use":
        text = json.dumps(block["input"], ensure_ascii=False)
        yield {"type": "input_json_delta", "partial_json": ""}
        for piece in _pieces(text):
            yield {"type": "input_json_delta", "partial_json": piece}
    else:
        for piece in _pieces(block["text"]):
            yield {"type": "text_delta", "text": piece}


def _pieces(text: str) -> Iterator[str]:
    return (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))


class Tally:
    """Puts a stream's events together again, to know what was said and what it cost, also when it breaks off."""

    def __init__(self) -> None:
        self.message: dict[str, Any] | None = None
        self.error: Mapping[str, Any] | None = None
        self.is_whole = False
        self._json: dict[int, str] = {}
        self.is_counted = False
        """Whether the provider has said how long the answer is."""
        self._bytes = 0

    def see(self, event: Event) -> None:
        """Take one event into account."""
        kind = event.get("type")
        if kind == "message_start":
            self.message = {**_table(event.get("message")), "content": []}
        elif kind == "error":
            self.error = _table(event.get("error"))
        elif self.message is None:
            return
        elif kind == "content_block_start":
            self.message["content"].append(dict(_table(event.get("content_block"))))
        elif kind == "content_block_delta":
            self._add(event.get("index"), _table(event.get("delta")))
        elif kind == "content_block_stop":
            self._close(event.get("index"))
        elif kind == "message_delta":
            self.message.update(_table(event.get("delta")))
            counted = {key: value for key, value in _table(event.get("usage")).items() if value is not None}
            self.message["usage"] = {**_table(self.message.get("usage")), **counted}
            self.is_counted = is_told(counted, "output_tokens")
        elif kind == "message_stop":
            self.is_whole = True

    @property
    def usage(self) -> dict[str, Any]:
        """The usage as counted by the provider; what came after its last count is estimated, upwards."""
        usage = dict(_table((self.message or {}).get("usage")))
        if self.message is not None and not self.is_counted:
            usage["output_tokens"] = max(Tokens.of(usage).output, -(-self._bytes // 2))
        return usage

    def _block(self, index: object) -> dict[str, Any] | None:
        content = self.message["content"] if self.message else []
        return content[index] if isinstance(index, int) and 0 <= index < len(content) else None

    def _add(self, index: Any, delta: Mapping[str, Any]) -> None:
        block = self._block(index)
        if block is None:
            return
        field = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
        kind = str(delta.get("type"))
        if kind == "input_json_delta":
            piece = str(delta.get("partial_json", ""))
            self._json[index] = self._json.get(index, "") + piece
        elif kind in field:
            piece = str(delta.get(field[kind], ""))
            block[field[kind]] = str(block.get(field[kind]) or "") + piece
        else:
            return
        self._bytes += len(piece.encode("utf-8", "surrogatepass"))

    def _close(self, index: Any) -> None:
        block = self._block(index)
        text = self._json.pop(index, "") if block is not None else ""
        if block is not None and text:
            try:
                block["input"] = strict_json(text)
            except (ValueError, RecursionError):
                block["input"] = {"unreadable": text}


def _table(value: object) -> Mapping[str, Any]:
    # A provider's event is shown on as it came, but its count must not fail on an odd one.
    return value if isinstance(value, Mapping) else {}
