"""What crosses the wire."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from fumehood.domain.direction import LEAST_PRIORITY, MOST_PRIORITY, Approve, Direction
from fumehood.domain.idea import IdeaKind

NAME = r"^[!-~]+$"
"""Printable and without spaces."""


Amount = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


_BUDGET: dict[str, Any] = {
    "usd": 5.0,
    "usd_per_experiment": 1.5,
    "usd_per_call": 0.25,
    "gpu_seconds": None,
    "wall_s": 3600.0,
}


class Budget(BaseModel):
    """The most that a direction may cost; null is no limit."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_BUDGET]})
    usd: Amount | None = None
    """What models may cost."""
    usd_per_experiment: Amount | None = None
    """What the calls for one experiment may cost; over it only that experiment is held."""
    usd_per_call: Amount | None = None
    """What one call of a model may cost at most."""
    gpu_seconds: Amount | None = None
    """Once they are used up, no execution begins."""
    wall_s: Amount | None = None
    """Seconds that executions run, added up; once they are used up, none begins."""


class ReviewCreate(BaseModel):
    """How papers are reviewed."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(default=None, max_length=200, pattern=NAME)
    """The same as `review_model`."""
    reflections: Annotated[int, Field(ge=0, le=10, strict=True)] | None = None
    ensemble: Annotated[int, Field(ge=1, le=20, strict=True)] | None = None
    fewshot: Annotated[int, Field(ge=0, le=5, strict=True)] | None = None


class DirectionCreate(BaseModel):
    """A research direction as it is submitted."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "template": "2d_diffusion",
                    "text": "Does a smoother noise schedule help on thin shapes?",
                    "model": "offline",
                    "ideas": 3,
                    "runs": 2,
                    "profile": "tiny",
                    "budget": _BUDGET,
                }
            ]
        },
    )
    template: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """The name of a shipped template; a path is never accepted from the wire."""
    text: str | None = Field(default=None, max_length=20_000, pattern=r"^[^\x00]*$")
    model: str = Field(default="offline", max_length=200, pattern=NAME)
    review_model: str | None = Field(default=None, max_length=200, pattern=NAME)
    ideas: int = Field(default=50, ge=1, le=500, strict=True)
    runs: int = Field(default=5, ge=1, le=20, strict=True)
    profile: str = Field(default="cpu", max_length=40, pattern=NAME)
    novelty: StrictBool = True
    seed: int = Field(default=0, ge=0, le=1_000_000, strict=True)
    sandbox: Literal["auto", "docker", "local"] = "auto"
    budget: Budget = Budget()
    priority: int = Field(default=0, ge=LEAST_PRIORITY, le=MOST_PRIORITY, strict=True)
    """Among one's own directions: a higher one goes first, but for what has waited long."""
    parent: str | None = Field(default=None, max_length=40, pattern=NAME)
    """A confirmed experiment whose code is the new baseline."""
    strategy: str = Field(default="list", max_length=40, pattern=NAME)
    """How ideas are searched for; `list` is all there is."""
    review: ReviewCreate = ReviewCreate()
    approve: Approve = Approve.AUTO
    """What a person is asked before it is done: nothing, which ideas are carried out, or each step too."""

    @model_validator(mode="after")
    def _one_reviewer(self) -> Self:
        if self.review_model and self.review.model and self.review_model != self.review.model:
            raise ValueError("review_model and review.model name two models; give one")
        return self


