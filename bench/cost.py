"""What the models of a direction cost: as it is paid, without a provider's cache, and in the flow of the original.

    .venv/bin/python -m bench.cost --ideas 3 --runs 5

The whole pipeline runs in this process, from ideas to reviewed papers: real requests over HTTP through the gateway to
the double of a provider, which answers as a capable model would (`tests/fakes/researcher.py`) and keeps what it is
asked to by the provider's own rules (`tests/fakes/caching.py`). Programs are functions, so all calls follow one another
within the five minutes that a cache lives; where a run trains for longer, the coder's next call finds nothing kept.
A token is four characters. Dollars are those of the model in `fumehood/gateway/models.toml`.

`paid` is the ledger's sum. `uncached` is the same calls with every token of a prompt at the full price. `original` is
what the AI Scientist (v1) sends for the same ideas and papers, put together from what is known of it and from the sizes
measured here, and nothing else:

- an idea: one call with the system text, the task, the whole of `experiment.py` and all ideas before it, then as
  many reflections as here (it has two at most) in the same chat, each of which sends the chat so far again;
- its novelty: as many rounds as here, each with the task, the whole of `experiment.py`, the idea and, from the second
  on, ten works with their abstracts (the index's own works, at their mean length);
- code, plots, notes and writing: its logs of ten published papers (the coder's calls alone) say 34 to 69 calls, 0.59 to
  1.78 million tokens in and 41 to 87 thousand out for a paper; their means are taken;
- citations: for each work that the paper here cites, one call with the draft and one with the draft and ten works;
- a review: five of one paper, one that sums them up, and four reflections, each of which sends the chat so far again.

The double's answers are shorter than a real model's, and the original's logs are of real ones; so the ratios of what
the prompts alone cost are told too, and those are the ones to go by. What is not known is left out, such as the length
of the example review that each of its reviews is shown, and it is paid at the full price, since that system asks for no
cache. So `original` is rather too low than too high.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fumehood.domain.execution import Kind, Spec, Verdict
from fumehood.gateway.app import create_app
from fumehood.gateway.exchange import Desk
from fumehood.gateway.models import Model, Models
from fumehood.gateway.prices import Tokens
from fumehood.gateway.upstreams.anthropic import AnthropicUpstream
from fumehood.literature.index import load
from fumehood.llm.client import GatewayModel
from fumehood.llm.search_replace import SearchReplaceCoder
from fumehood.services import usage
from tests.fakes import provider, researcher
from tests.fakes.caching import Kept, tokens_of
from tests.fakes.laboratory import PNG, Laboratory, act
from tests.fakes.sandbox import Did, InstantSandbox

RESULTS = Path("bench/results")
TEMPLATE = Path(__file__).resolve().parents[1] / "templates" / "2d_diffusion"
MODEL = "claude-sonnet-4-6"
SECRET = b"a secret of this measurement alone"
DATASETS = ("circle", "dino", "line", "moons")
ROUNDS = 3
"""Searches of each novelty check."""
LOGGED = (
    (64, 1.30e6, 72e3), (34, 0.83e6, 64e3), (37, 0.67e6, 64e3), (47, 0.59e6, 41e3), (37, 0.74e6, 64e3),
    (67, 1.51e6, 87e3), (47, 1.07e6, 63e3), (69, 1.78e6, 87e3), (63, 1.09e6, 42e3), (50, 1.07e6, 85e3),
)  # fmt: skip
"""The coder's calls, tokens in and tokens out of ten papers of the original, by its own logs."""
WORKS, REVIEWS, REVIEW_REFLECTIONS = 10, 5, 4
PLANS = (
    (
        "cosine_noise_schedule",
        "A Cosine Noise Schedule for Two-Dimensional Shapes",
        "Replace the linear noise schedule by a cosine one and compare the divergence at equal updates.",
    ),
    (
        "heavier_tails",
        "Heavier Tails in the Forward Process",
        "Draw forward perturbations from Student distributions; watch whether outliers vanish around moons.",
    ),
    (
        "gated_residuals",
        "Gated Residual Blocks for Tiny Denoisers",
        "Multiply every hidden layer with learned scalars beginning at zero, keeping parameter counts alike.",
    ),
    (
        "timestep_dropout",
        "Training without Some Timesteps",
        "Skip random thirds while fitting, sample everywhere afterwards, and judge interpolation ability.",
    ),
    (
        "averaged_weights",
        "Slower Averages for Sampling",
        "Keep several exponential copies with distinct decay constants; choose none, report each separately.",
    ),
)


