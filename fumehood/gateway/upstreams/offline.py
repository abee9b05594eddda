"""The offline model: a deterministic program that answers each role from a template's playbook and from real results.

It is keyed by the token's claims and by the facts it is shown, never by a prompt's wording, and it costs nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fumehood.domain.ledger import Claims
from fumehood.gateway.request import Body, estimate_tokens
from fumehood.gateway.sse import Event, events_of
from fumehood.gateway.upstream import Message
from fumehood.gateway.upstreams.playbook import Playbook, proposal_of, refuse
from fumehood.ports import Artifacts

Facts = dict[str, Any]
Answer = str | dict[str, Any]

_NEAR, _SAME = 0.5, 0.95
"""Overlap below which a work says nothing about an idea, and from which on it is the same idea."""

_MENDED = "mended"
"""The subject of calls about an edit whose open points went back."""


class OfflineModel:
    """The upstream of the model `offline`."""

    name = "offline"

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._roles: Mapping[str, Callable[[Claims, str], Answer]] = {
            "idea": self._idea,
            "reflection": self._reflection,
            "novelty": self._novelty,
            "novelty_query": self._novelty_query,
            "novelty_decision": self._novelty_decision,
            "coder": self._coder,
            "fidelity": self._fidelity,
            "plot": self._plot,
            "drawing": self._drawing,
            "notes": self._notes,
            "section": self._section,
            "title": self._section,
            "citation": self._citation,
            "refine": self._refine,
            "review": self._review,
            "execution": self._execution,
        }

    def send(self, claims: Claims, body: Body) -> Message:
        """Return the answer of a role, through the tool when one is forced, else as text."""
        role = self._roles.get(claims.role)
        if role is None:
            raise refuse(f"The offline model has no answer for the role {claims.role!r}.")
        return _message(body, role(claims, _asked(body)))

    def stream(self, claims: Claims, body: Body) -> Iterator[Event]:
        """Return the same answer as events."""
        return events_of(self.send(claims, body))

    def count(self, claims: Claims, body: Body) -> int:  # noqa: ARG002 - part of the port
        """Return about how many tokens the prompt has."""
        return _prompt_tokens(body)

    def _execution(self, _: Claims, asked: str) -> Answer:
        return f"The offline model read {len(asked.split())} words."

    def _playbook(self, claims: Claims) -> Playbook:
        return Playbook.load(self._artifacts, claims.playbook)

    def _idea(self, claims: Claims, _: str) -> Answer:
        return self._playbook(claims).proposal(claims.index)

    def _reflection(self, claims: Claims, _: str) -> Answer:
        playbook = self._playbook(claims)
        same = proposal_of(playbook.idea(claims.idea)) if claims.idea else playbook.proposal(claims.index)
        return {**same, "done": True}

    def _novelty(self, claims: Claims, asked: str) -> Answer:
        return (
            self._novelty_decision(claims, asked) if "evidence" in facts_in(asked) else self._novelty_query(claims, "")
        )

    def _novelty_query(self, claims: Claims, _: str) -> Answer:
        queries = self._playbook(claims).idea(claims.idea).get("queries", [])
        at = max(claims.attempt, 1) - 1
        return {"query": str(queries[at]) if at < len(queries) else None, "decision": None}

    def _novelty_decision(self, _: Claims, asked: str) -> Answer:
        return decide(facts_in(asked).get("evidence") or [])

    def _coder(self, claims: Claims, _: str) -> Answer:
        return self._playbook(claims).edit(claims.idea, claims.run, claims.attempt, mending=claims.subject == _MENDED)

    def _fidelity(self, claims: Claims, asked: str) -> Answer:
        files = [str(one) for one in facts_in(asked).get("files") or ()]
        if not files:
            raise refuse("The offline model was asked to read an edit and shown no file of it.")
        is_mended = claims.subject == _MENDED
        return self._playbook(claims).reading(claims.idea, claims.run, claims.attempt, files, mended=is_mended)

    def _plot(self, claims: Claims, asked: str) -> Answer:
        runs = [str(one) for one in facts_in(asked).get("runs") or ()]
        return self._playbook(claims).plot(claims.idea, claims.attempt, runs)

    def _drawing(self, _: Claims, asked: str) -> Answer:
        figures = [one for one in facts_in(asked).get("figures") or () if isinstance(one, dict)]
        return {"notes": [{"file": str(one.get("file", "")), "note": _paper().drawing(one)} for one in figures]}

    def _notes(self, _: Claims, asked: str) -> Answer:
        return notes_from(facts_in(asked))

    def _section(self, claims: Claims, asked: str) -> Answer:
        playbook = self._playbook(claims)
        table = {**playbook.table, "idea": playbook.idea(claims.idea)} if claims.idea else dict(playbook.table)
        return str(_paper().compose(claims.subject or claims.role, facts_in(asked), table))

    def _citation(self, _: Claims, __: str) -> Answer:
        return {"queries": []}

    def _refine(self, _: Claims, asked: str) -> Answer:
        facts = facts_in(asked)
        if "text" in facts:
            return str(facts["text"])
        draft = _last_block(asked, "draft")
        if draft is None:
            raise refuse("The offline model was asked to refine a text that it was not shown.")
        return draft

    def _review(self, _: Claims, asked: str) -> Answer:
        return dict(_paper().review(facts_in(asked)))


def _paper() -> Any:
    # Imported only when a paper is written, so that the gateway starts quickly.
    return importlib.import_module("fumehood.gateway.upstreams.offline_paper")


def facts_in(asked: str) -> Facts:
    """Return the last block of facts in what was asked; empty when there is none."""
    block = _last_block(asked, "facts")
    if block is None:
        return {}
    try:
        facts = json.loads(block)
    except ValueError as error:
        raise refuse(f"The block of facts is not JSON: {error}.") from error
    return facts if isinstance(facts, dict) else {}


def _last_block(asked: str, tag: str) -> str | None:
    lines = asked.split("\n")
    marks = [line.strip() for line in lines]
    for end in range(len(lines) - 1, -1, -1):
        if marks[end] == f"</{tag}>" and f"<{tag}>" in marks[:end]:
            start = end - 1 - marks[:end][::-1].index(f"<{tag}>")
            return "\n".join(lines[start + 1 : end])
    return None


def decide(evidence: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the novelty verdict that follows from how far works found overlap; a word count never says `novel`."""
    if not evidence:
        return _verdict("unknown", "The searches found no work at all, which proves nothing.")
    nearest = max(evidence, key=lambda item: float(item.get("overlap") or 0.0))
    overlap = float(nearest.get("overlap") or 0.0)
    named = f"the nearest work found is “{nearest.get('title', '')}”, with an overlap of {overlap:.2f}"
    if overlap < _NEAR:
        return _verdict("unknown", f"Nothing near was found: {named}, below {_NEAR}; that proves nothing.")
    if overlap >= _SAME:
        return _verdict("not_novel", f"It is already known: {named}, at or above {_SAME}.")
    return _verdict("unknown", f"Near work exists, which a word count cannot judge: {named}.")


