"""What a template's profiles cost and come to: seconds, samples a second, memory, metrics beside published ones.

    python bench/templates.py --template 2d_diffusion --profile cpu
    python bench/templates.py --template 2d_diffusion --profile gpu --seeds 20 --copies 1 2 4 8
    fumehood bench templates --template 2d_diffusion --profile tiny

Runs a template's own programs as a run, a query and an evaluation would, one after the other and without a sandbox:
Python with what the template imports is all that it needs, so it goes where an accelerator is. `--copies` runs the
profile's experiment so many times at once on the same device, to see what sharing it gains. `--prepare`, `--argument`,
`--query` and `--evaluate` add arguments of a program, such as `--prepare=--transform=off` for a comparison with
published figures, or a few steps of a profile that is too large for the machine. The day's JSON gathers what was
measured one call after the other.

`bare` is one forward pass, one backward pass and one update of one model of the template's, with nothing else;
`ratio` is what a model's step of the experiment costs in that unit. Memory is the largest that a process had; a
device's is the most that all processes had on it, as nvidia-smi tells it ten times a second, less what was there
before.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DRIVERS = ROOT / "fumehood/services/query_driver"
RESULTS = ROOT / "bench/results"
KEY = bytes(range(32))


class Published(NamedTuple):
    """What three published baselines had at most (The AI Scientist, v1), of one metric."""

    metric: str
    unit: str
    size: float
    """Of their unit, in ours."""
    profiles: tuple[str, ...]
    """Those that have the published sizes."""
    most: Mapping[str, float]
    is_of_fetched_data: bool = False


PUBLISHED = {
    "2d_diffusion": Published(
        "kl_as_published",
        "bits",
        1.0,
        ("cpu", "gpu"),
        {"circle": 0.36, "dino": 1.1, "line": 0.17, "moons": 0.095},
    ),
    "grokking": Published(
        "steps_to_99",
        "updates",
        1.0,
        ("gpu",),
        {"x_div_y": 4470, "x_minus_y": 4910, "x_plus_y": 2960, "permutation": 7500},
    ),
    "nanogpt": Published(
        "best_val_loss",
        "nats",
        1.0,
        ("gpu",),
        {"shakespeare_char": 1.466, "enwik8": 1.006, "text8": 0.980},
        is_of_fetched_data=True,
    ),
    "nanogpt_lite": Published(
        "best_val_loss", "nats", 1.0, ("gpu",), {"shakespeare_char": 1.466}, is_of_fetched_data=True
    ),
}
_GPT = """
model = experiment.GPT(config, 65).to(device)
optimiser = experiment.make_optimiser(model, config)
tokens = torch.randint(65, (config.batch_size, config.block_size), device=device)
def step():
    optimiser.zero_grad()
    with experiment.mixed_precision(tokens.device):
        logits = model(tokens)
    F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten()).backward()
    optimiser.step()
"""
BARE = {
    "2d_diffusion": """
model = experiment.Denoiser(config).to(device)
optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
points = torch.randn(config.train_batch_size, 2, device=device)
t = torch.randint(config.num_timesteps, (config.train_batch_size,), device=device)
def step():
    optimiser.zero_grad()
    F.mse_loss(model(points, t), points).backward()
    optimiser.step()
""",
    "grokking": """
model = experiment.Transformer(config, 97).to(device)
optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
pairs = torch.randint(97, (config.train_batch_size, 2), device=device)
def step():
    optimiser.zero_grad()
    F.cross_entropy(model(pairs), pairs[:, 0]).backward()
    optimiser.step()