class Busy(researcher.Researcher):
    """The researcher with an idea for each place in the archive, a change for each run and three searches."""

    def _answer(self, body: dict[str, Any]) -> tuple[str, str | dict[str, Any]]:
        role, answer = super()._answer(body)
        asked = researcher._prompt(body)
        if role in {"idea", "reflection"} and isinstance(answer, dict):
            ahead = re.search(r"Propose idea (\d+) of", asked)
            known = [name for name, _, _ in PLANS if f'"{name}"' in asked.partition("Your idea, round")[2]]
            name, title, plan = next(one for one in PLANS if one[0] in known) if known else PLANS[int(ahead[1]) - 1]  # type: ignore[index]
            answer = {**answer, "name": name, "title": title, "experiment": plan}
        if role == "novelty_query":
            number = int(re.findall(r"This is search (\d+) ", asked)[-1])
            answer = {"query": f"noise schedule denoising diffusion {number}"} if number <= ROUNDS else {}
        if role == "coder" and (found := re.search(r"This is run (\d+) ", asked)) and int(found[1]) > 1:
            answer = _offset(int(found[1]), asked)
        return role, answer


def _offset(run: int, asked: str) -> str:
    """Return an edit that gives the schedule another offset."""
    line = re.findall(r"^ +angle = \(torch\.linspace.*$", asked, re.MULTILINE)[-1]
    edit = researcher.BLOCK.format(old=line, new=re.sub(r"\+ [\d.]+\)", f"+ 0.0{run}1)", line))
    return f"RUN: Offset of run {run} | The offset of the cosine schedule becomes 0.0{run}1.\n\n{edit}"


def programs(spec: Spec) -> Did:
    """Do what the template's programs do."""
    seeds = spec.environment.get("FUMEHOOD_SEEDS", "1,2,3").split(",")
    if spec.kind is Kind.RUN:
        code = next(Path(item.source).read_text() for item in spec.inputs if item.path == "work/experiment.py")
        if "torch.cosine(" in code:
            told = "Traceback (most recent call last):\nAttributeError: module 'torch' has no attribute 'cosine'"
            return Did(verdict=Verdict.FAILED, output=told)
        folder = next(word for word in spec.command if word.startswith("--out_dir=")).removeprefix("--out_dir=")
        info = _results({"train_loss": 0.6, "training_time": 41.0}, seeds)
        lines = "\n".join(f"{name} seed {seed}: step 10000 loss 0.6{seed}" for name in DATASETS for seed in seeds)
        return Did(files={f"{folder}/final_info.json": info, f"{folder}/parameters.json": b"{}"}, output=lines)
    if spec.kind is Kind.EVALUATE:
        return Did(files={"metrics.json": _results({"kl_divergence": 0.5, "reverse_kl": 0.4, "copying": 0.1}, seeds)})
    if spec.kind is Kind.PLOT:
        return Did(files={"generated_samples.png": PNG, "kl_by_run.png": PNG, "train_loss.png": PNG})
    if spec.kind in {Kind.PREPARE, Kind.COMPILE}:
        return act(spec)
    return Did(files={"samples_circle_1.npy": b"samples"})


def _results(metrics: dict[str, float], seeds: list[str]) -> bytes:
    values = {name: [value + int(seed) / 1000 for seed in seeds] for name, value in metrics.items()}
    means = {name: statistics.fmean(numbers) for name, numbers in values.items()}
    return json.dumps({dataset: {"means": means, "final_info_dict": values} for dataset in DATASETS}).encode()


