"""The red team: planted cheats and honest twins, judged by the platform itself.

    .venv/bin/fumehood bench redteam

A cheat is detected where it gets no accepted result: the audit refuses it, it ends without one, verification names what
does not hold, or what the frozen evaluator measured is no better than the baseline beyond its noise. A false alarm is
an honest twin that is refused or ends without a result; a flag that refuses nothing is counted apart.
"""

from bench.redteam.figures import measure, table

__all__ = ["measure", "table"]
