"""A template whose executions take a moment each, with a playbook for the offline model: a direction in seconds."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.laboratory import TINY, write_template

NAME = "quick"
IDEA = '''
[[ideas]]
name = "{name}"
title = "{title}"
experiment = "{plan}"
interestingness = 6
feasibility = 9
novelty = 4
kind = "improvement"
hypothesis = "{hypothesis}"
metric = "error"
direction = "lower"
changes = ["scale"]
queries = ["{title}"]

[[ideas.runs]]
title = "Scale {scale}"
description = "The scale becomes {scale}."

[[ideas.runs.attempts]]
reply = """
experiment.py
```python
<<<<<<< SEARCH
SCALE = 1.0
=======
SCALE = {scale}
>>>>>>> REPLACE
```
"""
'''
FIRST = IDEA.format(
    name="smaller_scale",
    title="A Smaller Scale for Circles",
    plan="Divide the scale and compare errors against the untouched program.",
    hypothesis="A smaller scale lowers the error.",
    scale=0.5,
)
SUBJECTS = (
    ("momentum", "Heavy Balls Roll Downhill", "Introduce momentum coefficients and watch convergence."),
    ("quantised", "Eight Levels Without Retraining", "Round parameters after fitting finishes; record degradation."),
    ("curriculum", "Easy Samples Before Hard Ones", "Order examples by difficulty during early epochs."),
    ("dropout", "Silencing Units at Random", "Mask hidden activations with several probabilities."),
    ("ensembles", "Averaging Independent Learners", "Fit five copies and combine their outputs."),
    ("pruning", "Removing Weak Connections Late", "Delete small weights once training ends."),
    ("warmup", "Slow Beginnings for Adaptive Rates", "Ramp the learning speed linearly across updates."),
    ("labels", "Softer Targets Against Confidence", "Smooth one-hot vectors towards uniform distributions."),
    ("noise", "Perturbed Inputs as Regularisers", "Add Gaussian jitter to coordinates before embedding."),
)
"""Of further ideas, which share too few words with one another to pass for one: name, title and plan of each."""


def playbook(ideas: int = 1) -> str:
    """Return what the offline model answers for so many ideas, each with one run and another scale."""
    more = (
        IDEA.format(
            name=name, title=title, plan=plan, hypothesis=f"{title} lowers errors.", scale=round(0.9 - at / 10, 1)
        )
        for at, (name, title, plan) in enumerate(SUBJECTS)
    )
    return "".join([FIRST, *more][:ideas]) if ideas > 1 else FIRST


def write_quick_template(shipped: Path, *, lasts_s: float = 0.0, ideas: int = 1, confirm: bool = False) -> Path:
    """Write it into a folder of templates, and return its own; its experiment sleeps for so long before it ends."""
    sleep = f"import time\n\ntime.sleep({lasts_s})\n" if lasts_s else ""
    program = TINY["experiment.py"].replace("values = [", f"{sleep}values = [", 1)
    words = TINY["template.toml"]
    if confirm:
        words = words.replace("[profiles.tiny]\n", "[profiles.tiny]\nconfirm = true\n")
    changed = {"experiment.py": program, "template.toml": words, "offline.toml": playbook(ideas)}
    return write_template(shipped / NAME, {**TINY, **changed})
