"""The shape of what a paper may speak of: plain JSON values, so that a prompt can carry them."""

from __future__ import annotations

from typing import Any, TypedDict


class Number(TypedDict):
    """One number that a paper may print, and where it comes from."""

    value: float
    digits: int
    source: str
    pointer: str


class MetricWords(TypedDict):
    """What one metric is."""

    title: str
    direction: str | None
    """`lower`, `higher`, or None where the template does not say; then it is never compared."""
    unit: str
    source: str
    """`evaluator`: the platform measured it. `self`: the experiment reported it about itself."""
    primary: bool
    datasets: list[str]


class TemplateFacts(TypedDict):
    """What is studied."""

    name: str
    title: str
    summary: str
    datasets: list[str]
    metrics: dict[str, MetricWords]
    primary: str | None
    equal: str


class SetupRow(TypedDict):
    """One line of the set-up, out of a record or of the template's profile."""

    name: str
    value: str
    number: str
    """Name of the number among `numbers` that `value` prints; empty where the value is text."""
    source: str


class IdeaFacts(TypedDict):
    """What was proposed and promised."""

    name: str
    title: str
    kind: str
    hypothesis: str
    plan: str
    metric: str
    expected: str
    changes: list[str]
    scores: dict[str, int]
    scored_by: str
    novelty: str
    novelty_reason: str
    evidence: list[dict[str, Any]]


class DatasetFacts(TypedDict):
    """One metric of one run on one data set, against the baseline."""

    mean: float | None
    stderr: float | None
    difference: float | None
    word: str
    judgement: str
    noise: float | None


class MetricFacts(TypedDict):
    """One metric of one run, against the baseline."""

    mean: float | None
    """None where not every data set has the metric."""
    stderr: float | None
    source: str
    difference: float | None
    relative_percent: float | None
    word: str
    """`lower`, `higher`, `equal`, or empty where there is no baseline value."""
    judgement: str
    """`better`, `worse`, `same`: which side by the metric's direction, not a finding; empty without direction."""
    noise: float | None
    """Size of the difference in its own standard errors."""
    not_comparable: str
    """Why it is compared with nothing, such as `shared_device`: of this run or of the baseline; empty where it is."""
    datasets: dict[str, DatasetFacts]


class ContrastFacts(TypedDict):
    """The screen's contrast of one run; positive is the wanted side."""

    value: float
    se: float | None
    df: float | None
    p: float | None
    datasets: dict[str, float]
    left_out: dict[str, str]
    complete: bool


class RunFacts(TypedDict):
    """One run: what it was, what became of it, what it measured."""

    name: str
    index: int
    title: str
    description: str
    result: str
    attempts: list[dict[str, Any]]
    seeds: list[int]
    metrics: dict[str, MetricFacts]
    contrast: ContrastFacts | None
    label: str
    """`promising`, `not shown` or `not_comparable: ...`; empty for the baseline and for a run without a comparison."""
    budget: list[str]
    """In which counts it differs from the baseline beyond the declared tolerance, one sentence each."""
    counts: dict[str, float]


class ConfirmationFacts(TypedDict):
    """What a confirmation came to; its numbers are `confirmation.*`."""

    run: str
    """Folder of the screened run that was measured again."""
    title: str
    label: str
    """Such as `better` or `not_comparable: undecided`."""
    outcome: str
    look: int
    """1 or 2; 0 where nothing was looked at."""
    seeds: int
    """Fresh seeds of the run by then."""
    baseline_seeds: int
    screened: int
    """Runs that there were to choose from."""
    index: int
    """This is the direction's so-manieth confirmation, in this epoch of the rule."""
    ideas: int
    """Of how many that the level is spread over."""
    discoveries: int
    transform: str
    datasets: list[str]
    left_out: dict[str, str]
    contradicting: list[str]
    failed: int
    base_failed: int
    alone: bool
    """Whether seeds were run alone, because they had failed together."""
    baseline_untuned: bool
    """The idea had several tries, and the baseline one."""
    error_is_assured: bool


class FigureFacts(TypedDict):
    """A figure that exists."""

    file: str
    caption: str
    """As the notebook has it; empty where it has none."""
    runs: list[str]
    """Folders of the runs that it shows; its caption names them without anybody's doing."""


class Facts(TypedDict):
    """Everything that a paper about one experiment may speak of."""

    template: TemplateFacts
    profile: dict[str, Any]
    setup: list[SetupRow]
    idea: IdeaFacts
    metric: str
    """The metric that the results speak of first; empty when nothing was measured."""
    baseline: RunFacts
    runs: list[RunFacts]
    confirmation: ConfirmationFacts | None
    """None where nothing was confirmed."""
    outcome: str
    label: str
    limitations: list[str]
    figures: list[FigureFacts]
    model: dict[str, Any]
    coder: str
    notes: str
    constants: list[str]
    """Decimals that stand in the code or the arguments; a paper may print them without a placeholder."""
    numbers: dict[str, Number]
