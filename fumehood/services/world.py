"""What the two kinds of worker hold in their hands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fumehood.domain.execution import Device
from fumehood.domain.machine import Machine
from fumehood.domain.policy import Policy
from fumehood.domain.step import Step
from fumehood.ports import (
    Artifacts,
    Clock,
    Coder,
    Fetcher,
    Literature,
    Model,
    Prompts,
    Sandbox,
    Signer,
    Store,
    Typesetter,
)
from fumehood.services.presence import Presence

MODEL_TRIES = 5
"""How often a step asks for a model that is away before its work is held."""


@dataclass(frozen=True, slots=True)
class InHand:
    """The claim of a step under which models are asked, and the ids of the tokens that were given for it."""

    step: Step
    tokens: dict[tuple[str, str | None], str] = field(default_factory=dict)
    """By role and experiment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteWorld:
    """Models and text, no container engine."""

    store: Store
    artifacts: Artifacts
    clock: Clock
    model: Model
    coder: Coder
    literature: Literature
    prompts: Prompts
    typesetter: Typesetter
    fetcher: Fetcher | None = None
    """Has what ideas ask for got; without it nothing can be had."""
    policy: Policy = field(default_factory=Policy)
    """What every direction, idea and diff is screened by."""
    confirm: Mapping[str, Any] = field(default_factory=dict)
    """The settings' values in the place of the confirmation rule's own."""
    replicate: bool = False
    """Whether what is confirmed is replicated by another conversation that sees the method section alone."""
    packages: frozenset[str] = frozenset()
    """What an experiment can import beside the standard library; empty where that is not known."""
    extra_imports: Callable[[str], frozenset[str]] = lambda _: frozenset()
    """What the lab of an image adds to that, where it is known."""
    model_tries: int = MODEL_TRIES
    presence: Presence | None = None
    """Shows that this process is at work, where somebody asks."""
    in_hand: InHand | None = None
    """What is being done; set for the one step that it is handed to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWorld:
    """The container engine and the signing key; it asks no model itself, and has no way out."""

    store: Store
    artifacts: Artifacts
    clock: Clock
    sandbox: Sandbox
    signer: Signer
    derive_key: Callable[[str], bytes]
    """The installation secret's HMAC of a text, 32 bytes."""
    device: Callable[[Sequence[str]], Device] = lambda _: Device()
    """What an execution with these GPUs computes on here."""
    gpus: tuple[str, ...] = ()
    """The devices that this worker may pass in, as the engine names them."""
    gpu_memory_mib: Mapping[str, int] = field(default_factory=dict)
    """How much memory each has; a device that is not in it is never shared."""
    machine: Machine | None = None
    """What executions share here; without it, they begin however many there are."""
    presence: Presence | None = None
