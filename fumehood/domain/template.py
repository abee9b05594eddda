"""A research template: its metrics, profiles and limits, read from `template.toml` or from what a plain folder has."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fumehood.domain.catalogue import Entry, EntryKind, Format
from fumehood.domain.execution import Kind, Limits

REQUIRED_FILES = ("experiment.py", "plot.py", "prompt.json", "seed_ideas.json", "latex/template.tex")
FROZEN_FILES = ("prepare.py", "evaluate.py")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(_Table):
    """What one number means."""

    title: str = ""
    direction: Literal["lower", "higher"] | None = None
    """Where better lies; None when the template does not say, and then nothing is ever compared by it."""
    unit: str = ""
    source: Literal["evaluator", "self"] = "self"
    primary: bool = False
    transform: Literal["none", "log"] = "none"
    resolution: float = 0.0
    """The smallest difference that means anything; a floor under the baseline's spread."""
    cap: float | None = Field(default=None, allow_inf_nan=False)
    """What a failed seed counts as, such as the limit of a time to a target; the worst value seen when left out."""
    is_time: bool = False
    """Whether it says how long something took, so that it counts only from runs that had their device alone."""


class Comparison(_Table):
    """What an idea and its baseline must share."""

    equal: Literal["updates", "samples", "flops", "wall_s"] = "updates"
    tolerance: float = 0.0
    flops_tolerance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """How far above the baseline's the operations of an answer, and of an update, may be; not compared without it."""
    may_change: tuple[str, ...] = ()
    argument: str = Field(default="", pattern=r"^(--[A-Za-z][\w-]*)?$")
    """By which `experiment.py` is told how much of `equal` it gets; a baseline can then be given a run's own."""

    @model_validator(mode="after")
    def _is_countable(self) -> Self:
        if self.argument and self.equal not in {"updates", "samples"}:
            raise ValueError("`argument` sets updates or samples: runs do not count anything else")
        return self


class LimitTable(_Table):
    """Limits of one kind of execution."""

    wall_s: float = 7200
    memory_mib: int = 4096
    storage_mib: int = 1024
    processes: int = 256
    cpus: float = 2.0
    output_kib: int = 1024

    def limits(self) -> Limits:
        """Return them as the sandbox takes them."""
        return Limits(
            wall_s=self.wall_s,
            memory_mib=self.memory_mib,
            storage_mib=self.storage_mib,
            processes=self.processes,
            cpus=self.cpus,
            output_bytes=self.output_kib * 1024,
        )


DEFAULT_LIMITS: dict[Kind, LimitTable] = {
    Kind.PREPARE: LimitTable(wall_s=600),
    Kind.RUN: LimitTable(),
    Kind.QUERY: LimitTable(wall_s=1800),
    Kind.EVALUATE: LimitTable(wall_s=1800),
    Kind.RESUME: LimitTable(),
    Kind.COMPARE: LimitTable(wall_s=1800),
    Kind.PLOT: LimitTable(wall_s=600),
    Kind.COMPILE: LimitTable(wall_s=120, memory_mib=1024, storage_mib=256),
}
"""What holds where a template says nothing; run, plot and compile as in the original system."""
LIKE: dict[Kind, Kind] = {Kind.RESUME: Kind.RUN, Kind.COMPARE: Kind.EVALUATE}
"""Whose limits a kind has where a profile sets none of its own."""


class Profile(_Table):
    """One size of a template."""

    arguments: tuple[str, ...] = ()
    """Added to `python experiment.py --out_dir=run_i`."""
    prepare_arguments: tuple[str, ...] = ()
    query_count: int = 0
    """For `sample` queries: how many samples are asked for, per data set and seed."""
    query_arguments: tuple[str, ...] = ()
    checkpoint_mib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The most of a run's outputs that its model may be asked with, for each data set and seed; any without it."""
    evaluate_arguments: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    """Empty means that the template does not take seeds."""
    confirm: bool = False
    gpus: int = Field(default=0, ge=0, le=64)
    """How many a run, and a question to its model, is given."""
    gpu_memory_mib: int | None = Field(default=None, ge=1)
    """What such an execution needs of each of them, so that several may share one; None has them alone."""
    limits: dict[Kind, LimitTable] = Field(default_factory=dict)

    def limits_of(self, kind: Kind) -> Limits:
        """Return the limits of a kind of execution."""
        set_here = self.limits.get(kind) or self.limits.get(LIKE.get(kind, kind))
        return (set_here or DEFAULT_LIMITS[kind]).limits()


class Prepare(_Table):
    """Arguments of `prepare.py` in every profile."""

    arguments: tuple[str, ...] = ()