@dataclass(frozen=True)
class Spent:
    """Calls, tokens in full, tokens from a cache, tokens written, dollars."""

    calls: float = 0
    input: float = 0
    cached: float = 0
    output: float = 0
    usd: float = 0.0


def template() -> dict[str, str]:
    """Return the shipped template's files."""
    files = {path.relative_to(TEMPLATE).as_posix(): path for path in TEMPLATE.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in files.items() if "__pycache__" not in name}


def measure(lab: Laboratory, ideas: int, runs: int) -> dict[str, Any]:
    """Carry a direction out and return what it cost."""
    double = provider.Provider(Busy(), Kept())
    with provider.serving(double.app) as url:
        upstream = AnthropicUpstream(url, key=lambda: provider.KEY)
        desk = Desk(
            store=lab.store, artifacts=lab.artifacts, clock=lab.clock, secret=SECRET,
            upstreams={"anthropic": upstream}, models=Models.shipped(),
        )  # fmt: skip
        with provider.serving(create_app(desk)) as gateway:
            model = GatewayModel(gateway, SECRET, lab.clock)
            object.__setattr__(lab.write, "model", model)
            object.__setattr__(lab.write, "coder", SearchReplaceCoder(model))
            lab.submit(ideas=ideas, runs=runs, model=MODEL, review_model=MODEL, text="Study noise schedules.")
            lab.go_on()
            model.close()
        upstream.close()
    price = Models.shipped().of(MODEL)
    direction = lab.direction()
    with lab.store.begin(write=False) as tx:
        stages = usage.by_stage(tx, direction.id)
    papers = [one for one in lab.experiments() if "paper.pdf" in one.products]
    told = {
        "model": MODEL, "ideas": len(lab.ideas()), "runs": runs, "papers": len(papers),
        "stages": [_priced(line, price) for line in stages],
        "original": [{"stage": stage, **vars(spent)} for stage, spent in original(lab, stages, price).items()],
    }  # fmt: skip
    return told | {"ratios": _ratios(told, price)}


def _priced(line: dict[str, Any], price: Model) -> dict[str, Any]:
    whole = line["input_tokens"] + line["cached_tokens"]
    return {**line, "uncached_usd": price.cost(Tokens(input=whole, output=line["output_tokens"]))}


def original(lab: Laboratory, stages: list[dict[str, Any]], price: Model) -> dict[str, Spent]:
    """Return what the original's flow sends for the same ideas and papers; the module says how that is known."""
    told = json.loads((TEMPLATE / "prompt.json").read_text())
    code = tokens_of((TEMPLATE / "experiment.py").read_text())
    words = tokens_of(told["system"] + told["task_description"])
    idea = tokens_of(json.dumps(researcher.IDEA))
    works = WORKS * statistics.fmean(_size(work) for work in load())
    ideas, experiments = lab.ideas(), [one for one in lab.experiments() if "latex/main.tex" in one.products]
    proposed = [
        _spent(price, 1, words + code + at * idea + again * idea, idea)
        for at, one in enumerate(ideas) for again in range(one.reflections)
    ]  # fmt: skip
    rounds = sum(int(line["calls"]) for line in stages if line["stage"] == "novelty") - len(ideas)
    query = tokens_of(json.dumps({"query": "noise schedule denoising diffusion"}))
    searched = [
        _spent(price, 1, words + code + idea + (works if at % (ROUNDS + 1) else 0), query) for at in range(rounds)
    ]
    calls, taken, given = (statistics.fmean(column) for column in zip(*LOGGED, strict=True))
    cited, reviewed = [], []
    for one in experiments:
        paper = tokens_of(lab.artifacts.get(one.products["latex/main.tex"]).decode().split(r"\begin{document}")[-1])
        found = lab.artifacts.get(one.products["latex/references.bib"]).decode().count("@")
        cited += [_spent(price, 1, size, query) for _ in range(found) for size in (paper, paper + works)]
        form = tokens_of(json.dumps(researcher.REVIEW))
        reviewed += [_spent(price, 1, paper, form)] * REVIEWS + [_spent(price, 1, REVIEWS * form, form)]
        reviewed += [_spent(price, 1, paper + (at + 1) * form, form) for at in range(REVIEW_REFLECTIONS)]
    return {
        "ideas": _sum(proposed),
        "novelty": _sum(searched),
        "code, plots, notes, writing": _sum([_spent(price, calls, taken, given)] * len(experiments)),
        "citations": _sum(cited),
        "review": _sum(reviewed),
    }