def _verdict(decision: str, reason: str) -> dict[str, Any]:
    return {"query": None, "decision": decision, "reason": reason}


def notes_from(facts: Facts) -> str:
    """Return two or three plain sentences on a run, from its facts alone."""
    name = f"Run {facts['run']}" if "run" in facts else "This run"
    title = str(facts.get("title") or "").strip().rstrip(".")
    sentences = [f"{name} tried: {title}." if title else f"{name} was carried out."]
    metric, value, baseline = facts.get("metric"), _number(facts.get("value")), _number(facts.get("baseline"))
    if metric and value is not None:
        beside = f", beside {baseline:.4g} for the baseline" if baseline is not None else ""
        sentences.append(f"It measured a {metric} of {value:.4g}{beside}.")
    else:
        sentences.append("Its numbers are in its record.")
    if facts.get("verdict"):
        sentences.append(f"The verdict of the run was: {str(facts['verdict']).rstrip('.')}.")
    return " ".join(sentences)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _asked(body: Body) -> str:
    texts = []
    for message in body["messages"]:
        if message["role"] == "user":
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            texts += [str(block.get("text", "")) for block in blocks if block.get("type") == "text"]
    return "\n".join(texts)


def _message(body: Body, answer: Answer) -> Message:
    tool = _forced_tool(body)
    said = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    name = hashlib.sha256(json.dumps([body["messages"], said], sort_keys=True).encode("utf-8", "surrogatepass"))
    block: dict[str, Any]
    if tool and isinstance(answer, dict):
        block = {"type": "tool_use", "id": f"toolu_{name.hexdigest()[:24]}", "name": tool, "input": answer}
    else:
        block = {"type": "text", "text": answer if isinstance(answer, str) else f"```json\n{said}\n```"}
    return {
        "id": f"msg_{name.hexdigest()[:24]}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [block],
        "stop_reason": "tool_use" if block["type"] == "tool_use" else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": _prompt_tokens(body),
            "output_tokens": estimate_tokens(said),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }


def _forced_tool(body: Body) -> str | None:
    choice = body.get("tool_choice") or {}
    if choice.get("type") == "tool":
        return str(choice.get("name"))
    if choice.get("type") == "any" and body.get("tools"):
        return str(body["tools"][0]["name"])
    return None


def _prompt_tokens(body: Body) -> int:
    said = {key: body[key] for key in ("system", "messages", "tools") if key in body}
    return estimate_tokens(json.dumps(said, ensure_ascii=False))