class DirectionRead(BaseModel):
    """A research direction and where it stands."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "dir_01kaw3v6rsv2xq8s5y9m4tz7hn",
                    "template": "2d_diffusion",
                    "text": "Does a smoother noise schedule help on thin shapes?",
                    "model": "offline",
                    "profile": "tiny",
                    "ideas": 3,
                    "runs": 2,
                    "budget": _BUDGET,
                    "priority": 0,
                    "parent": None,
                    "strategy": "list",
                    "review": {"model": "offline", "reflections": None, "ensemble": None, "fewshot": None},
                    "state": "running",
                    "hold": "none",
                    "error": "",
                    "created_at": 1_763_800_000.0,
                    "ended_at": None,
                }
            ]
        }
    )
    id: str
    template: str
    text: str
    model: str
    profile: str
    ideas: int
    runs: int
    budget: Budget
    priority: int
    parent: str | None
    strategy: str
    review: ReviewCreate
    state: str
    hold: str
    error: str
    created_at: float
    ended_at: float | None

    @classmethod
    def of(cls, direction: Direction) -> DirectionRead:
        """Return a direction as it is shown."""
        return cls(
            id=direction.id,
            template=direction.template,
            text=direction.text,
            model=direction.model,
            profile=direction.profile,
            ideas=direction.ideas,
            runs=direction.runs,
            budget=Budget(
                usd=direction.budget_usd,
                usd_per_experiment=direction.budget_usd_per_experiment,
                usd_per_call=direction.budget_usd_per_call,
                gpu_seconds=direction.budget_gpu_s,
                wall_s=direction.budget_wall_s,
            ),
            priority=direction.priority,
            parent=direction.parent,
            strategy=direction.strategy,
            review=ReviewCreate(model=direction.review_model, **dataclasses.asdict(direction.reviewing)),
            state=direction.state,
            hold=direction.hold,
            error=direction.error,
            created_at=direction.created_at,
            ended_at=direction.ended_at,
        )


class IdeaCreate(BaseModel):
    """An idea of one's own."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"title": "A wider network", "experiment": "Double the width, then halve it."}]
        },
    )
    name: str = Field(default="", max_length=40, pattern=r"^[^\x00]*$")
    title: str = Field(min_length=1, max_length=300, pattern=r"^[^\x00]*\S[^\x00]*$")
    experiment: str = Field(min_length=1, max_length=8000, pattern=r"^[^\x00]*\S[^\x00]*$")
    kind: IdeaKind = IdeaKind.IMPROVEMENT
    hypothesis: str = Field(default="", max_length=2000, pattern=r"^[^\x00]*$")
    metric: str = Field(default="", max_length=200, pattern=r"^[^\x00]*$")
    expected: Literal["lower", "higher", ""] = ""


class FeedbackCreate(BaseModel):
    """A comment."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "Look at the thin shapes first."}]}
    )
    text: str = Field(min_length=1, max_length=4000, pattern=r"^[^\x00]*\S[^\x00]*$")


class FeedbackRead(BaseModel):
    """A comment that was kept."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "evt_01kaw3v6rsv2xq8s5y9m4tz7hn",
                    "direction_id": "dir_01kaw3v6rsv2xq8s5y9m4tz7hn",
                    "experiment_id": None,
                    "author": "key_01kaw3v9m1c7d2e5f8g0h3j6kq",
                    "text": "Look at the thin shapes first.",
                    "at": 1_763_800_000.0,
                }
            ]
        },
    )
    id: str
    direction_id: str
    experiment_id: str | None
    author: str
    text: str
    at: float


Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]


class EditsCreate(BaseModel):
    """What a person changes of an experiment before its later steps are done again."""

    model_config = ConfigDict(extra="forbid")
    files: dict[Annotated[str, Field(min_length=1, max_length=200)], Annotated[Text, Field(max_length=524_288)]] = (
        Field(default={}, max_length=20)
    )
    """The new text of editable files, by path."""
    notes: Annotated[Text, Field(max_length=200_000)] | None = None
    plan: Annotated[str, Field(min_length=1, max_length=8000, pattern=r"^[^\x00]*\S[^\x00]*$")] | None = None


class ForkCreate(BaseModel):
    """Where a fork of an experiment begins, and what is changed before."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"from": "writing", "edits": {"notes": "The thin shapes gained most."}}]},
    )
    from_step: str = Field(alias="from", min_length=1, max_length=40, pattern=NAME)
    """`run_K`, `plotting`, `writing` or `reviewing`."""
    edits: EditsCreate = EditsCreate()


class Health(BaseModel):
    """Whether the process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})
    status: Literal["ok"] = "ok"


class CheckRead(BaseModel):
    """What one thing says that the work needs."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "database", "ok": True, "why": ""}]})
    name: str
    ok: bool
    why: str
    """One sentence where it is not ok."""


class Ready(BaseModel):
    """All that the work needs answers."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"status": "ready", "checks": [{"name": "database", "ok": True, "why": ""}]}],
        }
    )
    status: Literal["ready"] = "ready"
    checks: list[CheckRead]


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str
    """Stable; meant for programs."""
    title: str
    status: int
    detail: str
    """One sentence for a person."""
    request_id: str
    """What the logs call this request; also in the answer's `X-Request-Id`."""


class NotReady(Problem):
    """Something that the work needs is away."""

    checks: list[CheckRead]
