"""What is asked of a model, and who asks what for: the claims that each call carries."""

from __future__ import annotations

from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Experiment
from fumehood.domain.ledger import Claims
from fumehood.ports import Call, Prompt
from fumehood.services import templates
from fumehood.services.world import WriteWorld

TOKEN_LIFE_S = 3600.0
"""Longer than any one call, shorter than a night."""


def claims_for(
    world: WriteWorld,
    direction: Direction,
    role: str,
    *,
    experiment: Experiment | None = None,
    idea: str = "",
    index: int = 0,
    run: int = 0,
    attempt: int = 0,
    subject: str = "",
    prompt: Prompt | None = None,
) -> Claims:
    """Return the claims of one call; reviews go to the direction's review model.

    All calls of one role that one claim of a step makes for an experiment have one token's id. It opens nothing once
    the step is no longer in this claim's hands.
    """
    of = experiment.id if experiment else None
    in_hand = world.in_hand
    token = in_hand.tokens.get((role, of), "") if in_hand else ""
    if not token:
        token = world.clock.new_id("tok")
    if in_hand:
        in_hand.tokens[role, of] = token
    return Claims(
        tenant=direction.tenant,
        direction_id=direction.id,
        experiment_id=of,
        role=role,
        model=direction.review_model if role == "review" else direction.model,
        idea=idea,
        index=index,
        run=run,
        attempt=attempt,
        subject=subject,
        prompt=prompt.name if prompt else "",
        prompt_sha256=prompt.sha256 if prompt else "",
        playbook=direction.template_files.get("offline.toml", ""),
        id=token,
        step=in_hand.step.id if in_hand else "",
        fence=in_hand.step.fence if in_hand else 0,
        expires_at=world.clock.now() + TOKEN_LIFE_S,
    )


def question(
    world: WriteWorld, claims: Claims, prompt: Prompt, *, system: str, max_tokens: int = 4096, temperature: float = 0.7
) -> Call:
    """Return a call; beside the words given as `system` it carries the platform's own rules."""
    return Call(
        claims=claims,
        system=world.prompts.render("system", template_system=system).text,
        prompt=prompt.text,
        blocks=prompt.blocks,
        repeated=prompt.repeated,
        max_tokens=max_tokens,
        temperature=temperature,
    )


def words_of(world: WriteWorld, direction: Direction) -> tuple[str, str]:
    """Return a template's own words for a model: who it is, and the task."""
    return templates.prompt_of(direction.template_files, world.artifacts)