def _size(work: Any) -> int:
    return tokens_of(f"{work.title} {', '.join(work.authors)} {work.venue} {work.year} {work.abstract}")


def _spent(price: Model, calls: float, taken: float, given: float) -> Spent:
    # A call is priced by its own length, not by that of all together.
    usd = calls * price.cost(Tokens(input=round(taken / calls), output=round(given / calls)))
    return Spent(calls=calls, input=taken, output=given, usd=usd)


def _sum(spent: list[Spent]) -> Spent:
    names = ("calls", "input", "cached", "output", "usd")
    return Spent(**{name: round(sum(getattr(one, name) for one in spent), 6) for name in names})


def _ratios(told: dict[str, Any], price: Model) -> dict[str, float]:
    def given(lines: list[dict[str, Any]], name: str) -> float:
        return sum(line[name] for line in lines)

    def answers(lines: list[dict[str, Any]], name: str) -> float:
        return price.rates.output * given(lines, name) / 1e6

    ours, theirs = told["stages"], told["original"]
    paid, uncached, original_usd = given(ours, "usd"), given(ours, "uncached_usd"), given(theirs, "usd")
    prompts = paid - answers(ours, "output_tokens")
    tokens = given(ours, "input_tokens") + given(ours, "cached_tokens")
    return {
        "paid_usd": round(paid, 4),
        "uncached_usd": round(uncached, 4),
        "original_usd": round(original_usd, 4),
        "uncached_to_paid": round(uncached / paid, 2),
        "original_to_paid": round(original_usd / paid, 2),
        "prompts_uncached_to_paid": round((uncached - answers(ours, "output_tokens")) / prompts, 2),
        "prompts_original_to_paid": round((original_usd - answers(theirs, "output")) / prompts, 2),
        "prompt_tokens_original_to_ours": round(given(theirs, "input") / tokens, 2),
    }


def table(told: dict[str, Any]) -> Iterator[str]:
    """Return what it came to as lines."""
    yield f"{told['ideas']} ideas, {told['runs']} runs each, {told['papers']} papers, {told['model']}"
    yield f"{'stage':28} {'calls':>6} {'input':>9} {'cached':>9} {'output':>8} {'paid $':>9} {'uncached $':>11}"
    for line in told["stages"]:
        sizes = f"{line['calls']:6} {line['input_tokens']:9} {line['cached_tokens']:9} {line['output_tokens']:8}"
        yield f"{line['stage']:28} {sizes} {line['usd']:9.4f} {line['uncached_usd']:11.4f}"
    yield "the original's flow for the same work:"
    for line in told["original"]:
        sizes = f"{line['calls']:6.0f} {line['input']:9.0f} {0:9} {line['output']:8.0f}"
        yield f"{line['stage']:28} {sizes} {'':9} {line['usd']:11.4f}"
    yield ", ".join(f"{name} {value}" for name, value in told["ratios"].items())


def main(say: Callable[[str], object] = print) -> int:
    """Measure, print the table and keep it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ideas", type=int, default=3, choices=range(1, len(PLANS) + 1))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fumehood-cost-") as folder:
        lab = Laboratory(Path(folder), files=template(), sandbox=InstantSandbox(programs))
        told = measure(lab, asked.ideas, asked.runs)
        for line in [] if told["papers"] else lab.told().splitlines()[-5:]:
            say(line)
        lab.artifacts.close()
    place = asked.results / f"cost-{time.strftime('%Y-%m-%d')}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    for line in (*table(told), f"written to {place}"):
        say(line)
    return 0 if told["papers"] == told["ideas"] else 1


if __name__ == "__main__":
    sys.exit(main())