""",
    "nanogpt": _GPT,
    "nanogpt_lite": _GPT,
}
"""By template: one model's forward and backward pass and update, as `step`."""
AS_PUBLISHED = """
import json, math, sys
from pathlib import Path
import numpy as np
from scipy.spatial import cKDTree
train, samples, seeds, told = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","), {}
for path in sorted(train.glob("*.npz")):
    points = np.load(path)["points"].astype(float)
    among = cKDTree(points).query(points, k=[6], p=np.inf, workers=-1)[0]
    values = []
    for seed in seeds:
        drawn = np.load(samples / f"samples_{path.stem}_{seed}.npy").astype(float)
        towards = cKDTree(drawn).query(points, k=[5], p=np.inf, workers=-1)[0]
        nats = 2 * np.mean(np.log(towards / among)) + math.log(len(drawn) / (len(points) - 1))
        values.append(nats / math.log(2))
    told[path.stem] = {"final_info_dict": {"kl_as_published": values}}
print(json.dumps(told))
"""
"""The published estimate of KL(data || samples): against the training points, by the maximum norm, unlike ours."""
TURN, LARGE = 20, {"nanogpt": 3, "nanogpt_lite": 3}
"""Steps that are timed together; fewer of a model that takes a second for each."""
TIMED = """
import time, torch, experiment
from torch.nn import functional as F
config = experiment.Config(**CONFIG)
device = experiment.choose_device(config)
STEP
def wait():
    if device == "cuda":
        torch.cuda.synchronize()
for _ in range(TURN):
    step()
wait()
best = []
for _ in range(10):
    begun = time.perf_counter()
    for _ in range(TURN):
        step()
    wait()
    best.append((time.perf_counter() - begun) / TURN)
print(sorted(best)[len(best) // 2] * 1000)
"""


@dataclass
class Used:
    """What a program took."""

    seconds: float
    peak_mib: float
    processor_s: float = 0.0
    """Of all its threads, which says more than the wall's clock where others use the machine."""
    device_mib: float = 0.0
    output: str = ""


@dataclass
class Device:
    """What all processes had on the device at most, while somebody looks."""

    most: float = 0.0
    before: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Read it once."""
        asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        told = subprocess.run(asked, capture_output=True, text=True, check=False)
        if told.returncode == 0 and told.stdout.strip():
            self.most = max(self.most, float(told.stdout.split()[0]))

    def watch(self) -> None:
        """Read it until told that it is over."""
        while not self.over.wait(0.1):
            self.look()


@contextmanager
def watched() -> Iterator[Device]:
    """Look at the device's memory for the block, where there is one."""
    device = Device()
    if shutil.which("nvidia-smi") is None:
        yield device
        return
    device.look()
    device.before, device.most = device.most, 0.0
    watching = threading.Thread(target=device.watch)
    watching.start()
    try:
        yield device
    finally:
        device.over.set()
        watching.join()


def ran(*words: str, cwd: Path, env: Mapping[str, str], copies: int = 1) -> Used:
    """Carry a program out, so many times at once, and return what the slowest and the largest took."""
    with watched() as device:
        begun = time.perf_counter()
        running = []
        for copy in range(copies):
            own = [word.replace("{copy}", str(copy)) for word in words]
            log = (cwd / f"log_{copy}.txt").open("wb")
            running.append(
                (subprocess.Popen([sys.executable, *own], cwd=cwd, env=dict(env), stdout=log, stderr=log), log)
            )
        peaks, processor_s = [], 0.0
        for process, log in running:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            log.close()
            peaks.append(usage.ru_maxrss / 1024)
            processor_s += usage.ru_utime + usage.ru_stime
        seconds = time.perf_counter() - begun
    said = (cwd / "log_0.txt").read_text(errors="replace")
    if any(process.returncode for process, _ in running):
        raise SystemExit(f"{' '.join(words[:2])} ended with an error: {said[-2000:]}")
    return Used(seconds, max(peaks), processor_s, max(0.0, device.most - device.before), said)


def names() -> list[str]:
    """Return the shipped templates' names."""
    return sorted(path.parent.name for path in (ROOT / "templates").glob("*/template.toml"))


