"""What is read over the wire, besides directions."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from fumehood.domain.experiment import Experiment, Run
from fumehood.gateway.models import Model
from fumehood.gateway.prices import Rates

T = TypeVar("T")
_DIRECTION = "dir_01kaw3v6rsv2xq8s5y9m4tz7hn"
_IDEA = "idea_01kaw3v9m1c7d2e5f8g0h3j6kq"
_EXPERIMENT = "exp_01kaw3vb4n8p1r5t9w2y6z0a3c"
_RUN = "run_01kaw3vd7f2g6h0j4k8m1n5p9q"
_SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(from_attributes=True, json_schema_extra={"examples": [fields]})


class Page(BaseModel, Generic[T]):
    """One page of a list."""

    items: list[T]
    next: str | None = Field(default=None, examples=[None])
    """The cursor of the next page; null on the last."""


class ScoreRead(BaseModel):
    """A number from 1 to 10 and the reason given for it."""

    model_config = _example(value=7, reason="Nobody has tried it on thin shapes.")
    value: int
    reason: str


class EvidenceRead(BaseModel):
    """One work, or one earlier idea, that the novelty check looked at."""

    model_config = _example(key="ho2020", title="Denoising diffusion", overlap=0.4, query="noise schedule")
    key: str
    title: str
    overlap: float
    query: str


_SCORE = {"value": 7, "reason": "Nobody has tried it on thin shapes."}


class IdeaRead(BaseModel):
    """One proposal: what it says, how it scores, whether it is new."""

    model_config = _example(
        id=_IDEA,
        direction_id=_DIRECTION,
        index=0,
        name="smooth_schedule",
        title="A smoother noise schedule",
        experiment="Replace the linear schedule by a cosine.",
        hypothesis="The error falls.",
        metric="kl",
        expected="lower",
        kind="improvement",
        interestingness=_SCORE,
        feasibility=_SCORE,
        novelty_score=_SCORE,
        scored_by="model",
        novelty="novel",
        novelty_reason="Nothing near was found.",
        evidence=[],
        requests=["austen"],
        waits_for="it asks for austen, which is not in the catalogue, or not for this tenant and template",
        created_at=1_763_800_000.0,
    )
    id: str
    direction_id: str
    index: int
    name: str
    title: str
    experiment: str
    hypothesis: str
    metric: str
    expected: str
    kind: str
    interestingness: ScoreRead
    feasibility: ScoreRead
    novelty_score: ScoreRead
    scored_by: str
    decision: str
    novelty: str
    novelty_reason: str
    evidence: list[EvidenceRead]
    requests: list[str]
    """Entries of the catalogue that it asks for."""
    waits_for: str
    """Why it waits for an admin; empty where it does not."""
    created_at: float


class ExperimentRead(BaseModel):
    """One idea being carried out."""

    model_config = _example(
        id=_EXPERIMENT,
        direction_id=_DIRECTION,
        idea_id=_IDEA,
        name="smooth_schedule",
        index=0,
        state="done",
        hold="none",
        baseline_id=_RUN,
        outcome=None,
        label="not_comparable: screen_only",
        limitations=[],
        has_paper=True,
        forked_from=None,
        from_step="",
        edited=[],
        created_at=1_763_800_000.0,
        ended_at=1_763_800_900.0,
        error="",
    )
    id: str
    direction_id: str
    idea_id: str
    name: str
    index: int
    state: str
    hold: str
    baseline_id: str | None
    outcome: str | None
    label: str
    limitations: list[str]
    has_paper: bool
    forked_from: str | None
    """The experiment that this one shares its earlier steps with."""
    from_step: str
    """The first step that a fork does itself."""
    edited: list[str]
    """What a person changed before that: paths, `notes`, `plan`."""
    created_at: float
    ended_at: float | None
    error: str

    @classmethod
    def of(cls, experiment: Experiment) -> ExperimentRead:
        """Return an experiment as it is shown."""
        told = {name: getattr(experiment, name) for name in cls.model_fields if name != "has_paper"}
        told |= {"limitations": list(experiment.limitations), "edited": list(experiment.edited)}
        return cls(**told, has_paper="paper.pdf" in experiment.products)


class AttemptRead(BaseModel):
    """A run tried once."""

    model_config = _example(number=1, verdict="failed", error_tail="NameError: name 'x' is not defined")
    number: int
    verdict: str
    error_tail: str


class RunRead(BaseModel):
    """One measurement of one version of the code; index 0 is the baseline."""

    model_config = _example(
        id=_RUN,
        direction_id=_DIRECTION,
        experiment_id=_EXPERIMENT,
        index=1,
        title="Cosine schedule",
        description="The schedule is a cosine.",
        result="measured",
        attempts=[],
        seeds=[1, 2],
        has_log=True,
        has_record=True,
    )
    id: str
    direction_id: str
    experiment_id: str | None
    index: int
    title: str
    description: str
    result: str
    attempts: list[AttemptRead]
    seeds: list[int]
    has_log: bool
    has_record: bool

    @classmethod
    def of(cls, run: Run) -> RunRead:
        """Return a run as it is shown."""
        plain = ("id", "direction_id", "experiment_id", "index", "title", "description", "result")
        return cls(
            **{name: getattr(run, name) for name in plain},
            attempts=[AttemptRead.model_validate(one) for one in run.attempts],
            seeds=list(run.seeds),
            has_log=bool(run.log),
            has_record=bool(run.record),
        )


class ArtifactRead(BaseModel):
    """One file of an experiment."""

    model_config = _example(id=f"art_01kaw3vb4n8p1r5t9w2y6z0a3c_{_SHA[:32]}", path="run_1/log.txt", sha256=_SHA)
    id: str
    path: str
    """As in a finished folder, below the experiment's."""
    sha256: str


