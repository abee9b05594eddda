"""A template whose executions take a moment each, with a playbook for the offline model: a direction in seconds."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.laboratory import TINY, write_template

NAME = "quick"
PLAYBOOK = '''
[[ideas]]
name = "smaller_scale"
title = "A Smaller Scale for Circles"
experiment = "Divide the scale and compare errors against the untouched program."
interestingness = 6
feasibility = 9
novelty = 4
kind = "improvement"
hypothesis = "A smaller scale lowers the error."
metric = "error"
direction = "lower"
changes = ["scale"]
queries = ["circles at half their scale"]

[[ideas.runs]]
title = "Half the scale"
description = "The scale is halved."

[[ideas.runs.attempts]]
reply = """
experiment.py
```python
<<<<<<< SEARCH
SCALE = 1.0
=======
SCALE = 0.5
>>>>>>> REPLACE
```
"""
'''


def write_quick_template(shipped: Path, *, lasts_s: float = 0.0) -> Path:
    """Write it into a folder of templates, and return its own; its experiment sleeps for so long before it ends."""
    sleep = f"import time\n\ntime.sleep({lasts_s})\n" if lasts_s else ""
    program = TINY["experiment.py"].replace("values = [", f"{sleep}values = [", 1)
    return write_template(shipped / NAME, {**TINY, "experiment.py": program, "offline.toml": PLAYBOOK})