def profiles(name: str) -> list[str]:
    """Return the names of a template's profiles."""
    return list(tomllib.loads((ROOT / "templates" / name / "template.toml").read_text())["profiles"])


def measure(
    name: str, profile_name: str, count: int, copies: list[int], further: Mapping[str, list[str]], *, beside_bare: bool
) -> dict[str, Any]:
    """Return a profile's figures.

    Args:
        name: The template's.
        profile_name: The profile's.
        count: How many seeds; 0 takes the profile's own.
        copies: How many experiments run at once, one measurement each; the first one's outputs are judged.
        further: Arguments beyond the profile's, by program: `prepare`, `experiment`, `query`, `evaluate`.
        beside_bare: Time bare steps, too.
    """
    source = ROOT / "templates" / name
    words = tomllib.loads((source / "template.toml").read_text())
    profile = words["profiles"][profile_name]
    seeds = list(range(1, count + 1)) if count else profile["seeds"]
    told = ",".join(map(str, seeds))
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        work = folder / "work"
        shutil.copytree(source, work, ignore=shutil.ignore_patterns("__pycache__", "prepare.py", "evaluate.py"))
        (folder / "key").write_bytes(KEY)
        env = {**_inherited(), "MPLBACKEND": "Agg", "FUMEHOOD_SEEDS": told, "FUMEHOOD_DATA": str(folder / "train")}
        env["FUMEHOOD_INPUTS"] = str(folder / "inputs")
        prepare = [
            *words.get("prepare", {}).get("arguments", []),
            *profile.get("prepare_arguments", []),
            *further["prepare"],
        ]
        drawn = [
            ran(
                *(str(source / "prepare.py"), "--arm=screen", f"--part={part}", f"--key={folder / 'key'}"),
                *(f"--seeds={told}", f"--out_dir={folder / part}", *prepare),
                cwd=folder,
                env=env,
            )
            for part in ("train", "answers", *(("inputs",) if words["query"]["kind"] == "predict" else ()))
        ]
        own = [*profile.get("arguments", []), *further["experiment"]]
        runs = {
            number: ran(
                "experiment.py", f"--out_dir={folder}/run_{number}_{{copy}}", *own, cwd=work, env=env, copies=number
            )
            for number in copies
        }
        first = folder / f"run_{copies[0]}_0"
        counts = json.loads((first / "parameters.json").read_text()) if (first / "parameters.json").exists() else {}
        query = ran(
            *_asking(words["query"], profile.get("query_count", 0), folder),
            *(f"--datasets={','.join(words['datasets'])}", f"--seeds={told}", f"--code={work}", f"--outputs={first}"),
            f"--answers={folder / 'answered'}",
            *profile.get("query_arguments", []),
            *further["query"],
            cwd=work,
            env=env,
        )
        for curve in first.glob("curve_*.npz"):
            shutil.copy(curve, folder / "answered")
        evaluated = ran(
            *(str(source / "evaluate.py"), f"--outputs={folder / 'answered'}", f"--held_out={folder / 'answers'}"),
            *(f"--train={folder / 'train'}", f"--out_dir={folder / 'results'}", f"--seeds={told}"),
            *profile.get("evaluate_arguments", []),
            *further["evaluate"],
            cwd=folder,
            env=env,
        )
        metrics = _together(
            json.loads((first / "final_info.json").read_text()),
            json.loads((folder / "results" / "metrics.json").read_text()),
            _as_published(name, folder, told, env),
        )
        bare_ms = bare(name, own, work, env) if beside_bare else None
    models = len(words["datasets"]) * len(seeds)
    return {
        "template": name,
        "profile": profile_name,
        "arguments": {program: words for program, words in further.items() if words},
        "seeds": len(seeds),
        "models": models,
        "prepare_s": round(sum(one.seconds for one in drawn), 2),
        "run": [_run(number, used, models, counts) for number, used in runs.items()],
        "query_s": round(query.seconds, 2),
        "query_processor_s": round(query.processor_s, 2),
        "query_device_mib": round(query.device_mib),
        "evaluate_s": round(evaluated.seconds, 2),
        "bare_ms": bare_ms,
        "ratio": _ratio(runs[copies[0]], models, counts, bare_ms),
        "metrics": _metrics(metrics, _published(name, profile_name, source)),
    }