class Query(_Table):
    """How the model that a run leaves is asked."""

    kind: Literal["sample", "predict", "characters"] = "sample"
    block: int = Field(default=256, ge=1, le=65536)
    """Of `characters`: how many a stream has, after which nothing of it is known any more."""
    streams: int = Field(default=32, ge=1, le=4096)
    """Of `characters`: how many are read beside each other, by one process."""
    tolerance: float = Field(default=0.001, ge=0, le=1, allow_inf_nan=False)
    """Of `characters`: how far a stream that is asked again alone may be answered otherwise, in nats."""


class Curve(_Table):
    """What a run writes down while it trains, for metrics that are a step: the first at which something holds."""

    metrics: tuple[str, ...] = Field(min_length=1)
    """Those that the evaluator reads off the curve."""
    answers: Literal["classes", "values"] = "classes"
    """What is written down of each input: the place of the largest of what `predict` gives, or all that it gives."""
    evaluations: int = Field(default=200, ge=1, le=100_000)
    """Most of them, per data set and seed."""
    curve_mib: int = Field(default=16, ge=1, le=1024)
    """The largest file of one data set and seed."""
    checkpoints: int = Field(default=4, ge=1, le=64)
    """Most that are kept, per data set and seed."""
    reruns: int = Field(default=2, ge=1, le=64)
    """How many data sets and seeds a run is drawn again for, by a stretch or two of it."""
    tolerance: float = Field(default=0.05, ge=0, lt=0.5, allow_inf_nan=False)
    """How far the same answers may be apart when they are made again, as a share of how far they move meanwhile."""


class Together(_Table):
    """How it is seen whether an edit leaves the seeds of a run independent, which one process trains."""

    check: tuple[str, ...] = Field(min_length=1)
    """Arguments, after the profile's, that make a run a matter of a moment."""


class PublicData(_Table):
    """A public file that a data set is made from; the platform fetches it, never a run."""

    title: str = ""
    url: str = Field(pattern=r"^https?://[^\s/]+/\S*$")
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Empty where nobody could say it beforehand: then an admin has to."""
    bytes: int = Field(ge=1, le=16 * 1024**3)
    licence: str = Field(min_length=1)
    source: str = ""
    """Who made it, and from what."""


DataName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class Takes(_Table):
    """What of the admin's catalogue the template's ideas may ask for."""

    formats: tuple[Format, ...] = ()
    """Of data that `prepare.py` finds in `data/catalogue` and cuts, each file a data set more."""
    models: bool = False
    """Whether runs may be given weights, in the folder that `FUMEHOOD_MODELS` names."""

    @property
    def takes_any(self) -> bool:
        """Whether anything can be asked for."""
        return bool(self.formats) or self.models

    def takes(self, entry: Entry) -> bool:
        """Whether an entry is of use here."""
        return self.models if entry.kind is EntryKind.MODEL else entry.format in self.formats


class ModelUse(_Table):
    """What the experiment's own program may ask of the direction's model while it runs."""

    usd_per_run: float = Field(ge=0, le=10_000, allow_inf_nan=False)
    """What all calls of one execution may cost together, in US dollars; nothing is enough for a free model only."""


class Template(_Table):
    """A template's own words about itself."""

    title: str
    summary: str = ""
    datasets: tuple[str, ...] = ()
    combine: Literal["mean"] = "mean"
    held_out: Literal["drawn", "fixed"] = "drawn"
    """Whether each seed draws held-out data of its own, or all are evaluated on the same, such as a fetched text."""
    outputs: tuple[str, ...] = ("**",)
    plots: tuple[str, ...] = ("*.png",)
    editable: tuple[str, ...] = ("experiment.py", "plot.py")
    packages: tuple[str, ...] = ()
    """Of the lab by their names alone; each with a version (`NAME==VERSION`) is one that its lab has more."""
    wheels: tuple[Annotated[str, Field(pattern=r"^wheels/[^/]+\.whl$")], ...] = ()
    """Files of the folder, which its lab has too."""
    metrics: dict[str, Metric] = Field(default_factory=dict)
    comparison: Comparison = Comparison()
    prepare: Prepare = Prepare()
    query: Query | None = None
    curve: Curve | None = None
    together: Together | None = None
    llm: ModelUse | None = None
    data: dict[DataName, PublicData] = Field(default_factory=dict)
    """By data set."""
    catalogue: Takes = Takes()
    asked: dict[DataName, Entry] = Field(default_factory=dict)
    """What an idea asked for of the catalogue, by name; the platform sets it, a template never does."""
    profiles: dict[str, Profile] = Field(default_factory=lambda: {"cpu": Profile()})

    @property
    def primary(self) -> str | None:
        """The name of the primary metric, if there is one."""
        return next((name for name, metric in self.metrics.items() if metric.primary), None)

    @property
    def is_timed(self) -> bool:
        """Whether runs are judged by a time, or are to have the same, so that each is given its device alone."""
        is_judged = self.primary is not None and self.metrics[self.primary].is_time
        return is_judged or self.comparison.equal == "wall_s"
