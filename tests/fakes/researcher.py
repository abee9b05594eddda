"""A capable model for the provider's double: it reads what it is asked, as a real one would, and answers in kind.

It goes by the words of the request and by the tool's schema, for a model sees nothing else. It makes the slips that
models make, one of each kind: an edit that breaks, a typed number, a work that does not exist.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tests.fakes import provider
from tests.fakes.provider import Asked

SCORE = {"value": 6, "reason": "An ordinary idea that the metrics can judge."}
IDEA = {
    "name": "cosine_noise_schedule",
    "title": "A Cosine Noise Schedule for Two-Dimensional Shapes",
    "experiment": "Replace the linear noise schedule by a cosine one and compare the divergence at equal updates.",
    "interestingness": SCORE,
    "feasibility": SCORE,
    "novelty_score": SCORE,
    "kind": "improvement",
    "hypothesis": "A schedule whose last timestep holds almost no signal lowers the mean KL divergence.",
    "metric": "kl_divergence",
    "expected": "lower",
    "changes": ["schedule"],
}
BLOCK = "experiment.py\n```python\n<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n```\n"
BROKEN = BLOCK.format(
    old="            betas = torch.linspace(1e-4, 0.02, steps)",
    new="            angle = (torch.linspace(0, 1, steps + 1) + 0.008) / 1.008 * math.pi / 2\n"
    "            kept = torch.cosine(angle) ** 2\n"
    "            betas = (1 - kept[1:] / kept[:-1]).clamp(max=0.999)",
)
MENDED = BLOCK.format(old="            kept = torch.cosine(angle) ** 2", new="            kept = torch.cos(angle) ** 2")
LABELS = BLOCK.replace("experiment.py", "plot.py").format(
    old='    "run_0": "Baseline",', new='    "run_0": "Baseline",\n    "run_1": "Cosine schedule",'
)
REVIEW = {
    "summary": "The paper screens a cosine noise schedule for small diffusion models and reports the outcome plainly.",
    "strengths": ["The comparison was registered before the first run."],
    "weaknesses": ["Few seeds, small data sets, and no confirmation on fresh ones."],
    "originality": 2,
    "quality": 3,
    "clarity": 3,
    "significance": 2,
    "questions": ["Does the difference stay with more timesteps?"],
    "limitations": ["Only two-dimensional data."],
    "ethical_concerns": False,
    "soundness": 3,
    "presentation": 3,
    "contribution": 2,
    "overall": 4,
    "confidence": 4,
    "decision": "Reject",
}
SECTIONS = {
    "introduction": r"""
Diffusion models draw samples by undoing noise in many small steps [[cite: denoising diffusion probabilistic models]].
How that noise is spread over the steps is a choice that is often taken over without a second thought. For small models
and short training, the choice may matter more than it does for images. We ask whether a cosine schedule lowers the
divergence on four two-dimensional shapes when everything else stays as it is. The question is small enough to be
answered with a registered comparison. Our contributions are:
\begin{itemize}
\item a comparison of two noise schedules at equal updates, registered before the first run;
\item numbers that can be traced to signed records; and
\item a plain report of an inconclusive outcome.
\end{itemize}
""",
    "background": r"""
A forward process adds Gaussian noise to data over $T$ timesteps, and a network learns to predict that noise
[[cite: denoising diffusion probabilistic models]]. The share of the signal's variance that is left at timestep $t$ is
written $\bar\alpha_t$. A cosine schedule destroys information more evenly
[[cite: improved denoising diffusion probabilistic models]].

\subsection{Problem setting}
Points are drawn from an unknown density on the plane. The model is trained on a fixed sample of them. We assume that
the noise is independent over coordinates and timesteps.
""",
    "method": r"""
The baseline lets $\beta_t$ rise along a line. We replace it by the schedule that follows from
\begin{equation}
  \bar\alpha_t = \frac{f(t)}{f(0)}, \qquad f(t) = \cos^2\left(\frac{t/T + s}{1 + s} \cdot \frac{\pi}{2}\right) ,
\end{equation}
with $s = 0.008$, and clip each $\beta_t$ from above. Network, loss, optimiser and the number of updates are those of
the baseline. Nothing else is changed in the code.
""",
    "experimental_setup": r"""
Both arms train one network for each data set and seed. The data are circle, dino, line and moons. The primary metric is
the divergence between held-out points and samples, which the platform's own evaluator computes. [[table: setup]] The
comparison was written down before the first run was started, as Table~\ref{tab:setup} repeats it.
""",
    "results": r"""
The registered comparison ends inconclusive by its rule. [[table: results]] The baseline reaches a divergence of
[[num: run_0.{metric}.mean]], and the cosine schedule one of [[num: run_1.{metric}.mean]]. {slip} A difference of
this size may be noise, since only a few seeds were run. {figures} Another data set or longer training could turn the
order round.
""",
    "related_work": r"""
Schedules that keep signal in their last timestep are at odds with samplers that start from pure noise
[[cite: common diffusion noise schedules and sample steps are flawed]]. That work changes the end of the schedule,
while the present paper changes its shape and leaves the sampler alone. {slip} Others learn the schedule along with the
network [[cite: variational diffusion models]], which needs more updates than this study has.
""",
    "limitations": r"""
The data have two dimensions and the networks are small. Few seeds were run, and none of them is fresh. Only one number
of timesteps was tried. A screen on a development set confirms nothing.
""",
    "conclusion": r"""