class ChangeRead(BaseModel):
    """What an experiment did to one file of its template."""

    model_config = _example(path="experiment.py", kind="changed", diff="--- a/experiment.py\n+++ b/experiment.py\n")
    path: str
    kind: str
    diff: str
    """Unified; empty where a side is no text or too long."""


class FindingRead(BaseModel):
    """What the audit found in an edit before it ran."""

    model_config = _example(
        kind="seeds",
        severity="flagged",
        path="experiment.py",
        line=12,
        sentence="experiment.py line 12 sets a seed of its own: take every random number from the seeds.",
    )
    kind: str
    severity: str
    """`refused`: the edit did not run; `flagged`: it did."""
    path: str
    line: int
    sentence: str


class AuditedRead(BaseModel):
    """One edit in which the audit found something."""

    model_config = _example(subject="run_1", attempt=1, findings=[])
    subject: str
    """The run's folder, or `plot`."""
    attempt: int
    findings: list[FindingRead]


class PointRead(BaseModel):
    """One thing that a reading of an edit beside its plan found."""

    model_config = _example(
        kind="without_effect",
        path="experiment.py",
        sentence="Line 40: self.gate is made and nothing uses it.",
        found_by="program",
        open=True,
    )
    kind: str
    """`implemented`, `missing`, `extra` or `without_effect`."""
    path: str
    """The file, or the run's folder."""
    sentence: str
    found_by: str
    """`call`: a model that was asked outside the coder's conversation; `program`: the platform itself."""
    open: bool


class FidelityRead(BaseModel):
    """One version of a run's code, read beside its plan or after it was measured."""

    model_config = _example(subject="run_1", attempt=1, stage="edit", went_back=True, points=[])
    subject: str
    """The run's folder."""
    attempt: int
    stage: str
    """`edit`: before it ran; `mended`: after open points had gone back; `results`: when its numbers were there."""
    went_back: bool
    """Whether its open points went back to the coder in the place of a run."""
    points: list[PointRead]


class DiffRead(BaseModel):
    """What an experiment changed in the code of its template."""

    model_config = _example(files=[{"path": "experiment.py", "kind": "changed", "diff": ""}], audit=[], fidelity=[])
    files: list[ChangeRead]
    audit: list[AuditedRead]
    """Edits that were refused or flagged, in order."""
    fidelity: list[FidelityRead]
    """What edits and results showed beside their plans, in order."""


class ReviewRead(BaseModel):
    """One review of a paper."""

    model_config = _example(name="review.json", review={"Overall": 4, "Decision": "Reject"})
    name: str
    review: dict[str, Any]


class ReviewsRead(BaseModel):
    """The reviews of a paper."""

    model_config = _example(items=[{"name": "review.json", "review": {"Overall": 4, "Decision": "Reject"}}])
    items: list[ReviewRead]


