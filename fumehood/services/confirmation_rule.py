"""Which rule a direction is confirmed by, and the seeds of both arms; fixed before anything is measured."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from typing import Any

from fumehood.domain.confirmation import ConfirmRule, rule_for
from fumehood.domain.direction import Direction
from fumehood.domain.idea import IdeaKind
from fumehood.domain.template import Metric, Profile, Template
from fumehood.errors import BadInputError
from fumehood.services.confirming import Measure
from fumehood.services.templates import template_hash, unconfirmable

FIRST_FRESH, FRESH = 1_100_000_000, 1_000_000_000
"""Fresh seeds are drawn from so many numbers above every screen's; all of them fit in 31 bits."""


def rule_of(
    template: Template, profile: Profile, files: Collection[str], ideas: int, given: Mapping[str, Any]
) -> ConfirmRule | None:
    """Return a direction's rule; None where the profile does not confirm, or the platform does not produce its number.

    Args:
        template: Its words.
        profile: The direction's.
        files: The names of the template's files.
        ideas: How many the direction asks for; the rule has room for as many, at least.
        given: The settings' values in the place of the rule's own.

    Raises:
        BadInputError: The settings' values make no rule.
    """
    if not profile.confirm or unconfirmable(template, profile, files):
        return None
    rule = rule_for(max(1, len(template.datasets)))
    try:
        rule = dataclasses.replace(rule, **given)
    except ValueError as error:
        raise BadInputError(f"The settings of FUMEHOOD_CONFIRM make no rule: {error}") from error
    return dataclasses.replace(rule, ideas=max(rule.ideas, ideas))


def measure_of(metric: Metric) -> Measure:
    """Return the primary metric as the rule takes it; `BadInputError` for one that says no direction."""
    if metric.direction is None:
        raise BadInputError("The primary metric does not say where better lies.")
    return Measure(direction=metric.direction, transform=metric.transform, resolution=metric.resolution, cap=metric.cap)


def screen_seeds(direction: Direction, profile: Profile) -> tuple[int, ...]:
    """Return the seeds of a direction's runs: the profile's, moved on by the direction's own."""
    return _moved(direction, profile, direction.rule.screen_seeds if direction.rule else None)


def baseline_seeds(direction: Direction, profile: Profile) -> tuple[int, ...]:
    """Return the seeds of the baseline that runs are screened against; those of the runs come first."""
    rule = direction.rule
    return _moved(direction, profile, max(rule.screen_baseline, rule.screen_seeds) if rule else None)


def _moved(direction: Direction, profile: Profile, count: int | None) -> tuple[int, ...]:
    seeds = tuple(seed + 1000 * direction.seed for seed in profile.seeds)
    if count is None or not seeds:
        return seeds
    more = range(max(seeds) + 1, max(seeds) + 1 + max(0, count - len(seeds)))
    return (*seeds[:count], *more)


def run_seeds(direction: str, code: Mapping[str, str], kind: IdeaKind, count: int) -> tuple[int, ...]:
    """Return the fresh seeds of a run: a replication has others than the study, also where its code came out the same.

    Else it would find the very numbers again that it is to find without them.
    """
    return fresh_seeds(f"{direction}/{kind}" if kind is IdeaKind.REPLICATION else direction, code, count)


def fresh_seeds(direction: str, code: Mapping[str, str], count: int) -> tuple[int, ...]:
    """Return seeds for a confirmation of this code, which nobody can know before the code is written down.

    Drawn from a hash of the code itself: the same for who repeats the direction, others for every other edit. The data
    that go with a seed are drawn from the installation's secret.

    Args:
        direction: Id of the direction whose run it is.
        code: Path to SHA-256 of what is measured.
        count: How many; all different.
    """
    drawn: dict[int, None] = {}
    number = 0
    while len(drawn) < count:
        told = f"{direction}/{template_hash(code)}/{number}".encode()
        drawn[FIRST_FRESH + int.from_bytes(hashlib.sha256(told).digest()[:8], "big") % FRESH] = None
        number += 1
    return tuple(drawn)
