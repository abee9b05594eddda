"""One proposal: what it says, how it scores, whether it is new."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fumehood.domain.ids import DirectionId, IdeaId
from fumehood.domain.policy import PolicyVerdict, Screening


class IdeaKind(StrEnum):
    """What an idea promises."""

    IMPROVEMENT = "improvement"
    ANALYSIS = "analysis"
    REPLICATION = "replication"


class Novelty(StrEnum):
    """What the novelty check found."""

    UNCHECKED = "unchecked"
    NOVEL = "novel"
    NOT_NOVEL = "not_novel"
    UNKNOWN = "unknown"
    """Nothing near was found in the sources at hand, which proves nothing; or what was found could not be judged."""
    NEAR_DUPLICATE = "near_duplicate"
    """Too close to an idea already in the archive; never carried out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One work, or one earlier idea, that the novelty check looked at."""

    key: str
    title: str
    overlap: float
    """Share of the query's words found in it, from 0 to 1."""
    query: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A number from 1 to 10 and the reason given for it."""

    value: int
    reason: str


class Decision(StrEnum):
    """What a person said of an idea."""

    OPEN = "open"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Idea:
    """One proposal."""

    id: IdeaId
    direction_id: DirectionId
    index: int
    """From 0, in the order proposed."""
    name: str
    title: str
    experiment: str
    """The plan, in a few sentences."""
    interestingness: Score
    feasibility: Score
    novelty_score: Score
    scored_by: str
    """`model`, `playbook` (the offline model) or `person`."""
    kind: IdeaKind = IdeaKind.IMPROVEMENT
    hypothesis: str = ""
    metric: str = ""
    """The primary metric that the hypothesis speaks of."""
    expected: str = ""
    """`lower` or `higher`: where the metric should go."""
    changes: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    """The catalogue's entries that it asks for."""
    novelty: Novelty = Novelty.UNCHECKED
    novelty_reason: str = ""
    evidence: tuple[Evidence, ...] = ()
    reflections: int = 0
    created_at: float = 0.0
    extra: Mapping[str, str] = field(default_factory=dict)
    """What the admin's policy said of it, where it was screened: `policy`, `policy_rule` and `policy_reason`; and under
    `catalogue` why what it asks for cannot be given, until that is settled.
    """

    decision: Decision = Decision.OPEN
    """What a person said of it, where somebody was asked or spoke."""

    @property
    def goes_on(self) -> bool:
        """Whether the idea is worth an experiment."""
        is_new = self.novelty in {Novelty.NOVEL, Novelty.UNKNOWN, Novelty.UNCHECKED}
        return is_new and self.decision is not Decision.REJECTED and not self.is_refused

    @property
    def is_screened(self) -> bool:
        """Whether the admin's policy has said something of it."""
        return "policy" in self.extra

    @property
    def is_refused(self) -> bool:
        """Whether the policy or an admin refused it, whatever others decided."""
        return self.extra.get("policy") == PolicyVerdict.REFUSED

    @property
    def awaits_admin(self) -> bool:
        """Whether it would go on, once an admin has looked at it."""
        return self.goes_on and (self.needs_a_person or bool(self.lacks))

    @property
    def needs_a_person(self) -> bool:
        """Whether the policy wants a person to look at it."""
        return self.extra.get("policy") == PolicyVerdict.NEEDS_A_PERSON

    @property
    def lacks(self) -> str:
        """Why what it asks for of the catalogue cannot be given; empty where nothing is in the way."""
        return self.extra.get("catalogue", "")

    @property
    def waits_for(self) -> str:
        """Why it waits for an admin, as a person reads it; empty where it does not."""
        if not self.awaits_admin:
            return ""
        policy = self.screening.sentence if self.needs_a_person else ""
        return "; ".join(why for why in (policy, self.lacks) if why)

    def lacking(self, why: str) -> Idea:
        """Return this idea, which waits until an admin has settled why it cannot have what it asks for; or nothing."""
        others = {name: told for name, told in self.extra.items() if name != "catalogue"}
        return dataclasses.replace(self, extra={**others, "catalogue": why} if why else others)

    @property
    def screening(self) -> Screening:
        """What the policy, or an admin, said of it last."""
        return Screening(
            verdict=PolicyVerdict(self.extra.get("policy", PolicyVerdict.ALLOWED)),
            rule=self.extra.get("policy_rule", ""),
            reason=self.extra.get("policy_reason", ""),
        )

    def screened(self, found: Screening) -> Idea:
        """Return this idea with a verdict of the policy, or with an admin's that takes its place."""
        told = {"policy": found.verdict.value, "policy_rule": found.rule, "policy_reason": found.reason}
        return dataclasses.replace(self, extra={**self.extra, **told})