We replaced a linear noise schedule by a cosine one and measured both under equal conditions. The outcome of the study
is inconclusive. A next experiment should repeat the comparison with fresh seeds on data that nobody has looked at, and
should vary the number of timesteps.
""",
    "abstract": r"""
Diffusion models depend on how noise is spread over their timesteps, and small models may depend on it more than large
ones. It is hard to say so from experience, because published schedules were tuned for images. We compare a cosine
schedule with a linear one on four two-dimensional shapes, at equal updates and with a comparison that was registered
beforehand. The cosine schedule reaches a divergence of [[num: run_1.{metric}.mean]] where the baseline has
[[num: run_0.{metric}.mean]]. The outcome is inconclusive, so the schedule is neither recommended nor ruled out.
""",
}
SLIPS = {
    "results": "This is an improvement of 12.34 percent.",
    "related_work": "A hidden precursor exists [[cite: zebra stripes of quantum teapots in antarctica]].",
}
FIGURE = "Figure~\\ref{{fig:{stem}}} shows what the {words} look like. [[figure: {file}]]"


class Researcher:
    """Answers a request; `roles` holds what it took each one for."""

    def __init__(self) -> None:
        self.roles: list[str] = []

    def __call__(self, asked: Asked) -> provider.Reply:
        """Answer as the provider does, with as many tokens as the texts are long."""
        role, answer = self._answer(asked.body)
        self.roles.append(role)
        said = answer if isinstance(answer, str) else json.dumps(answer)
        usage = {"input_tokens": len(json.dumps(asked.body)) // 4, "output_tokens": len(said) // 4 + 1}
        return provider.text(answer, **usage) if isinstance(answer, str) else provider.tool(answer, **usage)

    def _answer(self, body: dict[str, Any]) -> tuple[str, str | dict[str, Any]]:
        prompt = _prompt(body)
        tools = body.get("tools", [])
        if tools:
            return _filled_in(set(tools[0]["input_schema"]["properties"]), prompt)
        if "You carry out a registered research idea" in prompt:
            return "coder", _edit(prompt)
        if "draws the figures for" in prompt:
            return "plot", f"I name the run in the figures.\n\n{LABELS}"
        if "laboratory notebook" in prompt:
            return "notes", "The cosine schedule was trained once. The difference to the baseline may be noise."
        if "Give one title" in prompt:
            return "title", "A Cosine Noise Schedule for Small Shapes: An Inconclusive Screen"
        if found := re.search(r"^Write the part “(\w+)”", prompt, re.MULTILINE):
            return f"section {found[1]}", _section(found[1], prompt, slip=True)
        if found := re.search(r"^The part “(\w+)” of the paper, as it stands", prompt, re.MULTILINE):
            return f"refine {found[1]}", _refined(found[1], prompt)
        raise AssertionError(f"nobody knows what this asks for: {prompt[:400]}")


def _prompt(body: dict[str, Any]) -> str:
    """Return what the last message with words of the task says; a coder's program adds messages of its own."""
    last = body["messages"][-1]["content"]
    return last if isinstance(last, str) else "".join(block.get("text", "") for block in last)


def _filled_in(fields: set[str], prompt: str) -> tuple[str, dict[str, Any]]:
    if "overall" in fields:
        return "review", REVIEW
    if "exhausted" in fields:
        return ("reflection", {**IDEA, "done": True}) if "thinking it over" in prompt else ("idea", IDEA)
    if "query" in fields:
        first = "This is search 1 " in prompt
        return "novelty_query", {"query": "cosine noise schedule denoising diffusion"} if first else {}
    if "points" in fields:
        point = {
            "kind": "implemented",
            "file": "experiment.py",
            "sentence": "The schedule is replaced in NoiseSchedule.",
        }
        return "fidelity", {"points": [point], "changes": ["architecture"]}
    if "notes" in fields:
        files = [one["file"] for one in _facts(prompt)["figures"]]
        return "drawing", {
            "notes": [{"file": file, "note": "Both runs are drawn beside one another."} for file in files]
        }
    if "work" in fields:
        return "novelty_decision", {"decision": "novel", "reason": "Near works study images.", "work": ""}
    raise AssertionError(f"nobody knows this form: {sorted(fields)}")


def _edit(prompt: str) -> str:
    failed = "AttributeError" in prompt.partition("How the last attempt at this run failed")[2]
    heading = "RUN: Cosine schedule | The cosine noise schedule replaces the linear one.\n\n"
    return heading + (MENDED if failed else BROKEN)


def _facts(prompt: str) -> Any:
    return json.loads(prompt.partition("<facts>\n")[2].partition("\n</facts>")[0])


def _section(name: str, prompt: str, *, slip: bool) -> str:
    facts = _facts(prompt)
    figures = " ".join(
        FIGURE.format(stem=one["file"].rsplit(".", 1)[0], words=one["file"].rsplit(".", 1)[0].replace("_", " "), **one)
        for one in facts["figures"]
    )
    text = SECTIONS[name].replace("{metric}", facts["metric"]).replace("{figures}", figures)
    return text.replace("{slip}", SLIPS.get(name, "") if slip else "").strip()


def _refined(name: str, prompt: str) -> str:
    if "What is wrong with it" not in prompt:
        return prompt.partition("<draft>\n")[2].partition("\n</draft>")[0]
    return _section(name, prompt, slip=False)