class TemplateRead(BaseModel):
    """A template that a direction may name."""

    model_config = _example(
        name="2d_diffusion", title="2D diffusion", summary="Small shapes.", profiles=["cpu", "tiny"], metrics=["kl"]
    )
    name: str
    title: str
    summary: str
    profiles: list[str]
    metrics: list[str]


class TemplatesRead(BaseModel):
    """The templates that came with the platform."""

    model_config = _example(items=[])
    items: list[TemplateRead]


class LongPricesRead(BaseModel):
    """What a whole call costs whose prompt is longer than so many tokens."""

    model_config = _example(
        above_tokens=200_000, input_usd=6.0, output_usd=22.5, cache_read_usd=0.6, cache_write_usd=7.5
    )
    above_tokens: int
    input_usd: float
    output_usd: float
    cache_read_usd: float
    cache_write_usd: float


class CapabilitiesRead(BaseModel):
    """What a model takes."""

    model_config = _example(tools=True, forced_tools=True, images=True, sampling=True)
    tools: bool
    forced_tools: bool
    """Whether a caller may force it to use one."""
    images: bool
    sampling: bool
    """Whether it takes temperature, top_p and top_k."""


_MODEL: dict[str, Any] = {
    "name": "claude-sonnet-4-6",
    "upstream": "anthropic",
    "free": False,
    "input_usd": 3.0,
    "output_usd": 15.0,
    "cache_read_usd": 0.3,
    "cache_write_usd": 3.75,
    "long": None,
    "capabilities": {"tools": True, "forced_tools": True, "images": True, "sampling": True},
}


class ModelRead(BaseModel):
    """A model, what it costs in USD per million tokens, and what it takes."""

    model_config = _example(**_MODEL)
    name: str
    upstream: str
    """Who answers."""
    free: bool
    input_usd: float
    output_usd: float
    cache_read_usd: float
    cache_write_usd: float
    long: LongPricesRead | None
    capabilities: CapabilitiesRead

    @classmethod
    def of(cls, name: str, facts: Model) -> ModelRead:
        """Return a model as it is shown."""
        long = facts.long_rates
        return cls(
            name=name,
            upstream=facts.upstream,
            free=facts.free,
            **_prices(facts.rates),
            long=LongPricesRead(above_tokens=facts.long_above, **_prices(long)) if long else None,
            capabilities=CapabilitiesRead(
                tools=facts.tools, forced_tools=facts.forced_tools, images=facts.images, sampling=facts.sampling
            ),
        )


def _prices(rates: Rates) -> dict[str, float]:
    return {f"{name}_usd": getattr(rates, name) for name in ("input", "output", "cache_read", "cache_write")}


class ModelsRead(BaseModel):
    """The models that a direction may name."""

    model_config = _example(items=[_MODEL])
    items: list[ModelRead]


class SigningKeyRead(BaseModel):
    """A public key that signs records."""

    model_config = _example(id=f"sha256:{_SHA}", pem="-----BEGIN PUBLIC KEY-----\n...\n-----END PUBLIC KEY-----\n")
    id: str
    pem: str


class SigningKeysRead(BaseModel):
    """The public keys that sign records."""

    model_config = _example(items=[])
    items: list[SigningKeyRead]


class SummaryRead(BaseModel):
    """A direction's row of the results table, and a line for each experiment."""

    model_config = _example(
        direction=_DIRECTION,
        state="done",
        model="offline",
        template="2d_diffusion",
        profile="tiny",
        ideas=3,
        novel=2,
        novelty_unknown=1,
        refused=[],
        experiments_passed=1,
        papers=1,
        mean_score=4.0,
        max_score=4.0,
        cost_usd=0.0,
        usage=[
            {
                "stage": "ideas",
                "calls": 3,
                "input_tokens": 9000,
                "cached_tokens": 12000,
                "output_tokens": 1500,
                "usd": 0.05,
            }
        ],
        experiments=[],
        error="",
    )
    direction: str
    state: str
    model: str
    template: str
    profile: str
    ideas: int
    novel: int
    novelty_unknown: int
    refused: list[dict[str, Any]]
    experiments_passed: int
    papers: int
    mean_score: float | None
    max_score: float | None
    cost_usd: float
    usage: list[dict[str, Any]]
    experiments: list[dict[str, Any]]
    error: str