def _asking(query: Mapping[str, Any], count: int, folder: Path) -> list[str]:
    """Return the platform's program that asks a model, with what only its kind needs."""
    if query["kind"] != "characters":
        how = [f"--kind={query['kind']}", f"--count={count}", f"--inputs={folder / 'inputs'}"]
        return [str(DRIVERS / "driver.py"), *how]
    shutil.copytree(folder / "answers", folder / "held_out")  # it removes what it has read
    how = [
        f"--{name}={query.get(name, usual)}" for name, usual in (("block", 256), ("streams", 32), ("tolerance", 1e-3))
    ]
    return [str(DRIVERS / "characters.py"), *how, f"--held_out={folder / 'held_out'}"]


def _together(own: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics that the experiment gives itself beside others, by data set."""
    return {
        dataset: {
            "final_info_dict": {
                metric: values
                for each in (own, *others)
                for metric, values in each.get(dataset, {}).get("final_info_dict", {}).items()
            }
        }
        for dataset in own
    }


def _as_published(name: str, folder: Path, seeds: str, env: Mapping[str, str]) -> dict[str, Any]:
    """Return the published estimate by data set, of the template that has one of its own."""
    if name != "2d_diffusion":
        return {}
    (folder / "as_published.py").write_text(AS_PUBLISHED)
    asked = ran("as_published.py", str(folder / "train"), str(folder / "answered"), seeds, cwd=folder, env=env)
    return dict(json.loads(asked.output))


def _published(name: str, profile: str, source: Path) -> Published | None:
    """Return what a profile can be held against: one with the published sizes, and where it matters with its data."""
    found = PUBLISHED.get(name)
    if found is None or profile not in found.profiles or (found.is_of_fetched_data and not (source / "data").is_dir()):
        return None
    return found


def _inherited() -> dict[str, str]:
    return dict(os.environ)  # noqa: TID251 - a child inherits what a command has


def _run(copies: int, used: Used, models: int, counts: Mapping[str, float]) -> dict[str, Any]:
    seen = counts.get("samples_seen")
    return {
        "copies": copies,
        "seconds": round(used.seconds, 2),
        "processor_s": round(used.processor_s, 2),
        "samples_per_s": round(seen * models * copies / used.seconds) if seen else None,
        "peak_mib": round(used.peak_mib),
        "device_mib": round(used.device_mib),
    }


def _ratio(used: Used, models: int, counts: Mapping[str, float], bare_ms: float | None) -> float | None:
    if not bare_ms or not counts.get("updates"):
        return None
    return round(used.seconds * 1000 / counts["updates"] / models / bare_ms, 3)


def bare(name: str, arguments: list[str], work: Path, env: Mapping[str, str]) -> float | None:
    """Return the milliseconds of one model's bare step; None for a template that nobody wrote one for."""
    if name not in BARE:
        return None
    given = dict(one.removeprefix("--").split("=", 1) for one in arguments if "=" in one)
    told = f"CONFIG, TURN = {_typed(given)!r}, {LARGE.get(name, TURN)}"
    program = f"{told}\n{TIMED.replace('STEP', BARE[name])}"
    (work / "bare.py").write_text(program)
    return float(ran("bare.py", cwd=work, env=env).output.split()[-1])


def _typed(given: Mapping[str, str]) -> dict[str, Any]:
    typed: dict[str, Any] = {}
    for key, text in given.items():
        try:
            typed[key] = int(text)
        except ValueError:
            try:
                typed[key] = float(text)
            except ValueError:
                typed[key] = text
    return typed


def _metrics(metrics: Mapping[str, Any], published: Published | None) -> list[dict[str, Any]]:
    rows = []
    for dataset, entry in metrics.items():
        for metric, values in entry["final_info_dict"].items():
            compared = published if published and metric == published.metric else None
            seen = [value / (compared.size if compared else 1.0) for value in values]
            rows.append(
                {
                    "dataset": dataset,
                    "metric": metric,
                    "mean": statistics.fmean(seen),
                    "sd": statistics.stdev(seen) if len(seen) > 1 else None,
                    "published": compared.most.get(dataset) if compared else None,
                    "unit": compared.unit if compared else None,
                }
            )
    return rows


def table(told: Mapping[str, Any]) -> Iterator[str]:
    """Return a profile's figures as lines."""
    changed = told["arguments"] or ""
    yield f"{told['template']} {told['profile']}: {told['models']} models of {told['seeds']} seeds {changed}"
    yield f"  prepare {told['prepare_s']} s, query {told['query_s']} s, evaluate {told['evaluate_s']} s"
    for run in told["run"]:
        speed = "" if run["samples_per_s"] is None else f" {run['samples_per_s']:,} samples/s,"
        yield (
            f"  {run['copies']} at once: {run['seconds']} s, {run['processor_s']} s of the processor,{speed}"
            f" {run['peak_mib']} MiB, {run['device_mib']} MiB on the device"
        )
    if told["bare_ms"]:
        yield f"  bare step {told['bare_ms']:.3f} ms; a model's step costs {told['ratio']} of it"
    for row in told["metrics"]:
        spread = "" if row["sd"] is None else f" ± {row['sd']:.4f}"
        beside = "" if row["published"] is None else f", published at most {row['published']} ({row['unit']})"
        yield f"  {row['dataset']} {row['metric']}: {row['mean']:.4f}{spread}{beside}"


def main() -> int:
    """Measure, print, and keep the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--template", action="append", help="a shipped template's name; all when left out")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--seeds", type=int, default=0, help="how many; the profile's own when left out")
    parser.add_argument("--copies", type=int, nargs="+", default=[1], help="how many run at once, one after the other")
    parser.add_argument("--prepare", action="append", default=[], help="a further argument of prepare.py")
    parser.add_argument("--argument", action="append", default=[], help="a further argument of experiment.py")
    parser.add_argument("--query", action="append", default=[], help="a further argument of the query")
    parser.add_argument("--evaluate", action="append", default=[], help="a further argument of evaluate.py")
    parser.add_argument("--no_bare", action="store_true", help="time no bare steps: those of a large model take long")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    told: dict[str, Any] = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "device": _device()},
        "profiles": [],
    }
    further = {
        "prepare": asked.prepare,
        "experiment": asked.argument,
        "query": asked.query,
        "evaluate": asked.evaluate,
    }
    for name in asked.template or names():
        figures = measure(name, asked.profile, asked.seeds, asked.copies, further, beside_bare=not asked.no_bare)
        told["profiles"].append(figures)
        print("\n".join(table(figures)), flush=True)
    asked.results.mkdir(parents=True, exist_ok=True)
    place = asked.results / f"templates-{asked.profile}-{told['at'][:10]}.json"
    told["profiles"] = [*_earlier(place, told["profiles"]), *told["profiles"]]
    place.write_text(json.dumps(told, indent=2) + "\n")
    print(f"written to {place}")
    return 0


def _earlier(place: Path, anew: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was measured that day before, but for what was measured anew."""
    if not place.exists():
        return []
    again = [(one["template"], one["arguments"]) for one in anew]
    kept = json.loads(place.read_text())["profiles"]
    return [one for one in kept if (one["template"], one["arguments"]) not in again]


def _device() -> str:
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    told = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return told.stdout.strip() or "cpu"


if __name__ == "__main__":
    sys.exit(main())
