"""A model that drafts templates for the provider's double: good ones, and ones with each fault that a real one has."""

from __future__ import annotations

from typing import Any

from tests.fakes import provider
from tests.fakes.provider import Asked

PREPARE = '''"""Points of a plane: half of them for each arm, by their hash; each seed splits its half by the key."""

import argparse
import hashlib
import hmac
import io
import zipfile
from pathlib import Path

import numpy

SHARE = 0.7


def rows_of(arm):
    with numpy.load(Path(__file__).with_name("data") / "points.npz", allow_pickle=False) as points:
        x, y = points["x"], points["y"]
    half = [hashlib.sha256(row.tobytes()).digest()[0] % 2 == (arm == "confirm") for row in x]
    return x[half], y[half]


def split(key, arm, seed, count):
    drawn = hmac.new(key, f"{arm}/{seed}".encode(), hashlib.sha256).digest()
    order = numpy.random.default_rng(int.from_bytes(drawn, "big")).permutation(count)
    return order[: round(SHARE * count)], order[round(SHARE * count) :]


def write_npz(path, arrays):
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            numpy.lib.format.write_array(buffer, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), buffer.getvalue())


def main():
    parser = argparse.ArgumentParser()
    for name in ("--arm", "--part", "--key", "--seeds", "--out_dir"):
        parser.add_argument(name, required=True)
    asked = parser.parse_args()
    key, out = Path(asked.key).read_bytes(), Path(asked.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    x, y = rows_of(asked.arm)
    arrays = {}
    for seed in map(int, asked.seeds.split(",")):
        train, held_out = split(key, asked.arm, seed, len(y))
        if asked.part == "inputs":
            numpy.save(out / f"plane_{seed}.npy", x[held_out])
        elif asked.part == "train":
            arrays |= {f"x_{seed}": x[train], f"y_{seed}": y[train]}
        else:
            arrays[f"y_{seed}"] = y[held_out]
    if arrays:
        write_npz(out / "plane.npz", arrays)


main()
'''
EVALUATE = '''"""The mean absolute difference between answers and truth."""

import argparse
import json
import sys
from pathlib import Path

import numpy


def read(path, count):
    try:
        with path.open("rb") as file:
            values = numpy.lib.format.read_array(file, allow_pickle=False)
    except Exception:
        sys.exit(f"{path.name} is missing or no plain array.")
    if values.shape != (count,) or not numpy.isfinite(values).all():
        sys.exit(f"{path.name} must hold {count} finite numbers.")
    return values


def main():
    parser = argparse.ArgumentParser()
    for name in ("--outputs", "--held_out", "--train", "--out_dir", "--seeds"):
        parser.add_argument(name, required=True)
    asked = parser.parse_args()
    values = []
    with numpy.load(Path(asked.held_out) / "plane.npz", allow_pickle=False) as held_out:
        for seed in asked.seeds.split(","):
            truth = held_out[f"y_{seed}"]
            answers = read(Path(asked.outputs) / f"predictions_plane_{seed}.npy", len(truth))
            values.append(float(numpy.abs(answers - truth).mean()))
    told = {"plane": {"means": {"error": sum(values) / len(values)}, "final_info_dict": {"error": values}}}
    Path(asked.out_dir).mkdir(parents=True, exist_ok=True)
    (Path(asked.out_dir) / "metrics.json").write_text(json.dumps(told))


main()
'''
EXPERIMENT = '''"""Fits a plane to each seed's points."""

import argparse
import json
import os
import time
from pathlib import Path

import numpy

parser = argparse.ArgumentParser()
parser.add_argument("--out_dir", default="run_0")
parser.add_argument("--penalty", type=float, default=0.0)
asked = parser.parse_args()
out = Path(asked.out_dir)
out.mkdir(parents=True, exist_ok=True)
seconds = []
with numpy.load(Path(os.environ["FUMEHOOD_DATA"]) / "plane.npz", allow_pickle=False) as data:
    for seed in os.environ["FUMEHOOD_SEEDS"].split(","):
        began = time.perf_counter()
        x = numpy.column_stack([data[f"x_{seed}"], numpy.ones(len(data[f"x_{seed}"]))])
        gram = x.T @ x + asked.penalty * numpy.eye(x.shape[1])
        numpy.save(out / f"plane_{seed}.npy", numpy.linalg.solve(gram, x.T @ data[f"y_{seed}"]))
        seconds.append(time.perf_counter() - began)
told = {"plane": {"means": {"fit_time": sum(seconds) / len(seconds)}, "final_info_dict": {"fit_time": seconds}}}
(out / "final_info.json").write_text(json.dumps(told))
'''
SERVE = '''"""The fitted planes."""

from pathlib import Path

import numpy


def load(path, dataset, seed):
    return numpy.load(Path(path) / f"{dataset}_{seed}.npy", allow_pickle=False)


def predict(model, inputs):
    return numpy.column_stack([inputs, numpy.ones(len(inputs))]) @ model
'''
GOOD = {"prepare.py": PREPARE, "evaluate.py": EVALUATE, "experiment.py": EXPERIMENT, "serve.py": SERVE}
MODEL = """import numpy


def fit(x, y, seed):
    return numpy.linalg.lstsq(numpy.column_stack([x, numpy.ones(len(x))]), y, rcond=None)[0]


def predict(model, x):
    return numpy.column_stack([x, numpy.ones(len(x))]) @ model
"""
IDEAS = [
    {
        "name": f"idea_{number}",
        "title": f"Idea {number}",
        "experiment": "Raise the penalty and compare the error on held-out points.",
        "interestingness": 5,
        "feasibility": 9,
        "novelty": 3,
    }
    for number in (1, 2, 3)
]
ABOUT = {
    "title": "A plane through points",
    "task": "Predict the height of points on a plane.\nThe penalty and the features may change.",
    "ideas": IDEAS,
    "assumed": ["The points are drawn independently of each other."],
}


def written(**changed: str) -> dict[str, Any]:
    """Return a draft whose frozen pair the model wrote; `changed` are programs in the place of the good ones."""
    files = {**GOOD, **{name.replace("__", "."): text for name, text in changed.items()}}
    return {
        **ABOUT,
        "sort": "written",
        "datasets": ["plane"],
        "metric": "error",
        "direction": "lower",
        "unit": "",
        "files": [{"path": path, "content": text} for path, text in files.items()],
        "tiny": {"arguments": ["--penalty=0.1"], "minutes": 2},
        "cpu": {"arguments": ["--penalty=0.1"], "minutes": 5},
    }


def functions(table: str, target: str, model: str = MODEL) -> dict[str, Any]:
    """Return a draft that has our frozen pair, and a model of its own."""
    files = [{"path": "model.py", "content": model}] if model else []
    return {**ABOUT, "sort": "functions", "table": table, "target": target, "files": files}


class Drafter:
    """Gives these answers one after the other, the last one over and over; `prompts` holds what it was asked."""

    def __init__(self, *answers: dict[str, Any] | str) -> None:
        self.answers = list(answers)
        self.prompts: list[str] = []

    def __call__(self, asked: Asked) -> provider.Reply:
        """Answer as the provider does."""
        content = asked.body["messages"][0]["content"]
        self.prompts.append(content if isinstance(content, str) else "".join(one["text"] for one in content))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        used = {"input_tokens": 8000, "output_tokens": 3000}
        return provider.text(answer, **used) if isinstance(answer, str) else provider.tool(answer, **used)
